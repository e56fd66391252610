"""Answers on a CPU, token after token: the model's own weights, and as little as possible around
their products.

Where a model is small, transformers' modules and peft's layers cost more than the products
themselves. This loop is handed to `generate`, which prepares prompts, sampling and stopping as
ever. A prompt that is asked several times is read once, padding is not read at all, and an answer
that has ended is computed no further."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import MethodType
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch.nn import functional
from transformers.generation import logits_process
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.utils import GENERATION_MODES_MAPPING

from engine.fast.adapter import adapter_write, beside, is_plain, wide_weight
from engine.fast.fallback import attempt

# All of them are embeddings, layers of attention and a gated MLP with a norm before each, a last
# norm and a head.
MODELS = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
PRODUCTS = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
# Of these the angles depend on how long the text has become.
CHANGING_POSITIONS = ("dynamic", "longrope")
MODES = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)
# Of each row by itself, so that rows may be left out.
PROCESSORS = (
    logits_process.TemperatureLogitsWarper,
    logits_process.TopKLogitsWarper,
    logits_process.TopPLogitsWarper,
    logits_process.MinPLogitsWarper,
    logits_process.RepetitionPenaltyLogitsProcessor,
    logits_process.NoRepeatNGramLogitsProcessor,
    logits_process.MinLengthLogitsProcessor,
    logits_process.MinNewTokensLengthLogitsProcessor,
    logits_process.SuppressTokensLogitsProcessor,
)
# Arguments of `generate` that this loop, or what hands it over, would pass over.
NOT_KNOWN = {"assistant_model", "custom_generate", "streamer", "tokenizer"}
# Room for so many more tokens is made at once.
GROWTH = 128


def switch_on(model: Any) -> str:
    """Have `model.generate` write by this loop where it can. Returns what stands against it, ""
    where nothing does."""
    obstacle = _obstacle(_base(model))
    if not obstacle:
        # Bound, so that a copy of the model writes with its own weights.
        model.generate = MethodType(_generate, model)

    return obstacle


def _generate(model: Any, *arguments: Any, **options: Any) -> Any:
    base = _base(model)
    # Trainers let the products of fp32 weights be computed in half precision by a forward of their
    # own.
    is_mixed = base.dtype is torch.float32 and any(
        "forward" in vars(module) for module in (model, base)
    )

    # Looked at each time: a trainer may have given the model a second adapter meanwhile.
    def plain() -> Any:
        return type(model).generate(model, *arguments, **options)

    if is_mixed or NOT_KNOWN & set(options) or _obstacle(base):
        return plain()

    return attempt(
        "a loop of our own for answers",
        lambda: type(model).generate(model, *arguments, **options, custom_generate=_write),
        plain,
    )


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "peft_config") else model


def _obstacle(base: Any) -> str:
    if type(base).__name__ not in MODELS:
        return "this architecture has another form"
    if base.model.rotary_emb.rope_type in CHANGING_POSITIONS:
        return "its positions change with the length of the text"

    if getattr(base.config, "sliding_window", None) and getattr(
        base.config, "use_sliding_window", True
    ):
        return "it looks back through a window"

    head = base.get_output_embeddings()
    modules = [module for layer in base.model.layers for module in _products(layer)]
    is_plain_head = (
        type(head) is torch.nn.Linear and head.bias is None and "forward" not in vars(head)
    )
    if not (is_plain_head and all(map(_is_known, modules))):
        return "its layers are of another kind"

    weights = [
        base.get_input_embeddings().weight,
        head.weight,
        *(_linear(module).weight for module in modules),
    ]
    return (
        ""
        if len({weight.dtype for weight in weights}) == 1
        else "its weights have several precisions"
    )


def _products(layer: Any) -> list[Any]:
    return [
        getattr(part, name)
        for part, names in zip((layer.self_attn, layer.mlp), PRODUCTS, strict=True)
        for name in names
    ]


def _is_known(module: Any) -> bool:
    if isinstance(module, LoraLinear):
        return len(module.active_adapters) == 1 and is_plain(module, *module.active_adapters)

    return type(module) is torch.nn.Linear


def _linear(module: Any) -> Any:
    return module.get_base_layer() if isinstance(module, LoraLinear) else module


class _Products:
    """x W' + b + s (x A') B' of the modules that have one input, side by side.

    An adapter and its frozen layer are one product that rounds once, as in engine.fast.adapter:
    added to a rounded result, or to the weights ahead, most of an adapter that has learned for a
    few steps would be lost, and the answers would be those of another model than the one that
    learns from them. x A' is computed in fp32: so small, it is several times faster that way."""

    def __init__(self, modules: list[Any]) -> None:
        # (weight, bias, columns of x A' that go with it) of each module.
        self.parts: list[tuple[torch.Tensor, torch.Tensor | None, slice | None]] = []
        downs: list[torch.Tensor] = []
        rank = 0

        for module in modules:
            linear = _linear(module)
            if module is linear or module.merged or module.disable_adapters:
                self.parts.append((linear.weight, linear.bias, None))
                continue

            (name,) = module.active_adapters
            down, up = module.lora_A[name].weight, module.lora_B[name].weight
            wide = wide_weight(module, len(down))
            adapter_write(wide, up, module.scaling[name])
            self.parts.append((wide, linear.bias, slice(rank, rank + len(down))))
            downs.append(down.float())
            rank += len(down)

        self.down = torch.cat(downs).t() if downs else None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x: (tokens, in). Returns (tokens, out of all modules)."""
        inner = None if self.down is None else (x.float() @ self.down).to(x.dtype)
        results = []

        for weight, bias, columns in self.parts:
            if inner is None or columns is None:
                results.append(functional.linear(x, weight, bias))
            else:
                results.append(
                    functional.linear(beside(x, inner[:, columns], weight), weight, bias)
                )

        return torch.cat(results, -1) if len(results) > 1 else results[0]


# (layer, queries, keys, values), each (tokens, heads, head size), to (tokens, heads, head size).
Attention = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class _Reader:
    """The model as it is now: a step of the optimizer needs a new one. Rows of the batch are
    tokens, never padding."""

    def __init__(self, base: Any) -> None:
        self.base = base
        self.layers = list(base.model.layers)
        attention = self.layers[0].self_attn
        self.size: int = attention.head_dim
        self.scale: float = attention.scaling
        self.groups: int = base.config.num_key_value_heads
        self.heads: int = base.config.num_attention_heads
        self.products = [
            [
                _Products(modules)
                for modules in (products[:3], products[3:4], products[4:6], products[6:])
            ]
            for products in map(_products, self.layers)
        ]

    def __call__(
        self, ids: torch.Tensor, positions: torch.Tensor, attention: Attention
    ) -> torch.Tensor:
        """ids, positions: (tokens,). Returns hidden states after the last norm, (tokens, hidden
        size)."""
        inner, shape = self.base.model, (len(ids), -1, self.size)
        hidden = inner.embed_tokens(ids)
        cos, sin = (
            part[0][:, None] for part in inner.rotary_emb(hidden, position_ids=positions[None])
        )
        # The sign of the turned half goes into the angles, once for all layers.
        half = self.size // 2
        sin = torch.cat((-sin[..., :half], sin[..., half:]), -1)

        for number, (layer, (first, output, gated, down)) in enumerate(
            zip(self.layers, self.products, strict=True)
        ):
            heads = first(_normed(hidden, layer.input_layernorm)).view(shape)
            turned, value = heads[:, : -self.groups], heads[:, -self.groups :]

            if hasattr(layer.self_attn, "q_norm"):
                query, key = turned[:, : self.heads], turned[:, self.heads :]
                turned = torch.cat((layer.self_attn.q_norm(query), layer.self_attn.k_norm(key)), 1)

            turned = turned.mul(cos).addcmul_(turned.roll(half, -1), sin)
            attended = attention(number, turned[:, : self.heads], turned[:, self.heads :], value)
            hidden = hidden + output(attended.flatten(1))
            gate, up = gated(_normed(hidden, layer.post_attention_layernorm)).chunk(2, -1)
            hidden = hidden + down(layer.mlp.act_fn(gate).mul_(up))

        return _normed(hidden, inner.norm)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(tokens, vocabulary), in fp32."""
        return functional.linear(hidden, self.base.get_output_embeddings().weight).float()


def _normed(x: torch.Tensor, norm: Any) -> torch.Tensor:
    return functional.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)


class _Memory:
    """Keys and values of all layers, each (rows, groups, room, head size). Rows end at the same
    place; what stands before a shorter one's beginning is `hidden`."""

    def __init__(self, reader: _Reader, prompts: list[torch.Tensor]) -> None:
        self.reader = reader
        self.filled = max(len(ids) for ids in prompts)
        self.before = torch.tensor([self.filled - len(ids) for ids in prompts])
        shape, dtype = (
            (len(prompts), reader.groups, self.filled + GROWTH, reader.size),
            reader.base.dtype,
        )

        self.keys, self.values = (
            [torch.zeros(shape, dtype=dtype) for _ in reader.layers] for _ in range(2)
        )

    def prompts_read(self, prompts: list[torch.Tensor]) -> torch.Tensor:
        """Fill the memory. Returns the logits after each prompt, (rows, vocabulary)."""
        first: dict[tuple[int, ...], int] = {}
        which = [first.setdefault(tuple(ids.tolist()), len(first)) for ids in prompts]
        distinct = [torch.tensor(ids) for ids in first]
        borders = torch.tensor([0, *(len(ids) for ids in distinct)]).cumsum(0)

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            parts = []
            for start, end in pairwise(borders.tolist()):
                queries, keys, values = (
                    part[start:end].transpose(0, 1)[None] for part in (q, k, v)
                )
                found = functional.scaled_dot_product_attention(
                    queries, keys, values, is_causal=True, scale=self.reader.scale, enable_gqa=True
                )
                parts.append(found[0].transpose(0, 1))

            for row, number in enumerate(which):
                start, end = int(borders[number]), int(borders[number + 1])
                place = slice(self.filled - (end - start), self.filled)
                self.keys[layer][row, :, place] = k[start:end].transpose(0, 1)
                self.values[layer][row, :, place] = v[start:end].transpose(0, 1)

            return torch.cat(parts)

        positions = torch.cat([torch.arange(len(ids)) for ids in distinct])
        hidden = self.reader(torch.cat(distinct), positions, attend)

        return self.reader.logits(hidden[borders[1:] - 1])[which]

    def next_read(self, ids: torch.Tensor) -> torch.Tensor:
        """ids: (rows,), the next token of each. Returns the logits after it, (rows, vocabulary)."""
        self._room_make()
        place, self.filled = self.filled, self.filled + 1
        seen = self._seen()

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            self.keys[layer][:, :, place] = k
            self.values[layer][:, :, place] = v
            keys, values = (
                memory[layer][:, :, : self.filled] for memory in (self.keys, self.values)
            )
            # The heads that share keys and values stand where several queries of one head would.
            queries = q.reshape(len(q), self.reader.groups, -1, self.reader.size)
            found = functional.scaled_dot_product_attention(
                queries, keys, values, seen, scale=self.reader.scale
            )

            return found.reshape(q.shape)

        return self.reader.logits(self.reader(ids, place - self.before, attend))

    def _seen(self) -> torch.Tensor | None:
        """(rows, 1, 1, filled): 0 where something of the row stands, -inf before it; None where all
        of it is."""
        if not self.before.any():
            return None

        empty = torch.arange(self.filled) < self.before[:, None, None, None]
        return torch.zeros(empty.shape, dtype=self.reader.base.dtype).masked_fill_(
            empty, -torch.inf
        )

    def _room_make(self) -> None:
        if self.filled < self.keys[0].shape[2]:
            return

        room = (0, 0, 0, max(GROWTH, self.filled // 2))
        for memory in (self.keys, self.values):
            for layer, tensor in enumerate(memory):
                memory[layer] = functional.pad(tensor, room)

    def keep(self, rows: torch.Tensor) -> None:
        """rows: (rows,) of bool."""
        self.before = self.before[rows]
        for memory in (self.keys, self.values):
            for layer, tensor in enumerate(memory):
                memory[layer] = tensor[rows]


def _write(
    base: Any,
    input_ids: torch.Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    **options: Any,
) -> torch.Tensor:
    """What transformers calls in place of its own loop.

    input_ids: (rows, tokens), padded on the left. Returns them with what was written, (rows, tokens
    and more), padded on the right."""
    mode = generation_config.get_generation_mode()
    if (
        mode not in MODES
        or generation_config.return_dict_in_generate
        or not _are_known(logits_processor)
    ):
        theirs = getattr(base, GENERATION_MODES_MAPPING[mode])
        whole: torch.Tensor = theirs(
            input_ids, logits_processor, stopping_criteria, generation_config, **options
        )
        return whole

    mask = options.get("attention_mask")
    asked = input_ids.new_ones(input_ids.shape) if mask is None else mask
    prompts = [ids[are_asked.bool()] for ids, are_asked in zip(input_ids, asked, strict=True)]
    memory = _Memory(_Reader(base), prompts)
    logits = memory.prompts_read(prompts)
    pad = generation_config.pad_token_id
    written, unended = input_ids, torch.arange(len(input_ids))

    while True:
        scores = logits_processor(written[unended], logits)
        tokens = (
            _drawn(torch.softmax(scores, -1)) if generation_config.do_sample else scores.argmax(-1)
        )
        column = torch.full((len(written), 1), 0 if pad is None else pad)
        column[unended, 0] = tokens
        written = torch.cat((written, column), 1)
        goes_on = ~stopping_criteria(written[unended], None)
        if not goes_on.any():
            return written

        if not goes_on.all():
            memory.keep(goes_on)
            unended, tokens = unended[goes_on], tokens[goes_on]

        logits = memory.next_read(tokens)


def _are_known(processors: Any) -> bool:
    return all(type(processor) in PROCESSORS for processor in processors)


def _drawn(probabilities: torch.Tensor) -> torch.Tensor:
    """probabilities: (rows, vocabulary). Returns a token for each row, (rows,).

    torch.multinomial draws a number for each token of the vocabulary, which takes twenty times as
    long."""
    reached = probabilities.cumsum(-1, dtype=torch.float64)
    whole = reached[:, -1:]
    if not whole.isfinite().all():
        # In the words of torch.multinomial.
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")

    wanted = torch.rand(whole.shape, dtype=torch.float64) * whole
    # Rounding may lead to the very end, behind which there is no token.
    wanted = torch.minimum(wanted, torch.nextafter(whole, torch.zeros_like(whole)))
    return torch.searchsorted(reached, wanted, right=True)[:, 0]
