"""Whether an architecture can be trained here: checked once, when a base model is imported, so that
no train has to find out.

The model is built and its weights are matched without memory for a single one of them (torch's meta
device). That finds what config.json alone does not show: a rotary embedding that transformers does
not know, a library that is missing, weights that are absent or of another shape.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from engine.models.inspect import json_read
from engine.models.model_types import CAUSAL_MODEL_TYPES

# Encoders become decoders by is_decoder in config.json. These two have that key, and read from left
# to right whatever it says.
LEFT_TO_RIGHT_ANYWAY = {"gpt_neox", "gpt_neox_japanese"}

NO_LANGUAGE_MODEL = "This is no language model that can be trained here (model type {type!r})."
BOTH_DIRECTIONS = (
    "This model reads a text in both directions at once ({type}), so it cannot learn to write one "
    "from left to right. Choose a model that was made to write text."
)
TWO_HALVES = (
    "This is an encoder-decoder model ({type}): one half reads a text and the other writes. Only "
    "decoder-only models are trained here. Choose one of those, such as Llama, Qwen, Mistral or "
    "Gemma."
)
DRAFTER = (
    "This model ({type}) only drafts words for a larger one whose hidden states it reads, so it "
    "cannot be trained by "
    "itself. Add the larger model."
)
WITH_PICTURES = (
    "This model ({type}) reads text only together with a picture, and pictures are not trained "
    "here yet. Choose a model that reads text alone."
)
PART_ALONE = (
    "transformers can train only a part of this model ({type}), and could not load again what that "
    "saves. Choose a model for text alone."
)
SOUND = "This model ({type}) writes sound, not text. Choose a model that writes text."
CANNOT_WRITE = (
    "transformers can load models of this family ({type}) and cannot have them write text yet. "
    "Choose another family, such as Llama, Qwen, Mistral or Gemma."
)
FIXED_LENGTH = (
    "Models of this family ({type}) can only be trained on rows of one fixed length. Choose "
    "another family, such as Llama, Qwen, Mistral or Gemma."
)

# Model types that transformers lists as causal language models, and that cannot learn from rows of
# text alone.
NOT_TRAINED: dict[str, str] = {
    "blt": CANNOT_WRITE,
    "cpmant": BOTH_DIRECTIONS,
    "xlnet": BOTH_DIRECTIONS,
    "gemma4_assistant": DRAFTER,
    "gemma4_unified_assistant": DRAFTER,
    "git": WITH_PICTURES,
    "musicgen": SOUND,
    "musicgen_melody": SOUND,
    "reformer": FIXED_LENGTH,
    "xlstm": FIXED_LENGTH,
}


class Refused(ValueError):
    """The file or folder cannot be used; the text says why."""


def architecture_check(folder: Path) -> int:
    """The size of the vocabulary of the model in `folder`. Raises Refused for one that could not be
    trained, or that could not be loaded again."""
    config = _config_load(folder)
    model, report = _model_build(folder)

    if _reads_both_directions(model.config):
        raise Refused(BOTH_DIRECTIONS.format(type=config.model_type))

    if model.config.model_type not in CAUSAL_MODEL_TYPES:
        # What is saved of that part is no causal language model to transformers any more.
        raise Refused(PART_ALONE.format(type=config.model_type))

    _weights_check(report)
    return int(model.get_input_embeddings().num_embeddings)


def _config_load(folder: Path) -> Any:
    from transformers import AutoConfig

    # First by its type: what it is says more than what is wrong with its config.
    model_type = json_read(folder / "config.json").get("model_type")
    if model_type in NOT_TRAINED:
        raise Refused(NOT_TRAINED[model_type].format(type=model_type))

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise Refused(f"transformers cannot read config.json: {reason(error)}") from error

    if config.model_type not in CAUSAL_MODEL_TYPES:
        raise Refused(NO_LANGUAGE_MODEL.format(type=config.model_type))

    if getattr(config, "is_encoder_decoder", False):
        raise Refused(TWO_HALVES.format(type=config.model_type))

    return config


def _model_build(folder: Path) -> tuple[Any, dict[str, Any]]:
    """(the model without its weights, transformers' report on the files of weights)."""
    from engine.loading.pretrained import pretrained_load_with_report

    try:
        return pretrained_load_with_report(
            folder, device_map={"": "meta"}, dtype="auto", ignore_mismatched_sizes=True
        )
    except ImportError as error:
        raise Refused(_missing_libraries(str(error))) from error
    except Exception as error:
        raise Refused(
            f"transformers cannot build a model from config.json: {reason(error)}"
        ) from error


def _missing_libraries(text: str) -> str:
    names = list(dict.fromkeys(re.findall(r"requires the (\S+) library", text)))
    if not names:
        return f"This model needs a library that is not installed here: {text.strip()[:200]}"

    verb = "are" if len(names) > 1 else "is"
    return (
        f"This model needs {' and '.join(names)}, which {verb} not installed here. Ask your "
        "operator, or choose a model for text alone."
    )


def _reads_both_directions(config: Any) -> bool:
    """BERT and its relatives do unless config.json says is_decoder, and XLM unless it says
    causal."""
    if config.model_type in LEFT_TO_RIGHT_ANYWAY:
        return False

    if config.model_type == "xlm":
        return not config.causal

    return getattr(config, "is_decoder", None) is False


def _weights_check(report: dict[str, Any]) -> None:
    missing = sorted(report["missing_keys"])
    if missing:
        raise Refused(
            f"The files lack {len(missing)} of the model's weights, such as {missing[0]}. The "
            "folder is not complete, or its config.json is of another model."
        )

    mismatched = sorted(report["mismatched_keys"])
    if mismatched:
        name, stored_shape, config_shape = mismatched[0]
        raise Refused(
            f"{len(mismatched)} weights are of another size than config.json says, such as {name}: "
            f"{list(stored_shape)} in the files, {list(config_shape)} by config.json. It is of "
            "another model."
        )


def reason(error: BaseException) -> str:
    """A library's error message, in one line."""
    if isinstance(error, MemoryError):
        return "it needs too much memory."

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__

    line = lines[0]
    if line.startswith("Class validation error") and len(lines) > 1:
        # A config that contradicts itself: the first line only names the validator.
        line = lines[1]

    return line.removeprefix("ValueError: ")[:300]
