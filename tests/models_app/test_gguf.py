"""GGUF files, converted for real."""

from pathlib import Path

import pytest

from core.errors import UserError
from core.upload import ReceivedFile
from engine.programs.convert import Refused, gguf_convert
from models_app.importing import model_import
from models_app.models import BaseModel
from models_app.services import model_add_gguf
from tests.models_app.gguf_file import write_gguf


def upload(path: Path, name: str = "") -> ReceivedFile:
    received = ReceivedFile.copy_of(path)
    received.name = name or path.name
    return received


def bytes_file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "some.gguf"
    path.write_bytes(content)
    return path


def test_a_gguf_file_becomes_the_model_it_was_made_from(alice, tiny, tmp_path):
    file = write_gguf(tiny, tmp_path / "Tiny-8bit.gguf", quantised=True)
    model = model_add_gguf(owner=alice, file=upload(file))
    model_import(model.pk)
    model.refresh_from_db()
    assert (model.status, model.error) == ("ready", "")
    assert (model.name, model.reference) == ("Tiny-8bit", "Tiny-8bit.gguf")
    assert (model.dtype, model.licence) == ("bf16", "mit")
    assert model.architecture == "LlamaForCausalLM"
    assert "<|im_start|>" in model.chat_template
    assert not model.import_path.exists()
    assert {path.suffix for path in model.path.iterdir()} <= {".json", ".jinja", ".safetensors"}

    assert_same(tiny, model.path)


def test_weights_of_32_bits_are_read_too(tiny, tmp_path):
    facts = gguf_convert(write_gguf(tiny, tmp_path / "tiny.gguf"), tmp_path / "out")
    assert facts == {"name": "Tiny Llama", "licence": "mit"}
    assert_same(tiny, tmp_path / "out")


def assert_same(tiny: Path, converted: Path) -> None:
    """Both folders give the same tokens and, but for rounding, the same logits."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    before, after = AutoTokenizer.from_pretrained(tiny), AutoTokenizer.from_pretrained(converted)
    text = "<|im_start|>user\nHow are you, Zoë?<|im_end|>"
    assert before(text)["input_ids"] == after(text)["input_ids"]
    assert (after.eos_token, after.chat_template) == (before.eos_token, before.chat_template)
    tokens = torch.tensor([before(text)["input_ids"]])
    wanted = AutoModelForCausalLM.from_pretrained(tiny)(tokens).logits
    got = AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float32)(tokens).logits
    assert torch.allclose(wanted, got, atol=0.02)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"PK\x03\x04 a zip file", "no GGUF file"),
        (b"GGU", "no GGUF file"),
        (b"GGUF", "cut off"),
        (b"GGUF\x63\x00\x00\x00" + b"\0" * 64, "version"),
    ],
)
def test_it_refuses_what_is_no_gguf_file(alice, tmp_path, home, content, reason):
    with pytest.raises(UserError) as caught:
        model_add_gguf(owner=alice, file=upload(bytes_file(tmp_path, content)))
    assert set(caught.value.fields) == {"file"}
    assert reason in caught.value.message
    assert not BaseModel.objects.exists()
    assert not list((home / "tmp").iterdir())


def test_a_name_is_a_label_and_never_a_path(alice, tiny, tmp_path, home):
    file = write_gguf(tiny, tmp_path / "x.gguf")
    model = model_add_gguf(owner=alice, file=upload(file, "../../../etc/evil\x00\u202e.gguf"))
    assert model.import_path == home / "models" / "imports" / str(model.pk)
    assert "\x00" not in model.name
    assert "\u202e" not in model.name
    assert [path.name for path in model.import_path.iterdir()] == ["source.gguf"]


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_file_that_is_cut_off_is_refused(tiny, tmp_path, share):
    content = write_gguf(tiny, tmp_path / "whole.gguf").read_bytes()
    with pytest.raises(Refused, match="cut off"):
        gguf_convert(bytes_file(tmp_path, content[: int(len(content) * share)]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_space_is_said_before_the_conversion(alice, tiny, tmp_path, settings, home):
    file = upload(write_gguf(tiny, tmp_path / "x.gguf"))
    settings.DISK_RESERVE_BYTES = 10**18
    with pytest.raises(UserError, match="Not enough disk space") as caught:
        model_add_gguf(owner=alice, file=file)
    assert caught.value.status == 507
    assert not list((home / "tmp").iterdir())
