"""config.json and generation_config.json of a trained model: the base model's own, with what
training changed.

Whoever can load the base model can then load what was made from it, whichever version of whichever
library that is. transformers 5 would write its own form instead, which older readers misunderstand
in silence, and with it settings of the train such as use_cache=false.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from engine.models.inspect import json_read
from engine.publish.older import Json, config_for_older, json_write

CONFIG = "config.json"
GENERATION = "generation_config.json"


def config_write(model: Any, base_folder: Path, folder: Path) -> None:
    """`model`: the trained PreTrainedModel, in the dtype in which it was saved."""
    trained = model.config
    config = json_read(base_folder / CONFIG)
    if config.get("model_type") != trained.model_type:
        # The language model out of a multimodal one.
        config = trained.to_diff_dict() | {"use_cache": True}

    config["architectures"] = [type(model).__name__]
    config["dtype"] = str(model.dtype).removeprefix("torch.")
    config.pop("torch_dtype", None)

    # Whether the output layer is stored depends on it, and classes of different versions have
    # different defaults.
    if hasattr(trained, "tie_word_embeddings"):
        config["tie_word_embeddings"] = _has_tied_weights(model)

    if _is_scorer(model):
        config |= _scorer_keys(config, trained)

    # It names code that is not in the folder: transformers' own classes were trained.
    config.pop("auto_map", None)
    json_write(folder / CONFIG, _for_older(config, trained))


def _for_older(config: Json, trained: Any) -> Json:
    """`config` with the keys that transformers 4 needs, unless this version would then read it
    otherwise. That happens in families that only this version has, to which older versions are no
    use anyway."""
    compatible = config_for_older(config)
    try:
        is_read_alike = _read(compatible, trained) == _read(config, trained)
    except Exception:
        is_read_alike = False

    return compatible if is_read_alike else config


def _read(config: Json, trained: Any) -> Json:
    """`config` as this version of transformers understands it, with all defaults."""
    values: Json = type(trained).from_dict(deepcopy(config)).to_dict()
    return values


def _has_tied_weights(model: Any) -> bool:
    """Whether output layer and embeddings share one weight. Told by the weights: in a multimodal
    model, either of two configs may decide it."""
    output = model.get_output_embeddings()
    if output is None:
        return bool(model.config.get_text_config().tie_word_embeddings)

    return output.weight is model.get_input_embeddings().weight


def _is_scorer(model: Any) -> bool:
    return type(model).__name__.endswith("ForSequenceClassification")


def _scorer_keys(config: Json, trained: Any) -> Json:
    """The number of scores, and the padding token by which a scorer finds the end of a text."""
    pad = trained.get_text_config().pad_token_id
    keys: Json = {
        "id2label": {str(index): label for index, label in trained.id2label.items()},
        "label2id": trained.label2id,
        "pad_token_id": pad,
    }

    text_config = config.get("text_config")
    if isinstance(text_config, dict):
        keys["text_config"] = text_config | {"pad_token_id": pad}

    return keys


def generation_write(model: Any, base_folder: Path, folder: Path) -> None:
    """The base model's generation config, with the tokens at which answers end now."""
    trained = getattr(model, "generation_config", None)
    if trained is None:
        return

    file = base_folder / GENERATION
    # Without a file, what transformers derived from the base model's config.json.
    config = json_read(file) if file.is_file() else trained.to_diff_dict()

    if trained.eos_token_id is not None:
        config["eos_token_id"] = trained.eos_token_id
    if trained.pad_token_id is not None:
        config["pad_token_id"] = trained.pad_token_id

    json_write(folder / GENERATION, config)
