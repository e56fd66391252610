"""Parameters that every recipe shares.

A recipe's parameters are one pydantic model. Its JSON Schema is what the web form, the API, the
docs and the engine read, so everything a person needs to see about a field stands in its
declaration (engine.schema.fields): title, help, unit, bounds (refused when left), typical range (warned
about when left), group, and which other field switches it on.

Imports neither torch nor any training library: the web process uses this module.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from engine.contract import arithmetic
from engine.schema.fields import parameter, refuse
from engine.schema.options import OptionProblem, options_check
from engine.schema.saving import SavingParameters

SCHEDULERS = Literal[
    "linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"
]


class LengthParameters(BaseModel):
    """For methods that learn from whole rows. Stands after TrainParameters in the list of base
    classes, so that these fields come first."""

    max_tokens: int = parameter(
        1024,
        "Max tokens",
        "Longer rows are cut at the end.",
        group="Data",
        unit="tokens",
        typical=(512, 4096),
        ge=16,
        le=1_048_576,
    )
    thinking: Literal["auto", "in_front", "leave_out"] = parameter(
        "auto",
        "Thinking",
        "For rows whose answers come with their thinking. Some chat templates have no place for "
        "it, and leave it out.",
        group="Data",
        advanced=True,
        choice_titles={
            "auto": "As the chat template has it",
            "in_front": "In front of the answer",
            "leave_out": "Leave out",
        },
    )


class TrainParameters(SavingParameters):
    """What every method has. Unknown names are refused, numbers must be finite."""

    recipe: ClassVar[str]

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())

    max_samples: int | None = parameter(
        None,
        "Max samples",
        "Use only the first rows. Blank: all.",
        group="Data",
        unit="rows",
        advanced=True,
        ge=1,
    )
    learning_rate: float = parameter(
        2e-4,
        "Learning rate",
        "How far each step moves the weights. Too high and the loss jumps.",
        group="Training",
        typical=(1e-6, 1e-3),
        gt=0,
        le=1,
    )
    epochs: float | None = parameter(
        1,
        "Epochs",
        "Passes over the data. More passes make the model memorise.",
        group="Training",
        typical=(1, 50),
        gt=0,
        le=1000,
    )
    max_steps: int | None = parameter(
        None,
        "Max steps",
        "Stop after this many optimizer steps, in place of epochs. Blank: epochs decide.",
        group="Training",
        unit="steps",
        ge=1,
        le=10_000_000,
    )
    batch_size: int = parameter(
        2,
        "Batch size",
        "Rows at once on each device. Costs memory.",
        group="Training",
        unit="rows",
        typical=(2, 64),
        ge=1,
        le=4096,
    )
    gradient_accumulation_steps: int = parameter(
        8,
        "Gradient accumulation",
        "Batches added up before each step. Costs time, no memory.",
        group="Training",
        unit="batches",
        typical=(1, 64),
        default_on_cpu=1,
        ge=1,
        le=4096,
    )
    scheduler: SCHEDULERS = parameter(
        "cosine",
        "Schedule",
        "How the learning rate falls over the train.",
        group="Training",
        choice_titles={
            "linear": "Linear",
            "cosine": "Cosine",
            "constant": "Constant",
            "constant_with_warmup": "Constant with warm-up",
            "polynomial": "Polynomial",
            "inverse_sqrt": "Inverse square root",
        },
    )
    warmup_ratio: float = parameter(
        0.03,
        "Warm-up",
        "Share of steps over which the learning rate climbs.",
        group="Training",
        percent=True,
        typical=(0, 0.1),
        ge=0,
        le=0.5,
    )
    weight_decay: float = parameter(
        0.01,
        "Weight decay",
        "Pulls weights towards zero.",
        group="Training",
        advanced=True,
        typical=(0, 0.1),
        ge=0,
        le=1,
    )
    max_grad_norm: float = parameter(
        1.0,
        "Gradient clip",
        "Gradients longer than this are shortened. 0: never.",
        group="Training",
        advanced=True,
        typical=(0.3, 1),
        ge=0,
        le=10,
    )
    seed: int = parameter(
        42,
        "Seed",
        "The same seed on the same device gives the same train.",
        group="Training",
        advanced=True,
        ge=0,
        le=2**32 - 1,
    )
    adapter: Literal["lora", "none"] = parameter(
        "lora",
        "What to train",
        "A LoRA adapter trains about 1% of the weights; full fine-tuning trains all of them.",
        group="LoRA",
        choice_titles={"lora": "LoRA adapter", "none": "All weights"},
    )
    lora_rank: int = parameter(
        16,
        "Rank",
        "Capacity of the adapter.",
        group="LoRA",
        typical=(8, 64),
        active_when={"adapter": "lora"},
        ge=1,
        le=512,
    )
    lora_alpha: int | None = parameter(
        None,
        "Alpha",
        "Strength of the adapter. Blank: twice the rank.",
        group="LoRA",
        active_when={"adapter": "lora"},
        ge=1,
        le=4096,
    )
    lora_dropout: float = parameter(
        0.05,
        "Dropout",
        "Share of the adapter that is switched off at random in training. Raise it for small "
        "datasets.",
        group="LoRA",
        typical=(0, 0.1),
        active_when={"adapter": "lora"},
        ge=0,
        le=0.5,
    )
    target_modules: Literal["all-linear"] | list[str] = parameter(
        "all-linear",
        "Target modules",
        "Which layers get an adapter.",
        group="LoRA",
        active_when={"adapter": "lora"},
    )
    use_rslora: bool = parameter(
        False,
        "rsLoRA",
        "Scale by the square root of the rank; steadier at high ranks.",
        group="LoRA",
        advanced=True,
        active_when={"adapter": "lora"},
    )
    use_dora: bool = parameter(
        False,
        "DoRA",
        "Train magnitude and direction apart; slower, sometimes better at low ranks.",
        group="LoRA",
        advanced=True,
        active_when={"adapter": "lora"},
    )
    devices: int = parameter(
        1,
        "Devices",
        "On how many devices of one machine the train runs. The batch size is that of each.",
        group="Hardware",
        needs="devices",
        ge=1,
        le=64,
    )
    strategy: Literal["auto", "replicate", "shard"] = parameter(
        "auto",
        "Model on several devices",
        "A whole copy on each is fastest; split over all, a model may be larger than one device.",
        group="Hardware",
        needs="devices",
        active_when={"devices": {"above": 1}},
        choice_titles={
            "auto": "Automatic",
            "replicate": "A whole copy on each (DDP)",
            "shard": "Split over all (FSDP)",
        },
    )
    offload: bool = parameter(
        False,
        "Keep weights and optimizer state in main memory",
        "Saves the GPUs' memory, costs time.",
        group="Hardware",
        advanced=True,
        needs="devices",
        active_when={"devices": {"above": 1}, "strategy": "shard"},
    )
    on_out_of_memory: Literal["fail", "shrink"] = parameter(
        "fail",
        "When memory runs out",
        "Continue with less: half the batch with twice the accumulation, then gradient "
        "checkpointing. What was learned "
        "stays.",
        group="Hardware",
        advanced=True,
        choice_titles={"fail": "Fail", "shrink": "Continue with less"},
    )
    time_limit_minutes: int | None = parameter(
        None,
        "Time limit",
        "Saves and ends after this many minutes. Blank: none.",
        group="Hardware",
        unit="minutes",
        advanced=True,
        typical=(10, 10_000),
        ge=1,
        le=525_600,
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = parameter(
        "auto",
        "Precision",
        "Auto takes what the device does well.",
        group="Hardware",
        advanced=True,
        choice_titles={"auto": "Auto", "bf16": "bf16", "fp16": "fp16", "fp32": "fp32"},
    )
    quantization: Literal["none", "8-bit", "4-bit"] = parameter(
        "none",
        "Quantisation",
        "Load the base model in fewer bits to save memory. Needs a GPU.",
        group="Hardware",
        advanced=True,
        needs="cuda",
        choice_titles={"none": "None", "8-bit": "8-bit", "4-bit": "4-bit"},
    )
    use_liger_kernel: bool = parameter(
        False,
        "Liger kernels",
        "Faster layers that save memory. Needs a GPU.",
        group="Hardware",
        advanced=True,
        needs="cuda",
    )
    gradient_checkpointing: bool = parameter(
        False,
        "Gradient checkpointing",
        "Needs less memory; each step takes longer.",
        group="Hardware",
        advanced=True,
    )
    more: dict[str, Any] = Field(
        default_factory=dict,
        title="Other trainer options",
        description="Options of the training library that have no field of their own, by the names "
        "that it gives them.",
        json_schema_extra={"group": "Hardware", "advanced": True},
    )

    @model_validator(mode="after")
    def check_rules(self, info: ValidationInfo) -> Self:
        """Rules over several fields. Context: {"device": "cpu" or "cuda"} where it is known."""
        if self.max_steps is not None:
            if "epochs" in self.model_fields_set and self.epochs not in (None, 1):
                raise refuse("max_steps", "Give epochs or max steps, not both: clear one of them.")

            self.epochs = None
        elif self.epochs is None:
            raise refuse("epochs", "Give epochs or max steps.")

        if (info.context or {}).get("device") == "cpu":
            self.check_cpu()

        if self.quantization != "none" and self.adapter != "lora":
            raise refuse(
                "quantization",
                "Full fine-tuning cannot train quantised weights. Choose None, or a LoRA adapter.",
            )

        if self.quantization != "none" and self.is_sharded():
            raise refuse(
                "strategy",
                "Quantised weights cannot be split over devices. Choose a whole copy on each, or "
                "no quantisation.",
            )

        if self.more.get("sync_ref_model") and self.adapter == "lora":
            raise refuse(
                "more",
                "sync_ref_model: with a LoRA adapter the reference is the model as it was at the "
                "start, which cannot move along.",
            )

        if self.more.get("sync_ref_model") and self.more.get("precompute_ref_log_probs"):
            raise refuse(
                "more",
                "precompute_ref_log_probs: a reference that moves along cannot be computed once.",
            )

        # Each would look for what the first has written in a folder of its own.
        if self.more.get("precompute_ref_log_probs") and self.devices > 1:
            raise refuse(
                "more",
                "precompute_ref_log_probs: this works on one device only. Leave it out, or choose "
                "one device.",
            )

        return self

    @field_validator("more")
    @classmethod
    def check_more(cls, more: dict[str, Any]) -> dict[str, Any]:
        """Only options that the trainer has and that are offered, with values that fit them."""
        try:
            return options_check(cls.recipe, more)
        except OptionProblem as problem:
            raise refuse("more", str(problem)) from problem

    def check_cpu(self) -> None:
        """Raises the error of a rule for the first value that needs a GPU."""
        needed = self.gpu_needed()
        if needed is not None:
            raise refuse(*needed)

    def gpu_needed(self) -> tuple[str, str] | None:
        """(field, why) of the first value that a worker without a GPU cannot do."""
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            if not isinstance(extra, dict) or extra.get("needs") != "cuda":
                continue

            value = getattr(self, name)
            if value == field.default:
                continue

            what = field.title if value is True else f"{value} loading"
            return name, f"{what}: this needs a GPU, and this worker has none. Leave it off."

        if self.is_sharded():
            return (
                "strategy",
                "Splitting a model over devices needs GPUs, and this worker has none. Choose a "
                "whole copy on each.",
            )

        if self.precision == "fp16":
            return (
                "precision",
                "fp16 needs a GPU, and this worker has none. Choose Auto, bf16 or fp32.",
            )

        return None

    def is_sharded(self) -> bool:
        """Whether the model is split over several devices; else each has a whole copy."""
        return self.devices > 1 and self.strategy == "shard"

    def effective_batch(self) -> int:
        """What one optimizer step learns from, over all devices: rows, or answers where the model
        writes them."""
        return arithmetic.effective_batch(
            self.batch_size, self.gradient_accumulation_steps, self.devices
        )

    def rows_per_step(self) -> int:
        """Rows of the dataset that one optimizer step learns from, over all devices."""
        return self.effective_batch()

    def steps_per_epoch(self, train_rows: int) -> int:
        """Optimizer steps in one pass over the training rows."""
        return arithmetic.steps_per_epoch(
            train_rows, self.batch_size, self.gradient_accumulation_steps, self.devices
        )

    def alpha(self) -> int:
        """LoRA's alpha: twice the rank where it is left blank."""
        if self.lora_alpha is None:
            return 2 * self.lora_rank

        return self.lora_alpha
