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
    """`model`: the trained PreTrainedModel, in the number type in which it was saved."""
    final = model.config
    config = json_read(base_folder / CONFIG)
    if config.get("model_type") != final.model_type:
        # The language model out of one that also sees or hears.
        config = final.to_diff_dict() | {"use_cache": True}

    config |= {"architectures": [type(model).__name__], "dtype": _name_of(model.dtype)}
    config.pop("torch_dtype", None)

    # Whether the output layer is stored depends on it, and classes of different versions have
    # different defaults.
    if hasattr(final, "tie_word_embeddings"):
        config["tie_word_embeddings"] = _shares_output(model)
    if _scores(model):
        config |= _scorer_keys(config, final)

    # Code that is not in the folder: native classes were trained.
    config.pop("auto_map", None)
    json_write(folder / CONFIG, _for_older(config, final))


def _for_older(config: Json, final: Any) -> Json:
    """`config` with the keys that transformers 4 needs, unless this version would then read it
    otherwise. That happens in families that only this version has, where it says nothing to others.
    """
    made = config_for_older(config)
    try:
        is_read_alike = _read(made, final) == _read(config, final)
    except Exception:
        is_read_alike = False

    return made if is_read_alike else config


def _read(config: Json, final: Any) -> Json:
    """What this version of transformers takes `config` for."""
    read: Json = type(final).from_dict(deepcopy(config)).to_dict()
    return read


def _shares_output(model: Any) -> bool:
    """Whether the output layer is the table of embeddings. By the weights: of a model that also
    sees or hears, either of two configs may decide it."""
    output = model.get_output_embeddings()
    if output is None:
        return bool(model.config.get_text_config().tie_word_embeddings)

    return output.weight is model.get_input_embeddings().weight


def _name_of(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _scores(model: Any) -> bool:
    return type(model).__name__.endswith("ForSequenceClassification")


def _scorer_keys(config: Json, final: Any) -> Json:
    """The number of scores, and the padding by which a scorer finds the end of a text."""
    pad = final.get_text_config().pad_token_id
    made: Json = {
        "id2label": {str(index): label for index, label in final.id2label.items()},
        "label2id": final.label2id,
        "pad_token_id": pad,
    }

    if isinstance(text := config.get("text_config"), dict):
        made["text_config"] = text | {"pad_token_id": pad}

    return made


def generation_write(model: Any, base_folder: Path, folder: Path) -> None:
    """The base model's settings of writing answers, with the tokens at which answers end now."""
    final = getattr(model, "generation_config", None)
    if final is None:
        return

    file = base_folder / GENERATION
    # Where the base has no file, what transformers read out of its config.json.
    config = json_read(file) if file.is_file() else final.to_diff_dict()
    learned = {"eos_token_id": final.eos_token_id, "pad_token_id": final.pad_token_id}
    config |= {key: value for key, value in learned.items() if value is not None}
    json_write(folder / GENERATION, config)
