"""A model that is split over the ranks (FSDP2): how the trainer is told, and how the model becomes
whole again at the end.

GPUs alone: on processors the training library would make whole copies in its place, silently."""

from __future__ import annotations

from typing import Any

import torch

from engine.distributed.ranks import Ranks
from engine.messages.failures import TrainError
from engine.schema.train import TrainParameters


def sharding_check(parameters: TrainParameters, device_kind: str) -> None:
    """Raises TrainError where the model is to be split and cannot be."""
    if parameters.is_sharded() and device_kind != "cuda":
        raise TrainError(
            "no_gpu",
            "Splitting a model over devices needs GPUs, and this worker has none.",
            "Copy the train with a whole copy of the model on each device.",
        )


def sharding_options(parameters: TrainParameters) -> dict[str, Any]:
    """Options of transformers' trainer: weights, gradients and optimizer state are split, layer by
    layer."""
    return {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "reshard_after_forward": True,
            "cpu_offload": parameters.offload,
            # What a checkpoint holds is the whole model, as that of a train on one device.
            "state_dict_type": "FULL_STATE_DICT",
        },
    }


def make_whole(model: torch.nn.Module, ranks: Ranks) -> None:
    """Bring the parts of all ranks together: afterwards the first one has a whole and ordinary model
    in main memory, and the others have nothing. Of a model with an adapter that alone is brought
    together: nothing else of it is saved, and the base may be larger than the memory of one machine.
    All ranks must come."""
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    has_adapter = hasattr(model, "peft_config")
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if not isinstance(weight, DTensor):
                continue

            if has_adapter and not weight.requires_grad:
                kept = torch.empty(0, dtype=weight.dtype)
            else:
                whole = weight.full_tensor().detach()
                kept = whole.cpu() if ranks.is_first else whole.new_empty(0)

            setattr(module, name, torch.nn.Parameter(kept, requires_grad=weight.requires_grad))

    for module in model.modules():
        if isinstance(module, FSDPModule):
            # fully_shard made a class of its own of the module's, and gathers weights in hooks.
            module.__class__ = type(module).__mro__[2]
            module._forward_pre_hooks.clear()
            module._forward_hooks.clear()
