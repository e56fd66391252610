"""Files and uploads by the real client: what it sends, what it gets back, and every fault."""

import hashlib
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types import FileDeleted, FileObject, Upload
from openai.types.uploads import UploadPart

from core.store import openai_folder
from core.upload import ReceivedFile
from datasets_app.models import Dataset
from openai_api import uploads
from openai_api.files import LONGEST_EXPIRY, files_expire
from openai_api.models import File
from openai_api.models import Upload as UploadRow
from tests.openai.conftest import chat_rows, lines, pair_rows, prompt_rows

TURN = {"role": "user", "content": "Hi"}


def strict(kind, value) -> None:
    """The answer is what the client's own type says, nothing coerced."""
    kind.model_validate(value.model_dump(), strict=True)


@pytest.mark.parametrize(
    ("content", "format"),
    [
        (chat_rows(), "messages"),
        (pair_rows(), "preference"),
        (prompt_rows(), "prompt-only"),
    ],
    ids=["chat", "pairs", "prompts"],
)
def test_a_file_for_fine_tuning_becomes_a_dataset(openai: OpenAI, checked, content, format):
    file = openai.files.create(file=("rows.jsonl", content), purpose="fine-tune")
    strict(FileObject, file)
    assert (file.status, file.bytes, file.filename) == ("uploaded", len(content), "rows.jsonl")

    checked()
    file = openai.files.retrieve(file.id)
    assert (file.status, file.status_details) == ("processed", None)
    dataset = Dataset.objects.get()
    assert (dataset.format, dataset.problem_count) == (format, 0)
    assert openai.files.content(file.id).content == content


def test_rows_that_cannot_be_learned_are_told_by_line(openai: OpenAI, checked):
    content = chat_rows(2) + lines([{"messages": [TURN]}]) + b"{broken\n"
    file = openai.files.create(file=("rows.jsonl", content), purpose="fine-tune")
    checked()
    details = openai.files.retrieve(file.id).status_details
    assert details is not None
    assert details.startswith("2 of 4 rows cannot be learned from.")
    assert "line 3 (messages)" in details
    assert "line 4" in details


def test_a_file_of_no_use_says_why(openai: OpenAI, checked):
    file = openai.files.create(file=("rows.jsonl", b'{"x": 1}\n'), purpose="fine-tune")
    checked()
    file = openai.files.retrieve(file.id)
    assert file.status == "error"
    assert file.status_details


@pytest.mark.parametrize("purpose", ["batch", "user_data", "evals"])
def test_other_files_are_kept_as_they_came(openai: OpenAI, purpose):
    content = b'{"custom_id": "1"}\n\x00\xff'
    file = openai.files.create(file=("asked.jsonl", content), purpose=purpose)
    assert (file.purpose, file.status) == (purpose, "processed")
    assert not Dataset.objects.exists()
    assert openai.files.content(file.id).content == content

    deleted = openai.files.delete(file.id)
    strict(FileDeleted, deleted)
    assert list((openai_folder() / "files").iterdir()) == []
    with pytest.raises(NotFoundError):
        openai.files.retrieve(file.id)


def test_files_are_paged_and_found_by_purpose(openai: OpenAI):
    ids = [
        openai.files.create(file=(f"{number}.jsonl", b"{}"), purpose="batch").id
        for number in range(5)
    ]
    openai.files.create(file=("other", b"x"), purpose="user_data")

    assert [file.id for file in openai.files.list(purpose="batch", limit=2)] == ids[::-1]
    assert [file.id for file in openai.files.list(purpose="batch", order="asc", limit=3)] == ids
    page = openai.files.list(purpose="batch", limit=2, after=ids[2])
    assert ([file.id for file in page.data], page.has_more) == ([ids[1], ids[0]], False)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "vision"}, "purpose"),
        ({"purpose": ""}, "purpose"),
        ({"expires_after": {"anchor": "created_at", "seconds": 5}}, "expires_after"),
        ({"expires_after": {"anchor": "now", "seconds": 7200}}, "expires_after"),
        ({"file": "no file"}, "file"),
    ],
)
def test_bad_files_are_refused_by_field(openai: OpenAI, fields, param, settings):
    values = {"file": ("a.jsonl", b"{}"), "purpose": "batch"} | fields
    if param == "file":
        with pytest.raises(BadRequestError) as refused:
            openai.post("/files", cast_to=object, body=values, options={"headers": MULTIPART})
    else:
        with pytest.raises(BadRequestError) as refused:
            openai.files.create(**values)
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"
    assert not File.objects.exists()
    assert list(settings.FILE_UPLOAD_TEMP_DIR.glob("upload-*")) == []


MULTIPART = {"Content-Type": "multipart/form-data"}


def test_a_request_that_is_sent_again_makes_no_second_file(openai: OpenAI):
    first, second = (
        openai.files.create(file=("rows.jsonl", chat_rows()), purpose="fine-tune") for _ in "ab"
    )
    other = openai.files.create(file=("other.jsonl", chat_rows()), purpose="fine-tune")
    assert first.id == second.id != other.id
    assert Dataset.objects.count() == 2

    expiries: list[Any] = [{"anchor": "created_at", "seconds": s} for s in (7200, 7201, 7200)]
    kept = [
        openai.files.create(file=("a.jsonl", b"{}"), purpose="batch", expires_after=expiry).id
        for expiry in expiries
    ]
    assert kept[0] == kept[2] != kept[1]


def test_many_files_with_faults_cost_no_query_each(openai, checked, django_assert_max_num_queries):
    for number in range(4):
        content = chat_rows(2) + b"{broken\n" * (number + 1)
        openai.files.create(file=(f"{number}.jsonl", content), purpose="fine-tune")
    checked()
    with django_assert_max_num_queries(8):
        listed = openai.files.list().data
    assert ["line 6" in (file.status_details or "") for file in listed] == [
        True,
        False,
        False,
        False,
    ]


def test_a_strangers_file_is_not_there(openai: OpenAI, client_of, bob):
    file = openai.files.create(file=("rows.jsonl", chat_rows()), purpose="fine-tune")
    stranger = client_of(bob)
    for ask in (stranger.files.retrieve, stranger.files.delete, stranger.files.content):
        with pytest.raises(NotFoundError):
            ask(file.id)
    assert list(stranger.files.list()) == []
    assert openai.files.retrieve(file.id).id == file.id


def test_a_file_expires(openai: OpenAI):
    file = openai.files.create(
        file=("a.jsonl", b"{}"),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": LONGEST_EXPIRY},
    )
    assert file.expires_at == pytest.approx(file.created_at + LONGEST_EXPIRY, abs=2)
    files_expire()
    assert File.objects.exists()

    File.objects.update(expires_at=timezone.now())
    files_expire()
    assert not File.objects.exists()
    assert list((openai_folder() / "files").iterdir()) == []


# Uploads


def begin(openai: OpenAI, size: int) -> Upload:
    return openai.uploads.create(
        bytes=size, filename="rows.jsonl", mime_type="text/jsonl", purpose="fine-tune"
    )


def test_a_file_in_parts_is_put_together_in_the_order_that_is_said(openai: OpenAI):
    content = chat_rows()
    upload = begin(openai, len(content))
    strict(Upload, upload)
    second = openai.uploads.parts.create(upload.id, data=content[100:])
    first = openai.uploads.parts.create(upload.id, data=content[:100])
    strict(UploadPart, first)

    done = openai.uploads.complete(
        upload.id,
        part_ids=[first.id, second.id],
        md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
    )
    strict(Upload, done)
    assert done.status == "completed"
    assert done.file is not None
    assert openai.files.content(done.file.id).content == content
    assert not UploadRow.objects.get().folder.exists()
    # A request that is sent again.
    again = openai.uploads.complete(upload.id, part_ids=[first.id, second.id])
    assert again.file == done.file


def whole(openai: OpenAI, content: bytes, **given) -> tuple[str, str]:
    """(the upload, its only part)."""
    upload = openai.uploads.create(
        bytes=len(content), filename="rows.jsonl", mime_type="text/jsonl", purpose="batch", **given
    )
    return upload.id, openai.uploads.parts.create(upload.id, data=content).id


def test_two_uploads_of_the_same_bytes_are_both_completed(openai: OpenAI):
    ids = []
    for _ in range(2):
        upload, part = whole(openai, b"{}")
        done = openai.uploads.complete(upload, part_ids=[part])
        assert done.file is not None
        ids.append(done.file.id)
    assert ids[0] == ids[1]
    assert openai.files.content(ids[0]).content == b"{}"


def test_an_uploads_file_expires_as_it_was_asked_for(openai: OpenAI):
    expiry = {"anchor": "created_at", "seconds": 7200}
    upload, part = whole(openai, b"{}", expires_after=expiry)
    done = openai.uploads.complete(upload, part_ids=[part])
    assert done.file is not None
    assert done.file.expires_at is not None
    assert done.file.expires_at - done.file.created_at == 7200


def test_of_two_that_end_an_upload_one_does(openai: OpenAI, alice, monkeypatch):
    """Cancelled while its parts are put together."""
    upload, part = whole(openai, b"{}")
    join = ReceivedFile.joined

    def cancelled_meanwhile(*args, **kwargs):
        file = join(*args, **kwargs)
        uploads.upload_cancel(uploads.upload_find(upload, alice))
        return file

    monkeypatch.setattr(ReceivedFile, "joined", cancelled_meanwhile)
    with pytest.raises(BadRequestError, match="cancelled"):
        openai.uploads.complete(upload, part_ids=[part])
    assert UploadRow.objects.get().status == "cancelled"
    assert not File.objects.exists()


def test_a_file_goes_to_the_disk_before_the_transaction(openai: OpenAI, monkeypatch):
    """Seconds for a large one, in which nobody else could write."""
    depths = []
    outside = len(connection.savepoint_ids)
    monkeypatch.setattr(
        "core.upload.os.fsync", lambda _: depths.append(len(connection.savepoint_ids))
    )
    openai.files.create(file=("rows.jsonl", chat_rows()), purpose="fine-tune")
    upload, part = whole(openai, b"{}")
    depths.clear()
    openai.uploads.complete(upload, part_ids=[part])
    openai.files.create(file=("a.jsonl", b"{}"), purpose="batch")
    assert depths == [outside] * 2


def test_parts_that_do_not_fit_are_refused(openai: OpenAI):
    content = chat_rows()
    upload = begin(openai, len(content))
    part = openai.uploads.parts.create(upload.id, data=content)

    for given, param in (
        ({"part_ids": [part.id], "md5": "0" * 32}, "md5"),
        ({"part_ids": [part.id, "part_x"]}, "part_ids"),
        ({"part_ids": [part.id, part.id]}, "part_ids"),
        ({"part_ids": []}, "part_ids"),
    ):
        with pytest.raises(BadRequestError) as refused:
            openai.uploads.complete(upload.id, **given)
        assert refused.value.param == param

    short = begin(openai, len(content) + 1)
    part = openai.uploads.parts.create(short.id, data=content)
    with pytest.raises(BadRequestError, match="were announced"):
        openai.uploads.complete(short.id, part_ids=[part.id])
    assert not File.objects.exists()


@pytest.mark.parametrize("end", ["cancelled", "expired"])
def test_an_upload_that_has_ended_takes_nothing_more(openai: OpenAI, end):
    upload = begin(openai, 10)
    openai.uploads.parts.create(upload.id, data=b"12345")
    if end == "cancelled":
        assert openai.uploads.cancel(upload.id).status == "cancelled"
    else:
        UploadRow.objects.update(expires_at=timezone.now())
        files_expire()
    assert UploadRow.objects.get().status == end
    assert not UploadRow.objects.get().folder.exists()
    with pytest.raises(BadRequestError, match=end):
        openai.uploads.parts.create(upload.id, data=b"12345")
    with pytest.raises(BadRequestError, match=end):
        openai.uploads.complete(upload.id, part_ids=["part_x"])


def test_an_upload_that_is_too_large_is_refused_before_it_begins(openai: OpenAI, settings):
    settings.UPLOAD_LIMIT_BYTES = 100
    with pytest.raises(Exception, match="larger than") as refused:
        begin(openai, 101)
    assert refused.value.status_code == 413  # type: ignore[attr-defined]


def test_a_key_for_asking_sees_files_of_batches_alone(openai: OpenAI, client_of, alice):
    asks = client_of(alice, "chat")
    rows = openai.files.create(file=("rows.jsonl", chat_rows()), purpose="fine-tune")
    batch = asks.files.create(file=("requests.jsonl", lines([{}])), purpose="batch")

    assert [file.id for file in asks.files.list()] == [batch.id]
    assert asks.files.content(batch.id).content == lines([{}])
    for call in (asks.files.retrieve, asks.files.content):
        with pytest.raises(NotFoundError):
            call(rows.id)
    with pytest.raises(BadRequestError):
        asks.files.create(file=("rows.jsonl", chat_rows()), purpose="fine-tune")
