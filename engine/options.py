"""The trainer's other options, by their own names: which are offered, and whether given values fit them.

    python -m engine.options      writes engine/recipes/sft/options.json anew from the installed trainer

The web validates against that file and needs no training library. What is not offered is refused: some options the
platform sets itself, others would run code, load from elsewhere, or write elsewhere.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import json
import math
import types
import typing
from pathlib import Path
from typing import Any

RECIPES_FOLDER = Path(__file__).parent / "recipes"

Bounds = dict[str, Any]

# Each with what the trainer's own field does not say: a help of ours, bounds, choices that need no further library.
OFFERED: dict[str, dict[str, Bounds]] = {
    "sft": {
        "loss_type": {
            "help": "nll is the usual loss. dft weighs each token by how likely the model already finds it.",
            "choices": ["nll", "dft"],
        },
        "label_smoothing_factor": {
            "help": "Takes this share of certainty from the right token and spreads it over all others.",
            "minimum": 0,
            "maximum": 0.9,
        },
        "optim": {
            "help": "The rule by which gradients move the weights.",
            "choices": ["adamw_torch_fused", "adamw_torch", "adafactor", "sgd", "adagrad", "rmsprop"],
        },
        "adam_beta1": {"help": "How long AdamW remembers gradients.", "minimum": 0, "maximum": 0.9999},
        "adam_beta2": {"help": "How long AdamW remembers squared gradients.", "minimum": 0, "maximum": 0.99999},
        "adam_epsilon": {"help": "Keeps AdamW from dividing by zero.", "minimum": 0, "maximum": 0.01},
        "lr_scheduler_type": {
            "help": "Schedules beyond those of the field Schedule, which this replaces.",
            "choices": [
                "linear", "cosine", "cosine_with_restarts", "cosine_with_min_lr", "polynomial", "constant",
                "constant_with_warmup", "inverse_sqrt", "warmup_stable_decay",
            ],
        },
        "lr_scheduler_kwargs": {
            "help": 'What the schedule takes besides, such as {"num_cycles": 2} or {"min_lr_rate": 0.1}.'
        },
        "warmup_steps": {
            "help": "Steps over which the learning rate climbs, in place of Warm-up. Below 1 it is a share.",
            "minimum": 0,
            "maximum": 10_000_000,
        },
        "per_device_eval_batch_size": {
            "help": "Rows at once while measuring. Blank: as while training.",
            "default": None,
            "minimum": 1,
            "maximum": 4096,
        },
        "packing_strategy": {
            "help": "bfd fits short rows together and cuts long ones, bfd_split splits them, wrapped ignores row ends.",
            "choices": ["bfd", "bfd_split", "wrapped"],
        },
        "eval_packing": {"help": "Whether held-out rows are packed. Blank: as the training rows."},
        "pad_to_multiple_of": {
            "help": "Pads batches to a multiple of this length, which some GPUs compute faster.",
            "type": "int",
            "default": None,
            "minimum": 1,
            "maximum": 4096,
        },
        "train_sampling_strategy": {
            "help": "The order of rows. Blank: random, with rows of like length in one batch.",
            "default": None,
            "choices": ["random", "sequential", "group_by_length"],
        },
        "data_seed": {
            "help": "A seed of its own for the trainer's sampling strategies. Blank: the seed.",
            "minimum": 0,
            "maximum": 2**32 - 1,
        },
        "full_determinism": {"help": "On a GPU too, the same seed gives the same train. Slower."},
        "dataloader_drop_last": {"help": "Leave out a last batch that is not full."},
        "dataloader_num_workers": {"help": "Processes that prepare batches. 0: none.", "minimum": 0, "maximum": 16},
        "dataloader_pin_memory": {"help": "Hold batches where a GPU fetches them faster."},
        "activation_offloading": {"help": "Hold what the backward pass needs in main memory, to save the GPU's."},
        "torch_compile": {"help": "Compile the model before training. Takes minutes, then each step is faster."},
        "torch_compile_mode": {
            "help": "How long the compiler looks for faster code.",
            "choices": ["default", "reduce-overhead", "max-autotune"],
        },
        "torch_empty_cache_steps": {
            "help": "Give the GPU's unused memory back after this many steps. Blank: never.",
            "minimum": 1,
            "maximum": 1_000_000,
        },
        "tf32": {"help": "Whether the GPU may multiply fp32 with fewer digits. Blank: as it is set up."},
        "router_aux_loss_coef": {
            "help": "For mixtures of experts: how strongly to keep all experts busy. Blank: as the model says.",
            "minimum": 0,
            "maximum": 1,
        },
    },
}  # fmt: skip


# The trainer's names for what the platform has as parameters of its own.
PARAMETERS_INSTEAD = {
    "per_device_train_batch_size": "batch_size",
    "num_train_epochs": "epochs",
    "max_length": "max_tokens",
    "max_seq_length": "max_tokens",
    "warmup_ratio": "warmup_ratio",
    "assistant_only_loss": "answers_only",
    "completion_only_loss": "answers_only",
    "save_steps": "save_every",
    "eval_steps": "evaluation_every",
    "bf16": "precision",
    "fp16": "precision",
}


class OptionProblem(ValueError):
    """An option that is not offered, or a value that does not fit it; the text is a sentence for people."""


@functools.cache
def more_options(recipe: str) -> dict[str, dict[str, Any]]:
    """{name: {type: bool, int, float, choice or object, nullable, default, help, choices, minimum, maximum}}."""
    options: dict[str, dict[str, Any]] = json.loads((RECIPES_FOLDER / recipe / "options.json").read_text())
    return options


def options_check(recipe: str, values: dict[str, Any]) -> dict[str, Any]:
    """The values as the trainer takes them. Raises OptionProblem for the first that does not fit."""
    offered = more_options(recipe)
    checked = {}
    for name, value in values.items():
        if name not in offered:
            raise OptionProblem(f"{name[:80]}: {_not_offered(name, offered)}")
        checked[name] = _checked(name, value, offered[name])
    return checked


def _not_offered(name: str, offered: dict[str, Any]) -> str:
    """Why, and what was probably meant."""
    if name in PARAMETERS_INSTEAD:
        return f"this is the parameter {PARAMETERS_INSTEAD[name]}, not one of the other options."
    close = difflib.get_close_matches(name, offered, n=1, cutoff=0.7)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"there is no such option, or it is set by the platform itself.{hint}"


def _checked(name: str, value: Any, option: dict[str, Any]) -> Any:
    kind = option["type"]
    if value is None and option["nullable"]:
        return None
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "choice" and value in option["choices"]:
        return value
    if kind == "object" and isinstance(value, dict):
        return value
    if kind in ("int", "float") and _is_number(value, kind):
        return _bounded(name, int(value) if kind == "int" else float(value), option)
    wanted = {
        "bool": "true or false",
        "int": "a whole number",
        "float": "a number",
        "object": "an object of names and values",
        "choice": f"one of {', '.join(option.get('choices', []))}",
    }[kind]
    raise OptionProblem(f"{name}: needs {wanted}.")


def _is_number(value: Any, kind: str) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and (kind == "float" or value == int(value))


def _bounded(name: str, value: int | float, option: dict[str, Any]) -> int | float:
    low, high = option.get("minimum", -math.inf), option.get("maximum", math.inf)
    if not low <= value <= high:
        raise OptionProblem(f"{name}: must lie between {low:,} and {high:,}.")
    return value


def catalogue(config: type[Any], offered: dict[str, Bounds]) -> dict[str, dict[str, Any]]:
    """What the dataclass `config` says about the offered fields, with our bounds. Raises KeyError for unknown names."""
    fields = {item.name: item for item in dataclasses.fields(config)}
    hints = typing.get_type_hints(config)
    found = {}
    for name, extra in sorted(offered.items()):
        default = fields[name].default
        option = {
            "type": "choice" if "choices" in extra else _kind(hints[name]),
            "nullable": type(None) in typing.get_args(hints[name]),
            "default": default.value if isinstance(default, enum.Enum) else default,
        }
        found[name] = option | extra
        # What is blank by default may be blanked again.
        found[name]["nullable"] |= found[name]["default"] is None
    return found


def _kind(hint: Any) -> str:
    kinds = set(typing.get_args(hint)) if isinstance(hint, types.UnionType) or typing.get_origin(hint) else {hint}
    for kind, name in ((bool, "bool"), (float, "float"), (int, "int")):
        if kind in kinds:
            return name
    if any(kind is dict or typing.get_origin(kind) is dict for kind in kinds):
        return "object"
    raise TypeError(f"no kind of field for {hint}")


def catalogue_text(recipe: str) -> str:
    """What options.json of the recipe must hold under the installed trainer."""
    from trl.trainer.sft_config import SFTConfig

    return json.dumps(catalogue({"sft": SFTConfig}[recipe], OFFERED[recipe]), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for recipe_name in OFFERED:
        (RECIPES_FOLDER / recipe_name / "options.json").write_text(catalogue_text(recipe_name))
