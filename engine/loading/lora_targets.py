"""Which layers of a model get a LoRA adapter.

"All linear layers" means every linear layer that a text passes through, short of the output layer.
Left alone are: layers of towers for pictures and sound; layers whose weight the model reads past
the layer (an adapter there would be trained and never used); and the experts and routers of a
mixture of experts.

Experts hold their weights in one block, not in linear layers. peft can adapt such a block, but only
by adding the adapter's product to all of it in each forward pass: for a model of 30 billion weights
that is as much memory again as the model takes. So experts are adapted where somebody names them,
and then without dropout, which peft cannot apply to a block."""

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
# peft hears these names, wherever they stand, as those of the experts: in such a family it was so
# before transformers put all experts into one block. Dense layers of the same name cannot be named
# alone.
EXPERT_NAMES = {"gate_proj", "up_proj", "down_proj", "gate", "w1", "w2", "w3"}
ROUTERS = re.compile(r"(^|\.)(gate|router)(\.|$)")
# Their kernels for GPUs take the weight of the output projection and pass over the layer (peft's
# list, and those that it lacks).
MIXERS_READ_PAST = ("Mamba", "BambaMixer", "FalconH1Mixer")


@dataclass(frozen=True)
class Targets:
    """`modules`: what peft calls target_modules. `blocks`: target_parameters, whole blocks of
    experts.

    `has_experts`: blocks are adapted, by their own names or by those that their experts had before.
    """

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
    are_experts = _renamed_experts(model)
    output = model.get_output_embeddings()
    names = [
        name
        for name, module in _linear_layers(model)
        if module is not output
        and name not in SEQ_CLS_HEAD_NAMES
        and (reached is None or name in reached or ("expert" in name and kind_of(name) in reached))
        and not (are_experts and name.rpartition(".")[2] in EXPERT_NAMES)
        and not ROUTERS.search(name)
        and not _is_read_past(model, name)
    ]

    return Targets(names)


def targets_without(model: Any, targets: Targets, lost: set[str]) -> Targets:
    """The targets less the layers in `lost`, each layer by its whole name. The model has no adapter
    yet."""
    modules = [
        name
        for name, _ in _linear_layers(model)
        if name not in lost
        and any(name == wanted or name.endswith(f".{wanted}") for wanted in targets.modules)
    ]

    return Targets(modules, targets.blocks, targets.has_experts)


def lost_when_loaded(model: Any) -> set[str]:
    """Names of the layers whose adapter would be lost between saving and loading.

    On its way in, peft gives an adapter's weights the names that transformers gives a model's. In a
    few families these rules hit names that are right already (Laguna's shared_experts becomes
    shared_expertss), and peft drops without a word what has no place then. So the fresh adapter of
    `model` is saved to memory and loaded again."""
    before = {
        name: weight.detach().clone()
        for name, weight in model.named_parameters()
        if "lora_" in name
    }

    for name, weight in model.named_parameters():
        if name in before:
            weight.data.zero_()

    saved = get_peft_model_state_dict(model)
    for name, value in saved.items():
        if "lora_" in name:
            saved[name] = torch.ones_like(value)

    set_peft_model_state_dict(model, saved)

    lost: set[str] = set()
    for name, weight in model.named_parameters():
        if name in before:
            if not bool((weight == 1).all()):
                lost.add(name.removeprefix("base_model.model.").partition(".lora_")[0])

            weight.data.copy_(before[name])

    return lost


def kind_of(name: str) -> str:
    """A layer's name without its number: model.layers.3.mlp.up_proj ->
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

    left = sorted(_expert_blocks(model.get_base_model()) - blocks)
    if left:
        text += (
            f"; the experts ({', '.join(left)}) and their router stay as they are: name them as "
            "target modules to "
            "adapt them too"
        )

    return text


def _short(name: str) -> str:
    """up_proj; with what stands before it where it is only a number."""
    *_, before, last = ("", *name.split("."))
    return f"{before}.{last}" if last.isdigit() else last


def _linear_layers(model: Any) -> list[tuple[str, Any]]:
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
    ]


def is_plain_linear(module: Any) -> bool:
    """One product with one matrix, by the class's own word; its weight may be quantised."""
    if isinstance(module, Conv1D):
        return True

    is_quantised = type(module).__module__.partition(".")[0] == "bitsandbytes"
    return isinstance(module, torch.nn.Linear) and (
        is_quantised or type(module).forward is torch.nn.Linear.forward
    )


def _computes_plainly(module: Any, inputs: tuple[Any, ...], result: torch.Tensor) -> bool:
    """Whether this result is the product with the layer's matrix, which peft adds an adapter's to.
    Some classes that call themselves linear multiply group by group."""
    if is_plain_linear(module):
        return True

    with torch.no_grad():
        wanted = torch.nn.functional.linear(inputs[0], module.weight, module.bias)
        return wanted.shape == result.shape and torch.allclose(wanted, result, rtol=0.02, atol=0.02)


def _named(model: Any, wanted: list[str]) -> Targets:
    """Names that no layer has may be those of blocks of experts.

    Raises TrainError for the layers at both ends of the model: the loss is taken from the weight of
    the output layer itself, past an adapter, and many models use the weight of the one for the
    other."""
    ends = [
        layer
        for layer in (model.get_input_embeddings(), model.get_output_embeddings())
        if layer is not None
    ]

    refused = [name for name in wanted if any(_is_named(model, layer, name) for layer in ends)]
    if refused:
        raise TrainError(
            "bad_adapter",
            f"An adapter on {' and '.join(refused)} is not possible: it is the model's first or "
            "last layer.",
            "Take it out of Target modules. Choose layers between, such as q_proj and v_proj, or "
            "all-linear.",
        )

    layers = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    experts = _expert_blocks(model)
    blocks = [name for name in wanted if name in experts and name not in layers]
    modules = [name for name in wanted if name not in blocks]
    renamed = bool(experts) and _renamed_experts(model) and bool(set(wanted) & EXPERT_NAMES)

    return Targets(modules, blocks, has_experts=bool(blocks) or renamed)


def _is_named(model: Any, layer: Any, wanted: str) -> bool:
    names = [name for name, module in model.named_modules() if module is layer]
    return any(name == wanted or name.endswith(f".{wanted}") for name in names)


def _expert_blocks(model: Any) -> set[str]:
    """Last names of the weights with three dimensions, (experts, in, out) or (experts, out, in)."""
    return {
        name.rpartition(".")[2]
        for name, weight in model.named_parameters()
        if weight.ndim == 3
        and "expert" in name
        and "lora_" not in name
        and not name.endswith("bias")
    }


def _renamed_experts(model: Any) -> bool:
    """Whether peft takes the names of EXPERT_NAMES for those of experts in this family."""
    # peft's own, which has more of them than transformers' table of the same name.
    from peft.utils import transformers_weight_conversion as conversion

    pattern = conversion._MODEL_TO_CONVERSION_PATTERN.get(model.config.model_type)  # type: ignore[attr-defined]

    return pattern in conversion._MOE_TARGET_MODULE_MAPPING


def _is_read_past(model: Any, name: str) -> bool:
    parent, _, leaf = name.rpartition(".")
    kind = type(model.get_submodule(parent)).__name__
    return leaf == "out_proj" and any(part in kind for part in MIXERS_READ_PAST)


def _reached(model: Any) -> set[str] | None:
    """Names of the linear layers on which the logits of a few tokens depend, and their kinds; None
    where the model cannot be asked.

    A layer that is passed and whose result is thrown away (BERT's pooler), or only sorted by (an
    indexer of sparse attention), could learn nothing. Asked by gradients of the layers' results, so
    that none is made for a weight."""
    results: list[tuple[str, torch.Tensor]] = []

    def keep(name: str) -> Any:
        def hear(module: Any, inputs: Any, result: torch.Tensor) -> None:
            if _computes_plainly(module, inputs, result):
                results.append((name, result))

        return hear

    embedding = model.get_input_embeddings()
    hooks = [module.register_forward_hook(keep(name)) for name, module in _linear_layers(model)]
    hooks.append(embedding.register_forward_hook(_begin_gradients))

    try:
        with _as_in_training(model):
            ids = torch.arange(PROBE_TOKENS, device=model.device)[None] % embedding.num_embeddings
            logits = model(input_ids=ids, use_cache=False).logits
            asked = [(name, result) for name, result in results if result.requires_grad]
            found = torch.autograd.grad(
                logits.float().sum(), [result for _, result in asked], allow_unused=True
            )
    except Exception:
        # It wants more than tokens. What it does want, the train itself will say.
        return None
    finally:
        for hook in hooks:
            hook.remove()

    names = {name for (name, _), gradient in zip(asked, found, strict=True) if gradient is not None}
    return names | {kind_of(name) for name in names}


def _begin_gradients(module: Any, inputs: Any, embedded: torch.Tensor) -> torch.Tensor:
    return embedded.requires_grad_() if embedded.is_leaf else embedded


@contextmanager
def _as_in_training(model: Any) -> Iterator[None]:
    """Gemma 3n, for one, reads past a layer there that it passes otherwise. No layer is left out by
    chance, no weight asks for a gradient, and no random number of the train's is drawn."""
    was_training = model.training
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    dropped = [
        (module, module.layerdrop) for module in model.modules() if hasattr(module, "layerdrop")
    ]
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
