"""Uploads by the real huggingface_hub to a hub on this machine."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from core.errors import UserError
from core.hub import hub_upload, repository_clean
from core.programs import ProgramProblem
from tests.hub_server import COMMIT, TOKEN, Hub, running_hub

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def programs_begin_at_once(warm_programs):
    pass


@pytest.fixture(autouse=True)
def made(hub, tmp_path) -> Path:
    hub.made = tmp_path / "hub"
    return hub.made


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "export"
    (folder / "beside").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights" * 100_000)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    return folder


@pytest.fixture
def upload(folder, tmp_path):
    def run(repository: str = "org/tiny", token: str = TOKEN, **options):
        return hub_upload(folder, repository, home=tmp_path / "hf", token=token, **options)

    return run


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_it_makes_a_private_repository_with_all_files(hub: Hub, upload, folder, made):
    shares: list[float] = []
    done = upload(on_progress=shares.append)
    assert done == {"address": f"{hub.url}/org/tiny", "commit": COMMIT, "private": True}
    assert hub.private == {"org/tiny"}
    found = files_of(made / "org" / "tiny")
    found.pop(".gitattributes")
    assert found == files_of(folder)
    assert len(hub.commits) == 1, "whole or not at all"
    assert 0 < shares[-1] <= 1


def test_it_is_public_where_that_is_asked_for(hub, upload):
    assert upload(public=True)["private"] is False
    assert hub.private == set()


def test_it_works_where_everything_else_is_to_do_without_a_network(upload, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert upload()["commit"] == COMMIT


def test_a_repository_with_files_is_left_alone_unless_it_is_to_be_updated(
    hub, upload, folder, made
):
    upload()
    there = made / "org" / "tiny"
    (there / "model-00001-of-00002.safetensors").write_bytes(b"old")
    (there / "picture.png").write_bytes(b"old")
    with pytest.raises(ProgramProblem, match="holds files already"):
        upload()
    (folder / "config.json").write_text('{"new": 1}')
    upload(update=True)
    found = files_of(there)
    assert found["config.json"] == b'{"new": 1}'
    assert "model-00001-of-00002.safetensors" not in found, "it would be loaded along"
    assert "picture.png" in found


@pytest.mark.parametrize(
    "name", ["tiny-Q8_0.gguf", "adapter_model.safetensors", "model.safetensors"]
)
def test_an_update_deletes_older_weights_of_the_same_kind_alone(hub, upload, folder, made, name):
    upload()
    there = made / "org" / "tiny"
    others = ("adapter_model.safetensors", "tiny-F16.gguf", "vision/model.safetensors")
    old = ("model-00001-of-00002.safetensors", "model.safetensors.index.json")
    (there / "vision").mkdir()
    for other in (*others, *old):
        (there / other).write_bytes(b"old")
    (folder / "model.safetensors").rename(folder / name)
    upload(update=True)
    kept = {*others, *(() if name == "model.safetensors" else (*old, "model.safetensors"))}
    assert all((there / other).is_file() for other in kept)
    is_gone = not any((there / other).is_file() for other in old)
    assert is_gone == (name == "model.safetensors")


def test_an_upload_whose_answer_was_lost_is_found_and_not_made_twice(hub, upload, monkeypatch):
    monkeypatch.setattr("core.hub.RETRY_SECONDS", 0.1)
    begun: list[bool] = []
    hub.cut_commits = 1
    done = upload(on_begun=lambda: begun.append(True))
    assert done == {"address": f"{hub.url}/org/tiny", "commit": COMMIT, "private": True}
    assert (len(hub.commits), begun) == (1, [True])
    assert upload(again=True) == done
    assert len(hub.commits) == 1


@pytest.mark.parametrize("change", ["changed", "missing", "another"])
def test_a_repository_of_another_is_not_taken_for_an_upload_that_had_begun(upload, made, change):
    upload()
    there = made / "org" / "tiny"
    match change:
        case "changed":
            (there / "config.json").write_text("[]")
        case "missing":
            (there / "config.json").unlink()
        case "another":
            (there / "other.bin").write_bytes(b"theirs")
    with pytest.raises(ProgramProblem, match="holds files already"):
        upload(again=True)
    upload(again=True, update=True)
    assert (there / "config.json").read_text() == "{}"


def test_what_is_to_be_private_does_not_land_in_a_public_repository(hub, upload):
    upload(public=True)
    with pytest.raises(ProgramProblem, match="is public"):
        upload(update=True)


def test_an_empty_repository_is_filled(hub, upload, made):
    """As a try that was cut off leaves one behind."""
    (made / "org" / "tiny").mkdir(parents=True)
    hub.repositories["org/tiny"] = made / "org" / "tiny"
    hub.private.add("org/tiny")
    assert upload()["commit"] == COMMIT


WRONG = {
    "nonsense": "answers as no hub does",
    "http://127.0.0.1:9": "an address that is no hub's",
    "silence": "The upload stands still",
}


@pytest.mark.parametrize("posts", WRONG)
def test_each_wrong_answer_has_words_of_its_own(hub, upload, monkeypatch, posts):
    monkeypatch.setattr("core.hub.STANDSTILL_SECONDS", 3)
    monkeypatch.setattr("core.hub.DOWNLOAD_TRIES", 1)
    hub.posts = posts
    with pytest.raises(ProgramProblem, match=WRONG[posts]):
        upload()
    assert hub.commits == []


def test_a_redirect_is_not_followed_to_another_server(hub, upload):
    with running_hub() as elsewhere:
        hub.posts = elsewhere.url
        with pytest.raises(ProgramProblem, match="an address that is no hub's"):
            upload()
        assert elsewhere.asked == []


def test_large_files_go_to_no_private_machine(hub, upload):
    hub.objects = "http://169.254.169.254"
    with pytest.raises(ProgramProblem, match="an address that is no hub's"):
        upload()


def test_a_token_that_may_not_write_is_told(hub, upload):
    hub.read_only = True
    with pytest.raises(ProgramProblem, match="may not write to org"):
        upload()


def test_a_hub_that_is_away_or_asks_to_wait_is_worth_another_try(hub, upload, monkeypatch):
    monkeypatch.setattr("core.hub.DOWNLOAD_TRIES", 2)
    tries: list[int] = []
    hub.limited = True
    with pytest.raises(ProgramProblem, match="asks to wait"):
        upload(on_retry=tries.append)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ProgramProblem, match="cannot be reached"):
        upload(on_retry=tries.append)
    assert tries == [2, 2]


@pytest.mark.parametrize("token", [TOKEN, "hf_wrong_token"])
def test_the_token_is_seen_nowhere(hub, upload, made, caplog, token):
    with caplog.at_level(logging.DEBUG):
        try:
            seen = json.dumps(upload(token=token))
        except ProgramProblem as problem:
            seen = str(problem)
            assert "does not take the Hugging Face token" in seen
    assert any(header == f"Bearer {token}" for _, header in hub.asked)
    assert token not in caplog.text + seen
    assert not any(token.encode() in path.read_bytes() for path in made.rglob("*.*"))


def test_without_a_token_nothing_is_asked(hub, upload):
    with pytest.raises(ProgramProblem, match="needs a Hugging Face token"):
        upload(token="")
    assert hub.asked == []


def test_names_of_repositories():
    assert repository_clean(" https://huggingface.co/my-team/tiny/ ") == "my-team/tiny"
    for text in ("tiny", "a/b/c", "org/tiny@main", "../tiny", "org/" + "a" * 100, "http://x/y"):
        with pytest.raises(UserError):
            repository_clean(text)
