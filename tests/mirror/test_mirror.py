"""What the mirror answers to whom, in the hub's form. tests/mirror/test_clients.py pulls with the
real libraries."""

import hashlib
import json
from datetime import timedelta

import pytest
from django.utils import timezone
from knox.models import get_token_model

from core.web.handler import BLOCK, _blocks, _is_small
from mirror.files import file_response
from models_app.models import BaseModel
from models_app.repositories import Repository, RepositoryFile, files_commit, repositories_provide
from models_app.services import model_archive, model_update
from tests.world import token_make

MODEL = "deepextension/help-desk-v2"
WEIGHTS = f"{MODEL}/resolve/main/model.safetensors"
FACTS = f"api/models/{MODEL}"
ADDRESSES = (FACTS, f"{FACTS}/revision/main", f"{FACTS}/tree/main", f"{FACTS}/refs", WEIGHTS)


def body(answer) -> bytes:
    return b"".join(answer.streaming_content) if answer.streaming else answer.content


def test_facts_and_tree_name_every_file_with_size_and_hash(pull, trained, alice):
    facts = pull(FACTS, alice).json()
    assert (facts["id"], facts["sha"], facts["private"]) == (MODEL, trained.sha256[:40], True)
    assert facts["cardData"]["license"] == "apache-2.0"
    tree = pull(f"{FACTS}/tree/main", alice).json()
    assert {file["path"] for file in tree} == {file["rfilename"] for file in facts["siblings"]}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {row["path"] for row in tree}
    assert "passport.json" not in {file["path"] for file in tree}

    for file in tree:
        content = (trained.path / file["path"]).read_bytes()
        assert file["size"] == len(content)
        assert file["lfs"]["oid"] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("method", ["get", "head"])
def test_a_file_is_named_by_its_hash_and_state(pull, trained, alice, method):
    answer = pull(WEIGHTS, alice, method)
    content = (trained.path / "model.safetensors").read_bytes()
    assert answer.status_code == 200
    assert answer["ETag"] == f'"{hashlib.sha256(content).hexdigest()}"'
    assert answer["X-Repo-Commit"] == trained.sha256[:40]
    assert answer["X-Linked-Size"] == answer["Content-Length"] == str(len(content))
    assert body(answer) == (content if method == "get" else b"")


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("bytes=10-19", 10, 20), ("bytes=100-", 100, None), ("bytes=-7", -7, None)],
)
def test_a_download_that_broke_off_goes_on(pull, trained, alice, asked, start, stop):
    content = (trained.path / "model.safetensors").read_bytes()
    answer = pull(WEIGHTS, alice, Range=asked)
    part = content[start:stop]
    assert (answer.status_code, body(answer)) == (206, part)
    assert answer["Content-Length"] == str(len(part))
    first = start if start >= 0 else len(content) + start
    assert answer["Content-Range"] == f"bytes {first}-{first + len(part) - 1}/{len(content)}"

    # Another file than the one that was begun.
    answer = pull(WEIGHTS, alice, **{"Range": asked, "If-Range": '"other"'})
    assert (answer.status_code, body(answer)) == (200, content)


@pytest.mark.parametrize("asked", ["bytes=5-3", "bytes=0-1,5-9", "rows=1-2", "bytes=-"])
def test_a_range_that_is_none_gets_the_whole_file(pull, trained, alice, asked):
    assert pull(WEIGHTS, alice, Range=asked).status_code == 200


def test_what_lies_behind_the_end_is_refused(pull, trained, alice):
    size = (trained.path / "model.safetensors").stat().st_size
    answer = pull(WEIGHTS, alice, Range=f"bytes={size}-")
    assert (answer.status_code, answer["Content-Range"]) == (416, f"bytes */{size}")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("api/models/deepextension/no-such", "RepoNotFound"),
        ("api/models/somebody/help-desk-v2", "RepoNotFound"),
        (f"{FACTS}/revision/{'0' * 40}", "RevisionNotFound"),
        (f"{FACTS}/tree/v1", "RevisionNotFound"),
        (f"{FACTS}/tree/main/folder", "EntryNotFound"),
        (f"{MODEL}/resolve/main/no.txt", "EntryNotFound"),
        (f"{MODEL}/resolve/main/passport.json", "EntryNotFound"),
        (f"{MODEL}/resolve/main/../../../db.sqlite3", None),
        (f"{MODEL}/resolve/main/%2e%2e/%2e%2e/secret_key", None),
        (f"{MODEL}/resolve/main//etc/passwd", "EntryNotFound"),
        (f"{MODEL}/resolve/%2e%2e/config.json", None),
    ],
)
def test_what_is_not_there_is_said_as_the_hub_says_it(pull, trained, alice, home, path, code):
    (home / "secret_key").write_text("secret")
    (home / "db.sqlite3").write_text("rows")
    for method in ("get", "head"):
        answer = pull(path, alice, method)
        assert answer.status_code == 404
        assert code is None or answer["X-Error-Code"] == code


def test_a_model_that_one_may_not_see_is_as_if_it_were_not_there(pull, trained, bob):
    refused = pull("api/models/deepextension/no-such", bob)
    for path in ADDRESSES:
        answer = pull(path, bob)
        assert (answer.status_code, answer["X-Error-Code"]) == (404, "RepoNotFound")
        assert (
            answer.content.decode().replace("help-desk-v2", "no-such") == refused.content.decode()
        )


def test_without_a_token_nothing_is_there(pull, trained, client):
    BaseModel.objects.update(shared=True)
    for path in ADDRESSES:
        answer = pull(path)
        assert (answer.status_code, answer["X-Error-Code"]) == (401, "RepoNotFound")

    answer = client.get(f"/hub/{FACTS}", headers={"Authorization": f"Bearer {'x' * 64}"})
    assert answer.status_code == 401
    assert answer["X-Error-Message"] == "Invalid credentials in Authorization header"
    assert "X-Error-Code" not in answer


@pytest.mark.parametrize("scope", ["read", "train", "all"])
def test_every_scope_may_read_and_none_may_write(client, trained, alice, scope):
    token = token_make(alice)
    get_token_model().objects.update(scope=scope)
    headers = {"Authorization": f"Bearer {token}"}
    assert client.get(f"/hub/{FACTS}", headers=headers).status_code == 200
    assert client.post(f"/hub/{FACTS}", headers=headers).status_code in (403, 405)
    assert client.delete(f"/hub/{FACTS}", headers=headers).status_code in (403, 405)


def test_an_old_token_ends(client, trained, alice):
    token = token_make(alice)
    for row in get_token_model().objects.all():
        row.expiry -= timedelta(days=10_000)
        row.save()

    answer = client.get(f"/hub/{FACTS}", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401


def test_archived_and_renamed_models_stay_and_unfinished_ones_are_not_there(pull, trained, alice):
    model_archive(model=trained, by=alice)
    model_update(model=trained, by=alice, name="Another name")
    assert pull(WEIGHTS, alice).status_code == 200

    for status in ("importing", "failed"):
        BaseModel.objects.filter(pk=trained.pk).update(status=status)
        assert pull(WEIGHTS, alice).status_code == 404


def test_a_revision_can_be_pinned(pull, trained, alice):
    commit = trained.sha256[:40]
    for path in (f"{FACTS}/revision/{commit}", f"{FACTS}/tree/{commit}"):
        assert pull(path, alice).status_code == 200

    answer = pull(WEIGHTS.replace("main", commit), alice)
    assert answer["X-Repo-Commit"] == commit
    assert pull(f"{FACTS}/refs", alice).json()["branches"][0]["targetCommit"] == commit


def config_of(pull, user, identity=f"{MODEL}-adapter"):
    return json.loads(body(pull(f"{identity}/resolve/main/adapter_config.json", user)))


def test_an_adapter_names_a_base_that_can_be_loaded(pull, trained, base, alice):
    assert config_of(pull, alice)["base_model_name_or_path"] == "deepextension/tiny"
    BaseModel.objects.filter(pk=base.pk).update(
        source="hub", reference="org/tiny@main", revision="a" * 40
    )
    config = config_of(pull, alice)
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", "a" * 40)

    # That name is answered here too: whose hub is this mirror has no other.
    assert pull("api/models/org/tiny/revision/main", alice).json()["id"] == "org/tiny"
    assert pull(f"api/models/org/tiny/revision/{'a' * 40}", alice).status_code == 200
    assert pull("api/models/org/tin", alice).status_code == 404
    names = {row["path"] for row in pull(f"{FACTS}-adapter/tree/main", alice).json()}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}


def test_an_adapter_that_was_carried_on_belongs_on_the_first_base(pull, trained, base, alice):
    second = BaseModel.objects.create(
        name="Second",
        slug="second-v1",
        source="train",
        status="ready",
        owner=alice,
        parent=trained,
        trained_from={"train": 2, "step": 0, "continue_adapter": True},
    )
    second.adapter_path.parent.mkdir(parents=True)
    trained.adapter_path.rename(second.adapter_path)
    config = config_of(pull, alice, "deepextension/second-v1-adapter")
    assert config["base_model_name_or_path"] == "deepextension/tiny"


def test_the_card_of_a_shared_model_is_its_owners(pull, trained, base, alice, bob):
    """It names the train, its system prompt and parameters."""
    for model in (trained, base):
        (model.path / "README.md").write_text("secret train")
        (model.path / "passport.json").write_text("{}")

    BaseModel.objects.update(shared=True)
    for identity, reader, status in (
        (MODEL, alice, 200),
        (MODEL, bob, 404),
        ("deepextension/tiny", bob, 200),
    ):
        answer = pull(f"{identity}/resolve/main/README.md", reader)
        assert answer.status_code == status
        listed = {file["path"] for file in pull(f"api/models/{identity}/tree/main", reader).json()}
        assert ("README.md" in listed) == (status == 200)


def test_who_may_not_see_the_base_gets_no_adapter(pull, trained, bob):
    BaseModel.objects.filter(pk=trained.pk).update(shared=True)
    assert pull(FACTS, bob).status_code == 200
    assert pull(f"{FACTS}-adapter", bob)["X-Error-Code"] == "RepoNotFound"


def test_another_app_provides_repositories(pull, trained, alice, monkeypatch, tmp_path):
    monkeypatch.setattr("models_app.repositories._providers", {})
    path = tmp_path / "model-Q8_0.gguf"
    path.write_bytes(b"GGUF")
    others = {"model-BF16.gguf": RepositoryFile(5, "1" * 64)}
    files = {path.name: RepositoryFile(4, "0" * 64, path=path)} | others

    def provide(model, reader):
        assert (model, reader) == (trained, alice)
        return Repository(f"{MODEL}-gguf", files, files_commit(files), model.created_at, True, {})

    repositories_provide("-gguf", provide)
    assert body(pull(f"{MODEL}-gguf/resolve/main/{path.name}", alice)) == b"GGUF"
    for tag in ("latest", "q8_0", "Q8_0"):
        found = pull(f"v2/{MODEL}-gguf/manifests/{tag}", alice).json()["ggufFile"]
        assert found == {"rfilename": path.name, "size": 4}

    for tag in ("Q4_0", "F16"):
        missing = pull(f"v2/{MODEL}-gguf/manifests/{tag}", alice)
        assert missing["X-Error-Code"] == "EntryNotFound"
    assert pull("api/models/deepextension/other-gguf", alice).status_code == 404


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_model_whose_passport_is_damaged_is_not_there(pull, trained, alice, text):
    (trained.path / "passport.json").write_bytes(text.encode("latin-1"))
    assert pull(FACTS, alice)["X-Error-Code"] == "RepoNotFound"


@pytest.mark.django_db
@pytest.mark.parametrize(("asked", "start"), [("", 0), ("bytes=70001-", 70_001)])
def test_a_large_file_is_sent_in_blocks_by_the_web_server(rf, tmp_path, asked, start):
    """As core.web streams a response on a thread of its own, and closes it."""
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * 4096)
    files = {"large": RepositoryFile(2**20, "0" * 64, path=path)}
    repository = Repository("a/b", files, "0" * 40, timezone.now(), True, {})
    response = file_response(rf.get("/", headers={"Range": asked}), repository, "large")
    assert not _is_small(response)

    blocks = list(_blocks(response))
    assert b"".join(blocks) == path.read_bytes()[start:]
    assert max(map(len, blocks)) <= BLOCK
    stream = response.file_to_stream.file
    response.close()
    assert stream.closed


def test_files_that_are_gone_are_no_fault_of_the_platform(pull, trained, alice):
    assert pull(WEIGHTS, alice).status_code == 200
    (trained.path / "model.safetensors").unlink()
    assert pull(WEIGHTS, alice)["X-Error-Code"] == "EntryNotFound"
    trained.path.rename(trained.path.with_name("elsewhere"))
    assert pull(WEIGHTS, alice)["X-Error-Code"] == "RepoNotFound"
