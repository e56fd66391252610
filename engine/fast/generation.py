"""Generation on a CPU with a KV cache: a prefill, then one decode step a token.

Where a model is small, transformers' modules and peft's layers cost more than the matrix products
themselves. This loop is handed to `generate` as `custom_generate`; `generate` prepares prompts,
sampling and stopping criteria as ever. A prompt that occurs several times in the batch is computed
once, padding is never computed, and a row that has ended leaves the batch.

Prefill. The distinct prompts lie end to end, without padding, in one batch of size 1. Prompts A, B
and A again, of 3 and 5 tokens, are 8 tokens for the decoder:

    token       A0 A1 A2 B0 B1 B2 B3 B4        distinct prompts: A, B
    position     0  1  2  0  1  2  3  4        offsets:          0, 3, 8
    prompt       0  0  0  1  1  1  1  1        prompt_of_row:    0, 1, 0

KV cache. One tensor of keys and one of values a layer, (rows, kv_heads, capacity, head_dim), in the
model's dtype. Rows are aligned on the right, as left-padded prompts are, so that a decode step
writes the same column in each:

    column        0   1   2   3   4   5   6  ...
                 |<-- length = 5 -->|<-- CACHE_GROWTH free -->|
    row 0 (A)     .   .  A0  A1  A2   .   .   .   .   .   .   .      start 2
    row 1 (B)    B0  B1  B2  B3  B4   .   .   .   .   .   .   .      start 0
    row 2 (A)     .   .  A0  A1  A2   .   .   .   .   .   .   .      start 2
                                      ^ the next decode step writes here

Decode step. One token a row: (rows,) token ids at position length - start, attending to the columns
from start to itself."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, pairwise
from types import MethodType
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch.nn import functional
from transformers.generation import logits_process
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.utils import GENERATION_MODES_MAPPING

from engine.fast.adapter import adapter_write, augmented_input, is_plain, wide_weight
from engine.fast.fallback import attempt

# Embeddings, layers of grouped-query attention and a gated MLP with an RMS norm before each, a last
# norm and a head: DecoderForward computes this form and no other.
MODELS = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
ATTENTION_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
# Rotary embeddings whose angles depend on how long the text has become.
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")
MODES = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)
# These look at each row by itself, so that rows may leave the batch.
ROW_WISE_PROCESSORS = (
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
# Arguments of `generate` that this loop, or `custom_generate` itself, would ignore.
UNSUPPORTED_OPTIONS = {"assistant_model", "custom_generate", "streamer", "tokenizer"}
# The KV cache gets room for at least this many more tokens whenever it is full.
CACHE_GROWTH = 128


def switch_on(model: Any) -> str:
    """Have `model.generate` use this loop where it can. Returns the reason why it cannot, "" where
    it can."""
    obstacle = _obstacle(_base(model))
    if not obstacle:
        # Bound, so that a copy of the model generates with its own weights.
        model.generate = MethodType(_generate, model)

    return obstacle


def _generate(model: Any, *arguments: Any, **options: Any) -> Any:
    def plain() -> Any:
        return type(model).generate(model, *arguments, **options)

    def fast() -> Any:
        return type(model).generate(model, *arguments, **options, custom_generate=_decode_loop)

    base = _base(model)
    # Trainers compute fp32 weights in half precision by replacing `forward`, which this loop does
    # not call.
    has_own_forward = "forward" in vars(model) or "forward" in vars(base)
    is_mixed = base.dtype is torch.float32 and has_own_forward

    # The model is inspected at each call: a trainer may have given it a second adapter meanwhile.
    if is_mixed or UNSUPPORTED_OPTIONS & set(options) or _obstacle(base):
        return plain()

    return attempt("a loop of our own for answers", fast, plain)


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "peft_config") else model


def _obstacle(base: Any) -> str:
    """Why DecoderForward cannot compute this model, "" where it can."""
    if type(base).__name__ not in MODELS:
        return "this architecture has another form"

    if base.model.rotary_emb.rope_type in LENGTH_DEPENDENT_ROPE:
        return "its positions change with the length of the text"

    window = getattr(base.config, "sliding_window", None)
    if window and getattr(base.config, "use_sliding_window", True):
        return "it looks back through a window"

    head = base.get_output_embeddings()
    is_plain_head = type(head) is torch.nn.Linear and head.bias is None
    if not is_plain_head or "forward" in vars(head):
        return "its layers are of another kind"

    dtypes = {base.get_input_embeddings().weight.dtype, head.weight.dtype}
    for layer in base.model.layers:
        for module in _projections(layer):
            if not _is_supported(module):
                return "its layers are of another kind"

            dtypes.add(_linear(module).weight.dtype)

    return "its weights have several precisions" if len(dtypes) > 1 else ""


def _projections(layer: Any) -> list[Any]:
    """The seven linear modules of a decoder layer: q, k, v, o, gate, up, down."""
    attention = [getattr(layer.self_attn, name) for name in ATTENTION_PROJECTIONS]
    mlp = [getattr(layer.mlp, name) for name in MLP_PROJECTIONS]
    return attention + mlp


def _is_supported(module: Any) -> bool:
    if isinstance(module, LoraLinear):
        return len(module.active_adapters) == 1 and is_plain(module, *module.active_adapters)

    return type(module) is torch.nn.Linear


def _linear(module: Any) -> Any:
    return module.get_base_layer() if isinstance(module, LoraLinear) else module


class FusedProjection:
    """x W' + b + s (x A') B' for the modules that share an input (q, k and v; gate and up), their
    results side by side.

    An adapter and its frozen layer are one matrix product that rounds once, as in
    engine.fast.adapter: added to a rounded result, or merged into the weights, most of an adapter
    that has learned for a few steps would be lost, and the answers would be those of another model
    than the one that learns from them. x A' is computed in fp32: it is so small that this is
    several times faster."""

    def __init__(self, modules: list[Any]) -> None:
        # For each module: (weight, bias, its columns of x A', None where no adapter is active).
        # The weight is (out, in), or (out, in + room) with an adapter; see wide_weight.
        self.parts: list[tuple[torch.Tensor, torch.Tensor | None, slice | None]] = []
        lora_as: list[torch.Tensor] = []
        total_rank = 0

        for module in modules:
            linear = _linear(module)
            if module is linear or module.merged or module.disable_adapters:
                self.parts.append((linear.weight, linear.bias, None))
                continue

            (name,) = module.active_adapters
            lora_a = module.lora_A[name].weight  # (rank, in), fp32
            lora_b = module.lora_B[name].weight  # (out, rank), fp32
            rank = len(lora_a)
            wide = wide_weight(module, rank)
            adapter_write(wide, lora_b, module.scaling[name])

            columns = slice(total_rank, total_rank + rank)
            self.parts.append((wide, linear.bias, columns))
            lora_as.append(lora_a.float())
            total_rank += rank

        # (in, ranks of all modules), fp32: x A' of all modules is one product.
        self.lora_a = torch.cat(lora_as).t() if lora_as else None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x: (tokens, in), in the model's dtype. Returns (tokens, out of all modules), in that
        dtype."""
        inner = None
        if self.lora_a is not None:
            inner = (x.float() @ self.lora_a).to(x.dtype)  # (tokens, ranks of all modules)

        results = []

        for weight, bias, columns in self.parts:
            module_input = x
            if inner is not None and columns is not None:
                module_input = augmented_input(x, inner[:, columns], weight)

            results.append(functional.linear(module_input, weight, bias))

        return torch.cat(results, -1) if len(results) > 1 else results[0]


# (layer index, query, key, value) to the attended values. query and result: (tokens, heads,
# head_dim); key and value: (tokens, kv_heads, head_dim).
Attention = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class DecoderForward:
    """The decoder's forward pass over tokens of several rows, none of them padding. It holds the
    weights as they are now: after an optimizer step a new one is needed."""

    def __init__(self, base: Any) -> None:
        self.base = base
        self.layers = list(base.model.layers)
        attention = self.layers[0].self_attn
        self.head_dim: int = attention.head_dim
        self.scale: float = attention.scaling
        self.kv_heads: int = base.config.num_key_value_heads
        self.heads: int = base.config.num_attention_heads
        # For each layer: q, k and v; o; gate and up; down.
        self.projections: list[list[FusedProjection]] = []

        for layer in self.layers:
            modules = _projections(layer)
            groups = (modules[:3], modules[3:4], modules[4:6], modules[6:])
            self.projections.append([FusedProjection(group) for group in groups])

    def __call__(
        self, ids: torch.Tensor, positions: torch.Tensor, attention: Attention
    ) -> torch.Tensor:
        """ids, positions: (tokens,), int64. Returns the hidden states after the last norm, (tokens,
        hidden_size), in the model's dtype."""
        decoder = self.base.model
        hidden = decoder.embed_tokens(ids)  # (tokens, hidden_size)
        cos, sin = self._rotary_angles(hidden, positions)

        for number, (layer, (qkv, output, gate_up, down)) in enumerate(
            zip(self.layers, self.projections, strict=True)
        ):
            # (tokens, heads + 2 * kv_heads, head_dim)
            projected = qkv(_rms_norm(hidden, layer.input_layernorm))
            projected = projected.view(len(ids), -1, self.head_dim)
            query_key = projected[:, : -self.kv_heads]
            value = projected[:, -self.kv_heads :]

            if hasattr(layer.self_attn, "q_norm"):
                query = layer.self_attn.q_norm(query_key[:, : self.heads])
                key = layer.self_attn.k_norm(query_key[:, self.heads :])
                query_key = torch.cat((query, key), 1)

            half_turned = query_key.roll(self.head_dim // 2, -1)
            query_key = query_key.mul(cos).addcmul_(half_turned, sin)
            query = query_key[:, : self.heads]
            key = query_key[:, self.heads :]

            attended = attention(number, query, key, value)  # (tokens, heads, head_dim)
            hidden = hidden + output(attended.flatten(1))

            # Each (tokens, intermediate_size).
            gate, up = gate_up(_rms_norm(hidden, layer.post_attention_layernorm)).chunk(2, -1)
            hidden = hidden + down(layer.mlp.act_fn(gate).mul_(up))

        return _rms_norm(hidden, decoder.norm)

    def _rotary_angles(
        self, hidden: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of the rotary embedding, each (tokens, 1, head_dim): the same for all
        heads. The first half of the sines is negated here, once for all layers, in place of the
        half of each query and key that rotate_half negates."""
        cos, sin = self.base.model.rotary_emb(hidden, position_ids=positions[None])
        cos = cos[0][:, None]
        sin = sin[0][:, None]
        half = self.head_dim // 2
        sin = torch.cat((-sin[..., :half], sin[..., half:]), -1)

        return cos, sin

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden: (tokens, hidden_size). Returns (tokens, vocabulary), computed in the model's
        dtype, in fp32."""
        return functional.linear(hidden, self.base.get_output_embeddings().weight).float()


def _rms_norm(x: torch.Tensor, norm: Any) -> torch.Tensor:
    """x: (tokens, hidden_size). Returns the same shape and dtype."""
    return functional.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)


class KVCache:
    """Keys and values of all layers, each (rows, kv_heads, capacity, head_dim) in the model's
    dtype; the module's docstring draws it.

    length: how many columns are written, the same for all rows. starts: (rows,), int64, the column
    of each row's first token; what stands before it is masked."""

    def __init__(self, forward: DecoderForward, prompts: list[torch.Tensor]) -> None:
        """prompts: a tensor of token ids, (tokens,), for each row."""
        self.forward = forward
        lengths = torch.tensor([len(ids) for ids in prompts])
        self.length = int(lengths.max())
        self.starts = self.length - lengths

        capacity = self.length + CACHE_GROWTH
        shape = (len(prompts), forward.kv_heads, capacity, forward.head_dim)
        dtype = forward.base.dtype
        self.keys = [torch.zeros(shape, dtype=dtype) for _ in forward.layers]
        self.values = [torch.zeros(shape, dtype=dtype) for _ in forward.layers]

    def prefill(self, prompts: list[torch.Tensor]) -> torch.Tensor:
        """Compute the prompts, each distinct one once, and fill the cache. Returns the logits after
        each row's prompt, (rows, vocabulary), fp32."""
        distinct, prompt_of_row = _deduplicate(prompts)
        # (distinct prompts + 1,): prompt i is tokens offsets[i] to offsets[i + 1].
        offsets = list(accumulate((len(prompt) for prompt in distinct), initial=0))

        def attend(
            layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
        ) -> torch.Tensor:
            """query: (tokens of all distinct prompts, heads, head_dim); key, value: (tokens,
            kv_heads, head_dim). Returns the shape of `query`."""
            for row, number in enumerate(prompt_of_row):
                tokens = slice(offsets[number], offsets[number + 1])
                self._fill(layer, row, key[tokens], value[tokens])

            attended = []

            for start, end in pairwise(offsets):
                # (1, heads or kv_heads, tokens of this prompt, head_dim)
                q, k, v = (part[start:end].transpose(0, 1)[None] for part in (query, key, value))
                result = functional.scaled_dot_product_attention(
                    q, k, v, is_causal=True, scale=self.forward.scale, enable_gqa=True
                )
                attended.append(result[0].transpose(0, 1))

            return torch.cat(attended)

        ids = torch.cat(distinct)
        positions = torch.cat([torch.arange(len(prompt)) for prompt in distinct])
        hidden = self.forward(ids, positions, attend)  # (tokens, hidden_size)

        last_tokens = [end - 1 for end in offsets[1:]]
        logits = self.forward.logits(hidden[last_tokens])  # (distinct prompts, vocabulary)

        return logits[prompt_of_row]

    def _fill(self, layer: int, row: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Write a row's prompt, which ends at the last column so far. key, value: (tokens,
        kv_heads, head_dim)."""
        columns = slice(self.length - len(key), self.length)
        self.keys[layer][row, :, columns] = key.transpose(0, 1)
        self.values[layer][row, :, columns] = value.transpose(0, 1)

    def decode_step(self, ids: torch.Tensor) -> torch.Tensor:
        """ids: (rows,), the next token of each row. Returns the logits after it, (rows,
        vocabulary), fp32."""
        self._ensure_capacity()
        column = self.length
        self.length += 1
        mask = self._mask()

        def attend(
            layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
        ) -> torch.Tensor:
            """query: (rows, heads, head_dim); key, value: (rows, kv_heads, head_dim). Returns the
            shape of `query`."""
            self.keys[layer][:, :, column] = key
            self.values[layer][:, :, column] = value
            # Each (rows, kv_heads, length, head_dim).
            keys = self.keys[layer][:, :, : self.length]
            values = self.values[layer][:, :, : self.length]
            # (rows, kv_heads, heads of a kv head, head_dim): the heads that share a key stand where
            # several queries of one head would.
            grouped = query.reshape(len(query), self.forward.kv_heads, -1, self.forward.head_dim)
            attended = functional.scaled_dot_product_attention(
                grouped, keys, values, mask, scale=self.forward.scale
            )

            return attended.reshape(query.shape)

        hidden = self.forward(ids, column - self.starts, attend)  # (rows, hidden_size)
        return self.forward.logits(hidden)

    def _mask(self) -> torch.Tensor | None:
        """(rows, 1, 1, length) in the model's dtype: 0 from the row's start on and -inf before it;
        None where all rows start at column 0."""
        if not self.starts.any():
            return None

        is_before = torch.arange(self.length) < self.starts[:, None, None, None]
        mask = torch.zeros(is_before.shape, dtype=self.forward.base.dtype)
        return mask.masked_fill_(is_before, -torch.inf)

    def _ensure_capacity(self) -> None:
        capacity = self.keys[0].shape[2]
        if self.length < capacity:
            return

        growth = max(CACHE_GROWTH, self.length // 2)
        for tensors in (self.keys, self.values):
            for layer, tensor in enumerate(tensors):
                tensors[layer] = functional.pad(tensor, (0, 0, 0, growth))

    def keep(self, rows: torch.Tensor) -> None:
        """Drop the rows that have ended. rows: (rows,), bool, true for those that stay."""
        self.starts = self.starts[rows]
        for tensors in (self.keys, self.values):
            for layer, tensor in enumerate(tensors):
                tensors[layer] = tensor[rows]


def _deduplicate(prompts: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[int]]:
    """(the distinct prompts, each (tokens,), and for each row the index of its own)."""
    index_of: dict[tuple[int, ...], int] = {}
    distinct: list[torch.Tensor] = []
    prompt_of_row: list[int] = []

    for prompt in prompts:
        key = tuple(prompt.tolist())
        if key not in index_of:
            index_of[key] = len(distinct)
            distinct.append(prompt)

        prompt_of_row.append(index_of[key])

    return distinct, prompt_of_row


def _decode_loop(
    base: Any,
    input_ids: torch.Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    **options: Any,
) -> torch.Tensor:
    """What `generate` calls in place of transformers' own loop.

    input_ids: (rows, tokens), left-padded. Returns them with the generated tokens, (rows, tokens
    and more), padded on the right."""
    mode = generation_config.get_generation_mode()
    is_supported = (
        mode in MODES
        and not generation_config.return_dict_in_generate
        and all(type(processor) in ROW_WISE_PROCESSORS for processor in logits_processor)
    )
    if not is_supported:
        transformers_loop = getattr(base, GENERATION_MODES_MAPPING[mode])
        result: torch.Tensor = transformers_loop(
            input_ids, logits_processor, stopping_criteria, generation_config, **options
        )
        return result

    prompts = _without_padding(input_ids, options.get("attention_mask"))
    cache = KVCache(DecoderForward(base), prompts)
    logits = cache.prefill(prompts)  # (active rows, vocabulary)
    pad = generation_config.pad_token_id
    generated = input_ids
    # (active rows,): indices into the batch of the rows that have not ended.
    active = torch.arange(len(input_ids))

    while True:
        scores = logits_processor(generated[active], logits)  # (active rows, vocabulary)
        tokens = _next_tokens(scores, generation_config.do_sample)
        column = torch.full((len(generated), 1), 0 if pad is None else pad)
        column[active, 0] = tokens
        generated = torch.cat((generated, column), 1)

        is_unfinished = ~stopping_criteria(generated[active], None)
        if not is_unfinished.any():
            return generated

        if not is_unfinished.all():
            cache.keep(is_unfinished)
            active = active[is_unfinished]
            tokens = tokens[is_unfinished]

        logits = cache.decode_step(tokens)


def _without_padding(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None
) -> list[torch.Tensor]:
    """input_ids, attention_mask: (rows, tokens). Returns each row's own token ids, (its tokens,)."""
    if attention_mask is None:
        return list(input_ids)

    return [ids[mask.bool()] for ids, mask in zip(input_ids, attention_mask, strict=True)]


def _next_tokens(scores: torch.Tensor, do_sample: bool) -> torch.Tensor:
    """scores: (rows, vocabulary). Returns a token for each row, (rows,), int64."""
    if not do_sample:
        return scores.argmax(-1)

    return _sample(torch.softmax(scores, -1))


def _sample(probabilities: torch.Tensor) -> torch.Tensor:
    """probabilities: (rows, vocabulary), fp32. Returns a random token for each row, (rows,), int64.

    By the inverse of the cumulative distribution: torch.multinomial draws a random number for each
    token of the vocabulary, which takes twenty times as long."""
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    if not total.isfinite().all():
        # The message of torch.multinomial, which failures are recognised by.
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")

    threshold = torch.rand(total.shape, dtype=torch.float64) * total
    # Rounding may lead to the very end, behind which there is no token.
    threshold = torch.minimum(threshold, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0]
