"""Base models that the platform makes itself, out of GGUF files: transformers 4.57 reads them as
the platform does.
"""

import pytest

from engine.programs.convert import gguf_convert
from tests.engine.runs import train
from tests.interoperability import reader
from tests.models_app.gguf_file import write_gguf
from tests.tiny import tiny_model

pytestmark = pytest.mark.long

TEXTS = ["<|im_start|>user\nHow are you, Zoë?<|im_end|>", "  1 + 1 = 2\n"]


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    gguf_convert(write_gguf(tiny_model(folder / "tiny"), folder / "tiny.gguf"), folder / "out")
    return folder / "out"


def test_a_model_out_of_a_gguf_file_is_read_there_as_here(older, imported):
    given = {"folder": str(imported)}
    assert older.ask("tokens", texts=TEXTS, **given) == reader.tokens(texts=TEXTS, **given)
    there, here = older.ask("logits", **given), reader.logits(**given)
    assert there["logits"] == pytest.approx(here["logits"], abs=0.02), "in bf16"
    assert there["odd"] == []


def test_and_so_is_what_is_trained_from_it(older, imported, tmp_path):
    for adapter in ("lora", "none"):
        done = train(tmp_path / adapter, imported, adapter=adapter, max_steps=3)
        given = {
            "folder": str(done.directory / "model"),
            "base": str(imported) if adapter == "lora" else "",
        }
        there, here = older.ask("logits", **given), reader.logits(**given)
        assert there["logits"] == pytest.approx(
            here["logits"], abs=1e-4 if adapter == "none" else 0.02
        )
        assert there["odd"] == []
        (names,) = {
            tuple(reader.tokens(folder, TEXTS)["ids"][0])
            for folder in (given["folder"], str(imported))
        }
        assert names
