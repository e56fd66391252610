"""The adapter's layers on a base model that has no weights (torch's meta device).

The sums are peft's own, so that DoRA, rank-stabilised LoRA, patterns of ranks and transposed layers
come out as they were trained. They are computed in fp32: peft on a base model in bf16 rounds the
sum to 8 bits, which changed one greedy answer of two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from peft.utils.other import AuxiliaryTrainingWrapper
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from engine.loading.adapter_files import adapter_put
from engine.loading.architecture import Refused
from engine.loading.finite import is_finite

PREFIX = "base_model.model."


def base_without_weights(base: Path, task: str, **options: Any) -> Any:
    """The base model of the folder `base` on the meta device.

    `task`: SEQ_CLS for a scorer, whose base has a head of one score.
    """
    config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    model_class: Any = AutoModelForCausalLM

    if task == "SEQ_CLS":
        model_class = AutoModelForSequenceClassification
        config.num_labels = 1

    with torch.device("meta"):
        model = model_class.from_config(config, **options)

    model.tie_weights()
    return model


class AdapterLayers:
    """What the adapter in the folder `adapter` does to the weights of the model in `base`.

    layers: {weight that a LoRA layer changes: that layer}. blocks: names of adapted blocks of
    experts. replaced: {weight that was trained whole: its value}, such as a scorer's head. names:
    all weights of the base model. task: peft's task type.

    Raises Refused for an adapter that does not fit the base model.
    """

    def __init__(self, base: Path, adapter: Path) -> None:
        config = PeftConfig.from_pretrained(str(adapter))
        self.task = str(config.task_type)
        plain = base_without_weights(base, self.task)
        self.names = set(plain.state_dict())
        shared = _tied_weights(plain)
        self.base_prefix = str(plain.base_model_prefix)

        _placeholders_set(plain)
        self.model = adapter_put(plain, config, adapter, assign=True)
        self.layers: dict[str, LoraLayer] = {}
        self.blocks: list[str] = []
        self.replaced: dict[str, torch.Tensor] = {}
        self._collect(shared)

    def _collect(self, shared: set[str]) -> None:
        for path, module in self.model.named_modules():
            name = path.removeprefix(PREFIX)
            if isinstance(module, ParamWrapper):
                self.blocks.append(name)
            elif isinstance(module, LoraLayer):
                self.layers[f"{name}.weight"] = module
            elif isinstance(module, AuxiliaryTrainingWrapper):
                trained = module.modules_to_save["default"]
                for key, value in trained.state_dict().items():
                    self.replaced[f"{name}.{key}"] = value.detach()

        if not (self.layers or self.blocks or self.replaced):
            raise Refused("The adapter changes no weight of this base model.")

        changed_and_shared = sorted(shared.intersection(self.layers))
        if changed_and_shared:
            raise Refused(
                f"The adapter changes {changed_and_shared[0]}, which the base model uses both as "
                "its first and as its last layer: a merged model would not be the one that was "
                "trained."
            )

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the base model's weight `name`, which the adapter changes."""
        layer: Any = self.layers[name]
        return tuple(layer.get_base_layer().weight.shape)

    def merged(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The weight `name` with the adapter merged into it, in fp32; `weight` is the base model's,
        of the same shape.

        Raises Refused where the sum is not finite.
        """
        layer: Any = self.layers[name]
        holder = layer.get_base_layer()
        placeholder = holder.weight
        # Not the tensor itself: peft adds to it in place.
        copy = weight.to(torch.float32, copy=True)
        holder.weight = torch.nn.Parameter(copy, requires_grad=False)

        try:
            # Its own check of the sum takes longer than the sum.
            layer.merge(safe_merge=False)
            result: torch.Tensor = holder.weight.detach()
        finally:
            layer.merged_adapters.clear()
            holder.weight = placeholder

        if not is_finite(result):
            raise Refused(f"The adapter's numbers are broken: the sum of {name} is not finite.")

        return result


def _placeholders_set(model: Any) -> None:
    """Replace every weight by a single 0 that is expanded to its shape, in memory in place of the
    meta device: peft puts an adapter on its layer's device, and there its numbers would be lost."""
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            zeros = torch.zeros((), dtype=torch.float32).expand(weight.shape)
            placeholder = torch.nn.Parameter(zeros, requires_grad=False)
            setattr(module, name, placeholder)


def _tied_weights(model: Any) -> set[str]:
    """Names of the weights of embeddings and output layer where both share one (tied weights)."""
    embeddings = model.get_input_embeddings()
    output = model.get_output_embeddings()
    if output is None or output.weight is not embeddings.weight:
        return set()

    return {
        f"{path}.weight"
        for path, module in model.named_modules()
        if module is embeddings or module is output
    }
