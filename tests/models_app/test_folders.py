"""Local folders: what may be added, and what a link or a name cannot reach."""

import os
import shutil

import pytest

from core.errors import UserError
from engine.models.inspect import ModelProblem
from models_app.folder_list import folders_offered
from models_app.folders import folder_copy, folder_resolve


def refused(reference: str) -> str:
    with pytest.raises(UserError) as caught:
        folder_resolve(reference)
    assert set(caught.value.fields) == {"reference"}
    return caught.value.message


def test_it_offers_what_lies_below_the_roots(tiny_folder, inbox, tmp_path, settings):
    settings.MODEL_ROOTS = [tmp_path / "shared"]
    shutil.copytree(tiny_folder, tmp_path / "shared" / "team" / "snapshots" / "abc")
    (inbox / "not-a-model").mkdir()
    assert [(choice.name, choice.obstacle) for choice in folders_offered()] == [
        ("tiny", ""),
        ("team/snapshots/abc", ""),
    ]


def test_it_says_why_a_folder_cannot_be_added(tiny_folder):
    (tiny_folder / "model.safetensors").rename(tiny_folder / "pytorch_model.bin")
    (choice,) = folders_offered()
    assert "pickle" in choice.obstacle


@pytest.mark.parametrize(
    "reference",
    [
        "/",
        "~",
        "/etc",
        "//proc/self/root/etc",
        "/proc/self/cwd",
        "file:///etc",
        "http://169.254.169.254/latest",
        "s3://bucket/x",
        "tiny",
        "../tiny",
        "",
        ".",
        "/nowhere\x00",
        "/etc/..%2f..%2fetc",
    ],
)
def test_it_refuses_what_lies_elsewhere(tiny_folder, reference):
    assert "allowed folders" in refused(reference)


def test_it_refuses_ways_out_of_the_inbox(tiny_folder, inbox, tmp_path):
    outside = tmp_path / "outside"
    shutil.copytree(tiny_folder, outside)
    (inbox / "link").symlink_to(outside)
    for reference in (inbox / "link", f"{inbox}/tiny/../../../outside", inbox):
        assert "allowed folders" in refused(str(reference))


def test_it_says_nothing_about_what_is_there_elsewhere(tmp_path):
    (tmp_path / "there").mkdir()
    assert refused(str(tmp_path / "there")) == refused(str(tmp_path / "not-there"))


def test_a_link_within_the_roots_is_followed(tiny_folder, inbox, tmp_path):
    """As in the cache of the hub's own library, where a snapshot is links to blobs."""
    blobs = inbox / "blobs"
    blobs.mkdir()
    (tiny_folder / "model.safetensors").rename(blobs / "abc")
    (tiny_folder / "model.safetensors").symlink_to("../blobs/abc")
    folder_copy(tiny_folder, tmp_path / "copy", lambda done: None)
    copied = tmp_path / "copy" / "model.safetensors"
    assert not copied.is_symlink()
    assert copied.read_bytes() == (blobs / "abc").read_bytes()


def test_a_link_out_of_the_roots_is_not_read(tiny_folder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("password")
    (tiny_folder / "README.md").unlink(missing_ok=True)
    (tiny_folder / "README.md").symlink_to(secret)
    with pytest.raises(ModelProblem, match=r"README\.md leads out"):
        folder_copy(tiny_folder, tmp_path / "copy", lambda done: None)
    assert (
        not (tmp_path / "copy" / "README.md").exists()
        or not (tmp_path / "copy" / "README.md").read_bytes()
    )


def test_a_pipe_does_not_hold_the_copy(tiny_folder, tmp_path):
    os.mkfifo(tiny_folder / "LICENSE")
    folder_copy(tiny_folder, tmp_path / "copy", lambda done: None)
    assert not (tmp_path / "copy" / "LICENSE").exists()


def test_a_copy_does_not_change_with_its_source(tiny_folder, tmp_path):
    reports = []
    folder_copy(tiny_folder, tmp_path / "copy", reports.append)
    before = (tmp_path / "copy" / "model.safetensors").read_bytes()
    with (tiny_folder / "model.safetensors").open("r+b") as stream:
        stream.write(b"changed in place")
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == before
    assert reports[-1] == sum(path.stat().st_size for path in (tmp_path / "copy").iterdir())
