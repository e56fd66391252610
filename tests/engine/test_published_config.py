"""The config that is written beside a trained model says to this version of transformers what it
said before."""

import pytest
import transformers

from engine.publish.config import config_write
from tests.families.maker import family_model


@pytest.fixture
def written(tmp_path):
    """(the base model's folder, the base model, a folder with the config that a train would
    write)."""

    def write(family):
        base = family_model(tmp_path / "base", family)
        model = transformers.AutoModelForCausalLM.from_pretrained(base)
        out = tmp_path / "out"
        out.mkdir()
        config_write(model, base, out)
        return base, model, out

    return write


@pytest.mark.parametrize(
    "family", ["beam", "cohere_compass_text", "gemma4_text", "lfm3", "inkling_text", "gemma3_text"]
)
def test_keys_for_older_versions_change_nothing_for_this_one(written, family):
    """Families that only this version has may take the older keys for something else."""
    base, _, out = written(family)
    before, after = (
        transformers.AutoConfig.from_pretrained(folder).to_dict() for folder in (base, out)
    )
    assert after | {"_name_or_path": ""} == before | {"_name_or_path": ""}


def test_a_shared_output_layer_is_said_by_whichever_config_decides_it(written):
    """Of this one the outer config does, and the inner one says otherwise."""
    _, model, out = written("moss_transcribe_diarize")
    loaded = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.from_pretrained(out)
    )
    shares = [
        one.get_output_embeddings().weight is one.get_input_embeddings().weight
        for one in (model, loaded)
    ]
    assert shares[0] == shares[1]
