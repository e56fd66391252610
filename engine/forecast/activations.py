"""What a forward pass keeps for the backward pass, in bytes, layer by layer.

For a decoder layer of attention and an MLP, and one token, h the hidden size, q and k the widths of
queries and of keys, i the width of the MLP:

    kept for                        numbers
    the two norms                   h + h            their inputs; frozen norms need no more
    inputs of adapted layers        h, q, h, i       of q/k/v, o, gate/up, down
    attention                       q + 2k           queries, keys, values
    its weights                     heads × tokens   of short rows on a CPU, see engine.fast.causal
    the MLP                         3i               gate, its activation, up
    dropout                         the inputs of all adapted layers once more
    an adapter                      rank, in each adapted layer

Where all weights learn, norms keep their results too, and every linear layer its input."""

from __future__ import annotations

from engine.forecast.shape import Linear, ModelShape
from engine.forecast.workload import TWO_SIDED, Workload

# Rows of up to so many tokens keep their attention weights on a CPU (engine.fast.causal.KEPT).
KEPT = 256
# Tiles of the output layer: engine.fast.head and engine.run.trainer.
TILE_TOKENS = 256
TILE_LOGITS = 1 << 24
PLAIN_TILE_TOKENS = {"cpu": 512, "cuda": 4096}
PLAIN_TILE_WORDS = {"cpu": 4096, "cuda": 8192}
TILE_WORDS = 4096
# With checkpointing, how many layers' results are there at once while one is computed again: its own, as
# much of gradients, and on a CPU the places of those before it, which the next ones do not quite fit.
AT_ONCE = {"cpu": 4, "cuda": 2}


def tokens_computed(work: Workload) -> int:
    """Tokens of one forward pass whose results are kept."""
    sides = 2 if work.recipe in TWO_SIDED else 1
    return work.batch.tokens * sides


def activation_bytes(model: ModelShape, work: Workload) -> float:
    """All layers; with checkpointing their inputs, and the layer that is being computed again, with its
    gradients."""
    tokens = tokens_computed(work)
    layer = layer_bytes(model, work)
    # The embedded tokens, the last norm, and the hidden states that the loss is taken from.
    ends = 4 * model.hidden * work.number_bytes * tokens

    if work.checkpointing:
        inputs = model.hidden * _residual_bytes(work) * tokens * model.layers
        return inputs + AT_ONCE[work.target.kind] * layer + ends

    return layer * model.layers + ends


def _residual_bytes(work: Workload) -> int:
    """Of a number of the residual stream: where all weights learn, it stays in fp32."""
    return work.number_bytes if work.trains_adapter else 4


def layer_bytes(model: ModelShape, work: Workload) -> float:
    """What one layer keeps."""
    tokens = tokens_computed(work)
    numbers = _adapted_numbers(model, work) if work.trains_adapter else _full_numbers(model, work)
    return tokens * numbers + _attention_weights(model, work)


def copied_bytes(model: ModelShape, work: Workload) -> float:
    """Weights that learn are held in fp32: of those of linear layers the forward pass makes copies in half
    precision, which the backward pass needs."""
    if work.trains_adapter or not work.is_half:
        return 0.0

    return 2.0 * sum(linear.weights for linear in model.linears) / work.shards


def _adapted_numbers(model: ModelShape, work: Workload) -> float:
    """Bytes a token where a frozen layer has adapters."""
    size = work.number_bytes
    targets = model.targets(work.parameters.get("target_modules", "all-linear"))
    inputs = _inputs(model, targets)
    kept = 2 * model.hidden + sum(inputs.values())
    kept += _attention_numbers(model, work) + _mlp_numbers(model)

    if work.dropout:
        kept += _total_inputs(model, targets)

    rank = int(work.parameters.get("lora_rank") or 16)
    kept += rank * len(targets)
    result = float(kept * size)

    if work.is_half and (work.target.kind == "cuda" or not model.fused_norms):
        # The plain norm keeps its input in fp32 besides; those of queries and keys keep no other.
        result += model.norms * 4 * model.hidden
        if model.query_norms:
            result += (4 - size) * (model.query_width + model.kv_width)

    return result


def _full_numbers(model: ModelShape, work: Workload) -> float:
    """Bytes a token where all weights learn: fp32 between the layers, each product's inputs in the
    precision that it is computed in."""
    half = work.number_bytes
    norms = 2 * 2 * model.hidden * 4
    # Each product casts its input for itself: three for q, k and v, two for gate and up.
    copies = (3 + (2 if model.gates else 1)) if work.is_half else 2
    inputs = copies * model.hidden * half + model.query_width * half + model.intermediate * half
    attention = _attention_numbers(model, work) * half
    mlp = _mlp_numbers(model) * half

    return norms + inputs + attention + mlp


def _inputs(model: ModelShape, targets: tuple[Linear, ...]) -> dict[str, int]:
    """The distinct inputs that adapted layers keep; layers beside one another share theirs."""
    per_layer: dict[str, int] = {}
    for linear in targets:
        width = (
            model.intermediate
            if linear.is_expert and linear.inputs != model.hidden
            else linear.inputs
        )
        if linear.name in ("o_proj", "out_proj", "dense", "wo"):
            key = "attended"
        elif width == model.hidden:
            is_mlp = linear.name in MLP_INPUTS or linear.is_expert
            key = "mlp" if is_mlp else "attention"
        else:
            key = "down"
        per_layer[key] = max(per_layer.get(key, 0), width)

    return per_layer


MLP_INPUTS = frozenset(
    {"gate_proj", "up_proj", "gate_up_proj", "c_fc", "fc1", "fc_in", "w1", "w3", "dense_h_to_4h"}
)


def _total_inputs(model: ModelShape, targets: tuple[Linear, ...]) -> int:
    """The inputs of all adapted layers of one decoder layer together."""
    return sum(linear.inputs * linear.count for linear in targets) // model.layers


def _attention_numbers(model: ModelShape, work: Workload) -> int:
    """Queries, keys and values. Where a mask hides padding, keys and values are repeated for each query
    head. Norms of queries and keys keep their inputs, and torch's attention the result of each row."""
    width = model.kv_width if work.lies_end_to_end(model) else model.query_width
    numbers = model.query_width + 2 * width

    if model.query_norms:
        numbers += model.query_width + model.kv_width
    if work.lies_end_to_end(model) and not work.is_half:
        numbers += model.query_width

    return numbers


def _mlp_numbers(model: ModelShape) -> int:
    return (3 if model.gates else 2) * model.intermediate


def _attention_weights(model: ModelShape, work: Workload) -> float:
    """Bytes of the attention weights that are kept."""
    is_kept = work.is_half and work.trains_adapter and work.lies_end_to_end(model)
    if work.target.kind != "cpu" or not is_kept:
        return 0.0

    batch = work.batch
    mean = batch.tokens / batch.rows
    if mean > KEPT:
        return 0.0

    return model.heads * batch.tokens * mean * work.number_bytes


def transient_bytes(model: ModelShape, work: Workload) -> float:
    """What the backward pass of one layer holds besides: gradients of the MLP's parts."""
    return 3.0 * model.intermediate * tokens_computed(work) * work.number_bytes


def head_bytes(model: ModelShape, work: Workload) -> float:
    """The output layer: its tiles of logits, and the gradients of the hidden states."""
    if work.recipe == "reward":
        return 0.0

    tokens = tokens_computed(work)
    hidden = tokens * model.hidden * work.number_bytes
    words = model.vocabulary

    if not work.trains_adapter or work.target.kind == "cuda":
        kind = work.target.kind
        tile = min(tokens, PLAIN_TILE_TOKENS[kind]) * min(words, PLAIN_TILE_WORDS[kind])
        # The weight's gradient is summed in fp32, and added to that of the embeddings.
        weight = 0 if work.trains_adapter else model.embedding * 4
        return 3.0 * tile * 4 + weight + 2 * tokens * model.hidden * 4

    if work.is_half:
        rows = min(tokens, TILE_TOKENS, max(1, TILE_LOGITS // words))
        # The product in half precision, in fp32, its powers, and those rounded again.
        return rows * words * (2 + 4 + 4 + 2) + 2.0 * hidden

    tile = min(tokens, TILE_TOKENS) * min(words, TILE_WORDS)
    return 2.0 * tile * 4 + 2.0 * hidden
