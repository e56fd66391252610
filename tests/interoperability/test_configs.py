"""config.json of every causal language model that transformers 4 and 5 both have: 4 reads from what
we write what it reads from its own files.
"""

import json
import math
from pathlib import Path

import pytest
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from engine.publish.older import config_for_older, json_write
from tests.interoperability.reader import HALVED

pytestmark = pytest.mark.long

THETA = {"rope_theta": 123456.0}
LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
LONG = {"short_factor": [1.0] * 48, "long_factor": [2.0] * 48}

# Values that a family may have, each set by itself.
VARIANTS = {
    "as it is": {},
    "theta": THETA,
    "llama3": THETA | {"rope_scaling": LLAMA_3},
    "linear": THETA | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "linear, older word": THETA | {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "yarn": THETA | {"rope_scaling": YARN},
    "longrope of Phi-3": THETA
    | {"rope_scaling": {"type": "longrope"} | LONG, "original_max_position_embeddings": 64},
    "rotary base": {"rotary_emb_base": 54321},
    "local base": {"rope_local_base_freq": 54321.0},
    "window": {"sliding_window": 128, "use_sliding_window": True, "max_window_layers": 1},
    "narrow window": {"sliding_window": 128},
    "tied": {"tie_word_embeddings": True},
    "untied": {"tie_word_embeddings": False},
    "layers of Granite 4": {
        "layer_types": ["mamba", "attention"],
        "num_hidden_layers": 2,
        "mamba_n_heads": 128,
    },
    "halved": HALVED,
}

# Families that are no text decoders, or whose config 4 or 5 does not read back itself.
LEFT_OUT = {
    "dbrx": "4.57 refuses the common keys that 5.x writes into its two inner configs",
    "emu3": "makes pictures",
    "fuyu": "sees",
    "git": "sees",
    "got_ocr2": "sees",
    "mllama": "sees",
    "xlm": "5.x gives it another end token by default",
}


@pytest.fixture(scope="module")
def written(older, tmp_path_factory):
    """Folders with configs as 4.57 writes them, and so as most models on hubs have them."""
    root = tmp_path_factory.mktemp("configs")
    found = []
    for kind in sorted(
        set(older.ask("kinds")) & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(LEFT_OUT)
    ):
        wanted = {str(root / f"{kind}, {name}"): given for name, given in VARIANTS.items()}
        found += older.ask("configs_make", kind=kind, wanted=wanted)
    assert len(found) > 500, "a walk over nothing"
    return [Path(folder) for folder in found]


@pytest.fixture(scope="module")
def rewritten(written, tmp_path_factory):
    """{folder as 4.57 wrote it: (what 5 reads, folder as 5 wrote it and we changed it)}.

    Such is a base model that transformers 5 wrote: its file has the newer names alone, and ours are
    added.
    """
    root = tmp_path_factory.mktemp("rewritten")
    found = {}
    for before in written:
        after = root / before.name
        try:
            config = AutoConfig.from_pretrained(before)
            config.save_pretrained(after)
        except Exception:
            # A family's own checks, which differ between the versions.
            continue
        path = after / "config.json"
        read = AutoConfig.from_pretrained(after).to_dict()
        json_write(path, config_for_older(json.loads(path.read_text())))
        found[before] = (read, after)
    assert len(found) > 0.95 * len(written)
    return found


# What a family works out of other keys where its own is not given.
DERIVED = {"head_dim", "layer_types"}


def flat(config, above=""):
    """Every value under its whole name, without what is said otherwise and means the same."""
    found = {}
    for key, value in config.items():
        if isinstance(value, dict) and key.endswith("_config"):
            found |= flat(value, f"{above}{key}.")
        elif key == "rope_scaling" and isinstance(value, dict):
            kind = value.get("rope_type", value.get("type"))
            found[above + key] = value | {"type": kind, "rope_type": kind}
        elif value is not None or key not in DERIVED:
            found[above + key] = value
    return found


def differences(before, after, names):
    found = {}
    for name, one, other in zip(names, before, after, strict=True):
        one, other = flat(one), flat(other)
        if "error" in other:
            found[name] = other["error"]
        elif changed := {
            key: (one[key], other[key]) for key in one if key in other and one[key] != other[key]
        }:
            found[name] = changed
    return found


def test_4_reads_what_5_wrote_as_it_reads_its_own(older, rewritten):
    before = older.ask("configs_read", folders=list(rewritten))
    after = older.ask("configs_read", folders=[folder for _, folder in rewritten.values()])
    assert differences(before, after, [folder.name for folder in rewritten]) == {}


def test_5_reads_the_added_names_as_if_they_were_not_there(rewritten):
    for plain, folder in rewritten.values():
        read = AutoConfig.from_pretrained(folder).to_dict()
        assert {key: value for key, value in read.items() if key in plain} == plain, folder.name


def test_twice_is_once_and_what_4_wrote_is_left_as_it_is(written):
    for folder in written:
        config = json.loads((folder / "config.json").read_text())
        once = config_for_older(config)
        assert config_for_older(once) == once
        assert {key: value for key, value in once.items() if key != "torch_dtype"} == config, (
            folder.name
        )


def test_infinity_is_written_as_4_reads_it():
    made = config_for_older({"time_step_limit": [0.0, {"__float__": "Infinity"}]})
    assert made["time_step_limit"] == [0.0, math.inf]
