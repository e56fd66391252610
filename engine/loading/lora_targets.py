"""Which layers of a model get a LoRA adapter.

"All linear layers" means every linear layer that a text passes through, except the output layer.
Without an adapter stay: layers of vision and audio towers; layers whose weight the model uses
directly, without calling the layer (an adapter there would be trained and never used); and the
experts and routers of a mixture of experts.

Experts hold their weights in one tensor, (experts, in, out), not in linear layers. peft can adapt
such a block (target_parameters), but only by adding the adapter's product to all of it in each
forward pass: for a model of 30 billion weights that is as much memory again as the model takes. So
experts are adapted where somebody names them, and then without dropout, which peft cannot apply to
a block."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils.constants import SEQ_CLS_HEAD_NAMES
from transformers.pytorch_utils import Conv1D

from engine.messages.failures import TrainError

PROBE_TOKENS = 8
# In families whose experts transformers has put into one block, peft takes these names for those of
# the experts, wherever they occur: the experts' layers had them before. Dense layers of the same
# name cannot be adapted alone.
EXPERT_NAMES = {"gate_proj", "up_proj", "down_proj", "gate", "w1", "w2", "w3"}
ROUTERS = re.compile(r"(^|\.)(gate|router)(\.|$)")
# Their GPU kernels use the weight of the output projection without calling the layer (peft's list,
# and those that it lacks).
MIXERS_WITHOUT_CALL = ("Mamba", "BambaMixer", "FalconH1Mixer")


@dataclass(frozen=True)
class Targets:
    """`modules`: peft's target_modules. `blocks`: peft's target_parameters, blocks of experts.
    `has_experts`: whether blocks are adapted, by their own names or by EXPERT_NAMES."""

    modules: list[str]
    blocks: list[str] = field(default_factory=list)
    has_experts: bool = False


def targets_choose(model: Any, wanted: str | list[str]) -> Targets:
    """`wanted`: "all-linear", or names of layers such as q_proj. The model has no adapter yet.

    Raises TrainError, see _named.
    """
    if isinstance(wanted, list):
        return _named(model, wanted)

    reached = _reached(model)
    has_renamed_experts = _has_renamed_experts(model)
    output_layer = model.get_output_embeddings()
    names: list[str] = []

    for name, module in _linear_layers(model):
        if module is output_layer or name in SEQ_CLS_HEAD_NAMES or ROUTERS.search(name):
            continue

        # An expert that none of the probe's tokens went to counts as the others of its kind.
        is_expert_of_kind = "expert" in name and reached and kind_of(name) in reached
        if reached is not None and name not in reached and not is_expert_of_kind:
            continue

        if has_renamed_experts and name.rpartition(".")[2] in EXPERT_NAMES:
            continue

        if not _is_used_without_call(model, name):
            names.append(name)

    return Targets(names)


def targets_without(model: Any, targets: Targets, lost: set[str]) -> Targets:
    """The targets without the layers in `lost`, each layer by its whole name. The model has no
    adapter yet."""
    modules: list[str] = []
    for name, _ in _linear_layers(model):
        is_target = any(_matches(name, target) for target in targets.modules)
        if is_target and name not in lost:
            modules.append(name)

    return Targets(modules, targets.blocks, targets.has_experts)


def _matches(name: str, target: str) -> bool:
    """Whether peft finds the layer `name` by the target module `target`."""
    return name == target or name.endswith(f".{target}")


def lost_when_loaded(model: Any) -> set[str]:
    """Names of the layers whose adapter would be lost between saving and loading.

    When peft loads an adapter, it renames weights by transformers' rules for the model. In a few
    families these rules change names that are right already (Laguna's shared_experts becomes
    shared_expertss), and peft silently drops weights that match no layer then. So the fresh adapter
    of `model` is saved to memory, with 1 for every number, and loaded into one of 0: whatever is
    not 1 afterwards was lost."""
    adapter = {name: weight for name, weight in model.named_parameters() if "lora_" in name}
    before = {name: weight.detach().clone() for name, weight in adapter.items()}

    for weight in adapter.values():
        weight.data.zero_()

    saved = get_peft_model_state_dict(model)
    for name, value in saved.items():
        if "lora_" in name:
            saved[name] = torch.ones_like(value)

    set_peft_model_state_dict(model, saved)

    lost: set[str] = set()
    for name, weight in model.named_parameters():
        if name not in before:
            continue

        if not bool((weight == 1).all()):
            layer = name.removeprefix("base_model.model.").partition(".lora_")[0]
            lost.add(layer)

        weight.data.copy_(before[name])

    return lost


def kind_of(name: str) -> str:
    """A layer's name without its numbers: model.layers.3.mlp.up_proj becomes
    model.layers.*.mlp.up_proj."""
    return re.sub(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)", "*", name)


def adapted_describe(model: Any) -> str:
    """What an adapter sits on, for the log: "q_proj, v_proj (8 layers); not on …"."""
    from peft.tuners.lora.layer import LoraLayer

    layers: set[str] = set()
    blocks: set[str] = set()
    count = 0

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            block = getattr(module, "parameter_name", "")
            layers.add(block or _short(name))
            blocks.add(block)
            count += 1

    text = f"{', '.join(sorted(layers))} ({count:,} layers)"

    not_adapted = sorted(_expert_blocks(model.get_base_model()) - blocks)
    if not_adapted:
        text += (
            f"; the experts ({', '.join(not_adapted)}) and their router stay as they are: name "
            "them as target modules to adapt them too"
        )

    return text


def _short(name: str) -> str:
    """The last part of a layer's name, such as up_proj; the last two where the last is a number."""
    *_, before, last = ("", *name.split("."))
    return f"{before}.{last}" if last.isdigit() else last


def _linear_layers(model: Any) -> list[tuple[str, Any]]:
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
    ]


def is_plain_linear(module: Any) -> bool:
    """Whether the layer's class multiplies its input with one matrix; the weight may be
    quantised."""
    if isinstance(module, Conv1D):
        return True

    if not isinstance(module, torch.nn.Linear):
        return False

    is_quantised = type(module).__module__.partition(".")[0] == "bitsandbytes"
    return is_quantised or type(module).forward is torch.nn.Linear.forward


def _computes_plainly(module: Any, inputs: tuple[Any, ...], result: torch.Tensor) -> bool:
    """Whether `result`, (…, out), is x W' + b for the layer's input x, (…, in): only then does
    peft's adapter, which adds to it, fit. Some linear classes multiply group by group."""
    if is_plain_linear(module):
        return True

    with torch.no_grad():
        product = torch.nn.functional.linear(inputs[0], module.weight, module.bias)
        if product.shape != result.shape:
            return False

        return torch.allclose(product, result, rtol=0.02, atol=0.02)


def _named(model: Any, wanted: list[str]) -> Targets:
    """The target modules that somebody named. Names that no layer has may be those of blocks of
    experts.

    Raises TrainError for the embeddings and the output layer: the loss is computed from the weight
    of the output layer, without its adapter, and many models share one weight between the two."""
    embeddings = model.get_input_embeddings()
    output_layer = model.get_output_embeddings()
    refused: list[str] = []

    for name in wanted:
        is_output = output_layer is not None and _is_named(model, output_layer, name)
        if is_output or _is_named(model, embeddings, name):
            refused.append(name)

    if refused:
        raise TrainError(
            "bad_adapter",
            f"An adapter on {' and '.join(refused)} is not possible: it is the model's first or "
            "last layer.",
            "Take it out of Target modules. Choose layers between, such as q_proj and v_proj, or "
            "all-linear.",
        )

    layers = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    expert_blocks = _expert_blocks(model)
    blocks = [name for name in wanted if name in expert_blocks and name not in layers]
    modules = [name for name in wanted if name not in blocks]

    names_experts = bool(EXPERT_NAMES.intersection(wanted))
    has_renamed = bool(expert_blocks) and names_experts and _has_renamed_experts(model)

    return Targets(modules, blocks, has_experts=bool(blocks) or has_renamed)


def _is_named(model: Any, layer: Any, wanted: str) -> bool:
    names = [name for name, module in model.named_modules() if module is layer]
    return any(_matches(name, wanted) for name in names)


def _expert_blocks(model: Any) -> set[str]:
    """The last part of the name of each block of experts, a weight of three dimensions: (experts,
    in, out) or (experts, out, in)."""
    blocks: set[str] = set()
    for name, weight in model.named_parameters():
        is_weight = "lora_" not in name and not name.endswith("bias")
        if weight.ndim == 3 and "expert" in name and is_weight:
            blocks.add(name.rpartition(".")[2])

    return blocks


def _has_renamed_experts(model: Any) -> bool:
    """Whether peft takes the names of EXPERT_NAMES for those of experts in this family."""
    # peft's own, which has more of them than transformers' table of the same name.
    from peft.utils import transformers_weight_conversion as conversion

    pattern = conversion._MODEL_TO_CONVERSION_PATTERN.get(model.config.model_type)  # type: ignore[attr-defined]

    return pattern in conversion._MOE_TARGET_MODULE_MAPPING


def _is_used_without_call(model: Any, name: str) -> bool:
    """Whether a kernel uses the layer's weight without calling the layer."""
    parent, _, last = name.rpartition(".")
    if last != "out_proj":
        return False

    class_name = type(model.get_submodule(parent)).__name__
    return any(mixer in class_name for mixer in MIXERS_WITHOUT_CALL)


def _reached(model: Any) -> set[str] | None:
    """Names of the linear layers on which the logits of a few tokens depend, and their kinds
    (kind_of); None where the model cannot be computed on tokens alone.

    A layer that is computed and whose result is thrown away (BERT's pooler), or only sorted by (an
    indexer of sparse attention), could learn nothing. Found by the gradients of the layers'
    results, so that no weight needs memory for a gradient."""
    results: list[tuple[str, torch.Tensor]] = []

    def keep(name: str) -> Any:
        def hook(module: Any, inputs: Any, result: torch.Tensor) -> None:
            if _computes_plainly(module, inputs, result):
                results.append((name, result))

        return hook

    embedding = model.get_input_embeddings()
    hooks = [module.register_forward_hook(keep(name)) for name, module in _linear_layers(model)]
    hooks.append(embedding.register_forward_hook(_begin_gradients))

    try:
        with _as_in_training(model):
            ids = torch.arange(PROBE_TOKENS, device=model.device)[None] % embedding.num_embeddings
            logits = model(input_ids=ids, use_cache=False).logits
            names = [name for name, result in results if result.requires_grad]
            tensors = [result for _, result in results if result.requires_grad]
            gradients = torch.autograd.grad(logits.float().sum(), tensors, allow_unused=True)
    except Exception:
        # It needs more than tokens. What that is, the train's own error will say.
        return None
    finally:
        for hook in hooks:
            hook.remove()

    reached: set[str] = set()
    for name, gradient in zip(names, gradients, strict=True):
        if gradient is not None:
            reached |= {name, kind_of(name)}

    return reached


def _begin_gradients(module: Any, inputs: Any, embedded: torch.Tensor) -> torch.Tensor:
    """Have autograd follow everything behind the embeddings: embedded, (1, tokens, hidden_size)."""
    return embedded.requires_grad_() if embedded.is_leaf else embedded


@contextmanager
def _as_in_training(model: Any) -> Iterator[None]:
    """The model in training mode, in which some use other layers (Gemma 3n), but with no layer
    dropped at random (layerdrop), no gradients of weights, and without drawing from the train's
    random numbers."""
    was_training = model.training
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    with_layerdrop = [module for module in model.modules() if hasattr(module, "layerdrop")]
    dropped = [(module, module.layerdrop) for module in with_layerdrop]
    devices = [model.device] if model.device.type == "cuda" else []

    model.train()

    for weight in learned:
        weight.requires_grad_(False)

    for module, _ in dropped:
        module.layerdrop = 0.0

    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, share in dropped:
            module.layerdrop = share

        for weight in learned:
            weight.requires_grad_()

        model.train(was_training)
