"""The formulas of engine.forecast against what they speak of: files of models, adapters that peft makes,
what autograd keeps, and batches that a train draws."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.forecast.activations import copied_bytes, layer_bytes
from engine.forecast.batches import Batch, end_to_end_batch, longest_of, packed_batch
from engine.forecast.disk import checkpoints_at_once
from engine.forecast.memory import Memory, memory_forecast, trained_weights, weights_bytes
from engine.forecast.shape import WITHOUT_SDPA, ShapeUnknown, shape_of, shape_read
from engine.forecast.workload import Target, Workload, evaluation_batch, largest_batch
from engine.run.hardware import Device, precision_choose
from engine.schema.registry import RECIPES
from tests.marks import others_long
from tests.tiny import ARCHITECTURES, tiny_model

CPU = Target("cpu", half=True)
LORA: dict[str, Any] = {"adapter": "lora", "lora_rank": 8, "lora_dropout": 0.0, "batch_size": 4}
FULL = LORA | {"adapter": "none"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def make(architecture: str, **changes: Any):
        key = (architecture, *changes.items())
        if key not in made:
            made[key] = tiny_model(tmp_path_factory.mktemp("tiny"), architecture, **changes)
        return made[key]

    return make


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gpt2", "gpt_neox", "phi3", "mixtral"])
def test_the_shape_is_that_of_the_model(folders, architecture):
    """Weights, vocabulary and the layers that adapters go on, as the loaded model has them."""
    from transformers import AutoModelForCausalLM

    folder = folders(architecture)
    shape = shape_read(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)

    assert shape.parameters == sum(weight.numel() for weight in model.parameters())
    assert shape.vocabulary == model.get_input_embeddings().num_embeddings
    assert shape.layers == model.config.num_hidden_layers
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert (shape.output == 0) == tied
    wide = [
        name
        for name, module in model.named_modules()
        if "layers.0." in f"{name}." or ".h.0." in f"{name}."
        if "norm" in type(module).__name__.lower() and module.weight.shape == (shape.hidden,)
    ]
    assert shape.norms == len(wide)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "changes", [{}, {"lora_rank": 3}, {"target_modules": ["q_proj", "up_proj"]}]
)
def test_as_many_weights_learn_as_peft_makes(folders, architecture, changes):
    from transformers import AutoModelForCausalLM

    from engine.loading.model import adapter_add, parameter_counts

    folder = folders(architecture)
    parameters = RECIPES["sft"].parameters.model_validate(LORA | changes)
    adapted = adapter_add(AutoModelForCausalLM.from_pretrained(folder), parameters)
    work = Workload("sft", parameters.model_dump(), Batch(1, 8, 8), CPU)

    assert trained_weights(shape_read(folder), work) == parameter_counts(adapted)[1]


@pytest.mark.parametrize(
    ("config", "tensors", "said"),
    [
        ({}, [], "layers"),
        ({"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2}, [], "embeddings"),
        (
            {"num_hidden_layers": 2},
            [("backbone.layers.0.mixer.A_log", "F32", [4])],
            "other than attention",
        ),
    ],
)
def test_what_is_missing_is_said_and_not_guessed(config, tensors, said):
    with pytest.raises(ShapeUnknown, match=said):
        shape_of(config, tensors)


def test_the_precision_is_the_one_that_the_engine_chooses():
    kinds = itertools.product(
        ("auto", "bf16", "fp16", "fp32"), ("cpu", "cuda"), (True, False), ("lora", "none")
    )
    for wanted, kind, half, adapter in kinds:
        device = Device(kind, "device", 8.0, 2, half)  # type: ignore[arg-type]
        chosen = precision_choose(wanted, device, adapter=adapter == "lora")
        work = Workload(
            "sft",
            {"precision": wanted, "adapter": adapter},
            Batch(1, 8, 8),
            Target(kind, half),  # type: ignore[arg-type]
        )

        assert work.precision == chosen.name
        assert work.weight_bytes == (4 if chosen.weights == "float32" else 2)


def test_no_drawn_batch_is_larger_than_the_largest():
    draw = random.Random(3)
    lengths = [draw.randint(5, 300) for _ in range(400)]
    histogram = tuple(sorted((length, lengths.count(length)) for length in set(lengths)))
    largest = end_to_end_batch(histogram, 4, batches=300)

    sums = []
    for _ in range(3):
        draw.shuffle(lengths)
        sums += [sum(lengths[start : start + 4]) for start in range(0, 400, 4)]

    assert 0.85 * max(sums) <= largest.tokens <= 4 * 300
    assert end_to_end_batch(histogram, 4, batches=3).tokens < largest.tokens
    assert longest_of(histogram, 400) == max(lengths)
    assert longest_of(histogram, 9) < max(lengths)
    assert packed_batch(histogram, 4, 256).tokens == 4 * 256
    # Fewer rows than a batch takes: it is all of them.
    assert end_to_end_batch(((10, 2), (30, 1)), 4, batches=1) == Batch(3, 50, 30)


def test_experts_are_not_quantised(folders):
    """bitsandbytes replaces linear layers, and experts are none."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = folders("mixtral")
    shape = shape_read(folder)
    inside = [
        module.weight.numel()
        for name, module in AutoModelForCausalLM.from_pretrained(folder).named_modules()
        if type(module) is torch.nn.Linear and "lm_head" not in name
    ]
    given = LORA | {"precision": "bf16"}
    plain, quantised = (
        weights_bytes(
            shape,
            Workload(
                "sft", given | {"quantization": kind}, Batch(1, 8, 8), Target("cuda", half=True)
            ),
        )
        for kind in ("none", "4-bit")
    )

    # The router is a matrix too, and next to nothing.
    assert plain - quantised == pytest.approx(sum(inside) * (2 - 0.516), rel=0.1)


def test_a_reference_that_is_computed_before_is_not_kept(folders):
    shape = shape_read(folders("llama"))
    ahead = FULL | {"more": {"precompute_ref_log_probs": True}}

    def parts(given: dict[str, Any]) -> dict[str, int]:
        return memory_forecast(shape, Workload("dpo", given, Batch(1, 9, 9), CPU)).parts

    assert "reference" in parts(FULL)
    assert "reference" not in parts(ahead)
    assert "reference" in parts(ahead | {"devices": 2, "strategy": "shard"})


def test_rows_are_cut_at_the_models_context(folders):
    shape = shape_read(folders("llama"))
    rows = {"rows": {"100": 3, "5000": 3}, "prompts": {}, "steps": 6}
    given = {"batch_size": 1, "max_tokens": 4096}

    assert 0 < shape.context < 4096
    for recipe in ("sft", "dpo"):
        batch = largest_batch(shape, recipe, given, CPU, **rows)  # type: ignore[arg-type]
        assert batch.longest == shape.context


@pytest.mark.parametrize(
    ("target", "given", "changes", "lies"),
    [
        (CPU, {}, {}, True),
        (Target("cuda", half=True), {}, {}, True),
        (Target("cuda", half=True), {"precision": "fp32"}, {}, False),
        (Target("cuda", half=False), {}, {}, False),
        (Target("cuda", half=True), {}, {"head_dim": 12}, False),
        (CPU, {}, {"has_sdpa": False}, False),
        (CPU, {}, {"caps_attention": True}, False),
    ],
)
def test_rows_lie_end_to_end_where_the_engines_attention_can(folders, target, given, changes, lies):
    shape = replace(shape_read(folders("llama", max_position_embeddings=512)), **changes)
    rows: dict[str, Any] = {"rows": {"100": 3, "400": 1}, "prompts": {}, "steps": 6}

    def batch(**more: Any) -> Batch:
        parameters = {"batch_size": 4, "max_tokens": 512} | given | more
        return largest_batch(shape, "sft", parameters, target, **rows)

    assert batch().tokens == (700 if lies else 4 * 400)
    assert batch(packing=True).longest == 400
    assert batch(packing=True).tokens == (700 if lies else 4 * 400)
    # Rows that are compared with one another are always padded.
    assert (
        largest_batch(shape, "kto", {"batch_size": 4, "max_tokens": 512}, target, **rows).tokens
        == 1600
    )


def test_families_whose_attention_is_their_own_are_known():
    import transformers

    for family in WITHOUT_SDPA:
        folder = Path(transformers.__file__).parent / "models" / family
        assert "_supports_sdpa = False" in (folder / f"modeling_{family}.py").read_text()


def test_no_more_is_drawn_for_large_batches_than_for_small_ones():
    """20,000 batches of 4,096 rows took a minute, in the web process."""
    histogram = tuple((tokens, 1000) for tokens in range(1, 101))
    largest = end_to_end_batch(histogram, 4096, batches=20_000)

    # It was drawn once, and is known for however many.
    assert end_to_end_batch(histogram, 4096, batches=1000) is largest
    assert 4096 * 50 < largest.tokens < 4096 * 60


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ({"save_strategy": "epochs", "epochs": 2}, 2),
        ({"save_strategy": "epochs", "epochs": 9}, 5),
        # Of so many steps it is not known how many epochs they are.
        ({"save_strategy": "epochs", "epochs": None, "max_steps": 900}, 5),
        ({"save_strategy": "end", "epochs": None, "max_steps": 900}, 1),
    ],
)
def test_as_many_checkpoints_are_counted_as_may_lie_there(given, count):
    assert checkpoints_at_once({"save_total_limit": 3, "save_every": 1} | given) == count


def test_a_correction_leaves_what_is_known_alone():
    memory = Memory("learning", {"weights": 1000, "rewards": 500, "libraries": 200})

    assert memory.computed == 1000
    assert memory.scaled(0.5).parts == {"weights": 500, "rewards": 500, "libraries": 200}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_each_part_moves_as_it_should(folders, recipe, adapter):
    """Whatever the method: more rows take more, checkpointing less, all weights more than an adapter,
    shards less."""
    # Of few layers checkpointing keeps as much.
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 12}
    shape = shape_read(folders("llama", **sizes))
    given = {
        "gradient_accumulation_steps": 1,
        "beta": 0.1,
        "kl_coef": 0.1,
        "max_completion_tokens": 32,
    }

    def total(rows: int = 8, **changes: Any) -> int:
        parameters = LORA | given | {"adapter": adapter} | changes
        batch = Batch(rows, rows * 4096, 4096, 32 if recipe in ("grpo", "ppo") else 0)
        return memory_forecast(shape, Workload(recipe, parameters, batch, CPU)).total

    assert total(rows=16) > total()
    assert total(gradient_checkpointing=True) < total()
    assert total(adapter="none") >= total()
    assert total(devices=4, strategy="shard") <= total(devices=4, strategy="replicate")
    if adapter == "none":
        assert total(more={"optim": "sgd"}) <= total()


class Kept:
    """Bytes of what autograd keeps, each storage once, weights left out."""

    def __init__(self, model: Any) -> None:
        self.weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        self.storages: dict[int, Any] = {}

    def pack(self, tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.weights:
            self.storages[storage.data_ptr()] = storage
        return tensor

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.storages.values())


CHANGES = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "head_dim": 32,
    "sliding_window": None,
}


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mistral"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_layers_keep_what_the_formula_says(folders, architecture, precision, dropout):
    """A model with adapters, as the engine computes it on a CPU: what four layers keep more than two."""
    import torch
    from transformers import AutoModelForCausalLM

    from engine.fast import adapter, attention, norm
    from engine.loading.model import adapter_add

    lengths = (300, 400, 324)
    tokens = sum(lengths)
    parameters = RECIPES["sft"].parameters.model_validate(
        LORA | {"lora_dropout": dropout, "precision": precision}
    )
    kept = {}

    for layers in (2, 4):
        folder = folders(architecture, **CHANGES | {"num_hidden_layers": layers})
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        attention.register()
        base.set_attn_implementation(attention.NAME)
        model = adapter_add(base, parameters).train()
        adapter.fuse(model)
        if precision == "bf16":
            norm.fuse(model)

        borders = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
        positions = torch.cat([torch.arange(length) for length in lengths])[None]
        batch = {
            "input_ids": torch.zeros(1, tokens, dtype=torch.long),
            "position_ids": positions,
            "cu_seq_lens_q": borders,
            "cu_seq_lens_k": borders,
            "max_length_q": max(lengths),
            "max_length_k": max(lengths),
            "use_cache": False,
        }
        # The trunk alone: the output layer is the same for both. The first pass moves frozen weights.
        trunk = model.get_base_model().model
        trunk(**batch)
        count = Kept(model)
        with torch.autograd.graph.saved_tensors_hooks(count.pack, lambda kept: kept):
            trunk(**batch)

        kept[layers] = count.bytes

    shape = shape_read(folders(architecture, **CHANGES))
    work = Workload("sft", parameters.model_dump(), Batch(3, tokens, max(lengths)), CPU)
    measured = (kept[4] - kept[2]) / 2

    assert layer_bytes(shape, work) == pytest.approx(measured, rel=0.12)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_copies_of_weights_in_half_precision_are_counted(folders, precision):
    """Where all weights learn in fp32, autocast makes copies that the backward pass needs."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = folders("llama", **CHANGES)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    tokens = torch.zeros(1, 8, dtype=torch.long)
    count = Kept(model)
    with (
        torch.autograd.graph.saved_tensors_hooks(count.pack, lambda kept: kept),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"),
    ):
        model.model(tokens, use_cache=False)

    shape = shape_read(folder)
    work = Workload("sft", FULL | {"precision": precision}, Batch(1, 8, 8), CPU)
    copies = sum(linear.weights for linear in shape.linears) * 2

    assert copied_bytes(shape, work) == (copies if precision == "bf16" else 0)
    assert (count.bytes > copies) == (precision == "bf16")


def test_gradients_on_a_gpu_are_there_with_the_batch_where_they_are_summed(folders):
    shape = shape_read(folders("llama"))

    def found(rows: int, tokens: int = 64, **changes: Any) -> Memory:
        batch = Batch(rows, rows * tokens, tokens)
        work = Workload("sft", FULL | changes, batch, Target("cuda", half=True))
        return memory_forecast(shape, work)

    # A large batch has its most at the end of the forward pass, a small one at that of the backward pass.
    assert found(64).moment == "learning"
    assert "gradients" not in found(64).parts
    assert "gradients" in found(64, gradient_accumulation_steps=2).parts
    assert found(64, devices=2).parts["gradients"] == 4 * shape.parameters
    assert found(1, 1).parts["gradients"] == 4 * shape.parameters
    assert found(1, 1).moment == "stepping"


def test_an_evaluation_takes_one_layer_of_its_batch(folders):
    shape = shape_read(folders("llama", **CHANGES))
    given = LORA | {"max_tokens": 64, "evaluation_split": 0.1}
    more = {"more": {"per_device_eval_batch_size": 512}}
    rows: dict[str, Any] = {"rows": {"40": 900, "90": 100}, "prompts": {}}
    usual = evaluation_batch(shape, "dpo", given, CPU, **rows)
    large = evaluation_batch(shape, "dpo", given | more, CPU, **rows)
    work = Workload("dpo", given, Batch(4, 4 * 64, 64), CPU)

    assert usual == Batch(4, 4 * 64, 64)
    assert large == Batch(512, 512 * 64, 64)
    plain = memory_forecast(shape, work)
    assert memory_forecast(shape, replace(work, evaluation=usual)).total == plain.total
    evaluated = memory_forecast(shape, replace(work, evaluation=large))
    assert evaluated.moment == "evaluating"
    assert evaluated.total > plain.total
    assert "gradients" not in evaluated.parts


def test_memory_counts_what_the_engine_measures():
    """On a GPU torch's own count leaves CUDA's context out, and so does what is compared with it."""
    linears = ()
    shape = SimpleNamespace(
        parameters=1000,
        embedding=100,
        output=0,
        layers=1,
        hidden=8,
        heads=2,
        kv_heads=2,
        head_dim=4,
        query_width=8,
        kv_width=8,
        intermediate=16,
        gates=True,
        vocabulary=12,
        stored_bytes=2000,
        linears=linears,
        layer_weights=900,
        fused_norms=True,
        norms=2,
        experts=0,
        query_norms=False,
        stored_dtype="BF16",
        caps_attention=False,
        has_sdpa=True,
        targets=lambda wanted: linears,
    )
    on_gpu = memory_forecast(shape, Workload("sft", LORA, Batch(1, 4, 4), Target("cuda", True)))  # type: ignore[arg-type]
    on_cpu = memory_forecast(shape, Workload("sft", LORA, Batch(1, 4, 4), CPU))  # type: ignore[arg-type]

    assert on_gpu.counted == on_gpu.total - on_gpu.parts["libraries"]
    assert on_cpu.counted == on_cpu.total


WRITING = {"max_prompt_tokens": 600, "max_completion_tokens": 24, "num_generations": 4}
TEXT = "ball red green blue black white large small near far old new"


def rows_of(recipe: str, count: int) -> tuple[str, list[dict[str, Any]]]:
    """(format, rows) of some 300 tokens each."""
    draw = random.Random(5)

    def text(words: int) -> str:
        return " ".join(draw.choice(TEXT.split()) for _ in range(words))

    if recipe in ("grpo", "ppo"):
        return "prompt-only", [{"prompt": text(70)} for _ in range(count)]
    if recipe in ("dpo", "reward"):
        pairs = [
            {"prompt": text(30), "chosen": text(40), "rejected": text(40)} for _ in range(count)
        ]
        return "preference", pairs
    if recipe == "kto":
        rated = [
            {"prompt": text(30), "completion": text(40), "label": bool(number % 2)}
            for number in range(count)
        ]
        return "kto", rated

    return "prompt-completion", [{"prompt": text(30), "completion": text(40)} for _ in range(count)]


@pytest.fixture(scope="module")
def middling(tmp_path_factory):
    """Large enough that what it keeps is more than what a process takes anyway."""
    return tiny_model(
        tmp_path_factory.mktemp("middling"),
        "llama",
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
    )


@pytest.mark.parametrize("adapter", ["lora", "none"])
@pytest.mark.parametrize("recipe", others_long(RECIPES))
def test_a_real_train_takes_what_was_forecast(middling, tmp_path, warm, recipe, adapter):
    """Every method with an adapter and with all weights, two steps each. The formulas leave 15 %."""
    from engine.chat.lengths import count, examples_by_line
    from engine.chat.render import Renderer, tokenizer_load
    from engine.contract.rundir import all_events, read_spec
    from tests.engine.runs import prepare

    form, rows = rows_of(recipe, 20)
    given: dict[str, Any] = {
        "adapter": adapter,
        "batch_size": 8,
        "max_steps": 2,
        "max_tokens": 1024,
    }
    if recipe in ("grpo", "ppo"):
        names = RECIPES[recipe].parameters.model_fields
        given |= {name: value for name, value in WRITING.items() if name in names}
        given["rewards"] = [{"function": "length_window"}]

    run = prepare(tmp_path / "run", middling, rows, recipe=recipe, format=form, **given)
    done = warm.run("engine", str(run), "--in-place")
    assert done.returncode == 0, done.stdout[-2000:]
    peaks = [
        event["values"]["peak_memory_gb"]
        for event in all_events(run)
        if event["type"] == "metrics" and event["split"] == "train"
    ]

    spec = read_spec(run)
    parameters = RECIPES[recipe].parameters.model_validate(spec.parameters).model_dump()
    renderer = Renderer(tokenizer_load(middling), system_prompt="", warn=lambda code, text: None)
    lengths = count(renderer, examples_by_line(run / "data.jsonl", "jsonl", form, {}))
    shape = shape_read(middling)
    batch = largest_batch(
        shape, recipe, parameters, CPU, rows=lengths["rows"], prompts=lengths["prompts"], steps=2
    )
    memory = memory_forecast(shape, Workload(recipe, parameters, batch, CPU))

    measured = max(peaks) * 2**30
    assert memory.counted - memory.parts["libraries"] > 300 * 2**20
    assert memory.counted == pytest.approx(measured, rel=0.15)
