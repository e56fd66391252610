"""The loop that writes answers, held to transformers' own: the same tokens from the same model."""

import copy

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

from engine.fast import adapter, generation
from tests.engine.fast.adapted import with_adapter
from tests.tiny import tiny_model

PAD = 0
# Of different lengths, and one of them twice.
PROMPTS = [[7, 8, 9], [40, 41, 42, 43, 44, 45, 46], [7, 8, 9], [60], [99, 5, 31, 8, 200]]
WIDTH = max(map(len, PROMPTS))
IDS = torch.tensor([[PAD] * (WIDTH - len(ids)) + ids for ids in PROMPTS])
ASKED = {
    "input_ids": IDS,
    "attention_mask": torch.tensor([[0] * (WIDTH - len(ids)) + [1] * len(ids) for ids in PROMPTS]),
    "pad_token_id": PAD,
    "use_cache": True,
}


@pytest.fixture(params=["llama", "mistral", "qwen2", "qwen3"])
def model(request, tmp_path):
    options = {"sliding_window": None} if request.param == "mistral" else {}
    if request.param == "llama":
        options["rope_parameters"] = {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8,
        }
    folder = tiny_model(tmp_path / request.param, request.param)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()
    torch.manual_seed(2)
    for weight in model.parameters():
        # Norms and biases are all ones and zeros in a model that has learned nothing.
        if weight.dim() == 1:
            torch.nn.init.normal_(weight, mean=1.0, std=0.3)
    return model


@pytest.fixture
def adapted(tiny):
    model = with_adapter(tiny).eval()
    adapter.fuse(model)
    return model


@pytest.fixture
def reads(monkeypatch):
    """How many tokens the loop read at a time."""
    counts = []
    read = generation.DecoderForward.__call__

    def counted(self, ids, *others):
        counts.append(len(ids))
        return read(self, ids, *others)

    monkeypatch.setattr(generation.DecoderForward, "__call__", counted)
    return counts


def both(model, **options):
    """What transformers' loop writes, and ours."""
    ours = copy.deepcopy(model)
    assert generation.switch_on(ours) == ""
    found = []
    for one in (model, ours):
        torch.manual_seed(4)
        found.append(one.generate(**ASKED | options))
    return found


def test_the_same_tokens_as_by_transformers(model, reads):
    plain, ours = both(model, do_sample=False, max_new_tokens=12, eos_token_id=None)
    assert plain.tolist() == ours.tolist()
    # One of the five prompts stands there twice.
    assert reads == [16] + 11 * [5]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.6, "top_p": 0.8},
        {"top_k": 5},
        {"min_p": 0.1, "repetition_penalty": 1.3},
    ],
    ids=["plain", "nucleus", "k", "repetition"],
)
def test_the_same_draws(adapted, reads, options, monkeypatch):
    monkeypatch.setattr(
        generation, "_sample", lambda probabilities: torch.multinomial(probabilities, 1)[:, 0]
    )
    plain, ours = both(adapted, do_sample=True, max_new_tokens=12, eos_token_id=None, **options)
    assert plain.tolist() == ours.tolist()
    assert reads


def test_tokens_are_drawn_as_often_as_they_are_probable():
    torch.manual_seed(8)
    wanted = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.15, 0.05, 0.0])
    drawn = generation._sample(wanted.repeat(40_000, 1))
    found = drawn.bincount(minlength=7) / 40_000
    assert found[wanted == 0].sum() == 0
    # Four standard deviations.
    assert ((found - wanted).abs() <= 4 * (wanted * (1 - wanted) / 40_000).sqrt()).all()


def test_answers_end_by_themselves_and_cost_nothing_from_then_on(adapted, reads):
    longest, _ = both(adapted, do_sample=False, max_new_tokens=12, eos_token_id=None)
    # Tokens that some answers have and others do not.
    ends = {longest[0, WIDTH + 3].item(), longest[1, WIDTH + 6].item()}
    reads.clear()
    plain, ours = both(adapted, do_sample=False, max_new_tokens=12, eos_token_id=sorted(ends))
    assert plain.tolist() == ours.tolist()
    answers = longest[:, WIDTH:].tolist()
    lengths = [
        next((number for number, token in enumerate(ids, 1) if token in ends), 12)
        for ids in answers
    ]
    assert len(set(lengths)) > 1
    assert reads[1:] == [
        sum(length > step for length in lengths) for step in range(1, max(lengths))
    ]


def test_it_writes_more_than_it_had_room_for(adapted, monkeypatch):
    monkeypatch.setattr(generation, "CACHE_GROWTH", 3)
    plain, ours = both(adapted, do_sample=False, max_new_tokens=40, eos_token_id=None)
    assert plain.tolist() == ours.tolist()


def test_it_writes_with_what_was_learned_meanwhile(adapted):
    assert generation.switch_on(adapted) == ""
    options = ASKED | {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None}
    before = adapted.generate(**options)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.neg_()
    assert adapted.generate(**options).tolist() != before.tolist()
    with adapted.disable_adapter():
        without = adapted.generate(**options)
    assert without.tolist() == adapted.unload().generate(**options).tolist()


def test_a_copy_writes_with_its_own_weights(adapted, reads):
    assert generation.switch_on(adapted) == ""
    options = ASKED | {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None}
    learned = adapted.generate(**options).tolist()
    other = copy.deepcopy(adapted)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.neg_()
    assert adapted.generate(**options).tolist() != learned
    assert other.generate(**options).tolist() == learned
    assert len(reads) == 3 * 12


def test_of_two_adapters_the_active_one_writes(adapted, reads):
    assert generation.switch_on(adapted) == ""
    options = ASKED | {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None}
    learned = adapted.generate(**options).tolist()
    adapted.add_adapter("reference", LoraConfig(r=4, target_modules="all-linear"))
    assert adapted.generate(**options).tolist() == learned
    adapted.set_adapter("reference")
    assert adapted.generate(**options).tolist() != learned
    assert len(reads) == 3 * 12


def test_a_stop_ends_it(adapted, reads):
    class Stop(StoppingCriteria):
        def __call__(self, input_ids, scores, **options):
            return torch.full((len(input_ids),), input_ids.shape[1] == WIDTH + 2)

    assert generation.switch_on(adapted) == ""
    found = adapted.generate(
        **ASKED, max_new_tokens=12, stopping_criteria=StoppingCriteriaList([Stop()])
    )
    assert found.shape == (5, WIDTH + 2)
    assert reads == [16, 5]


@torch.no_grad()
def test_in_half_precision_it_errs_no_more_than_the_model_that_learns(tiny):
    exact, half = (with_adapter(tiny, dtype).eval() for dtype in (torch.float32, torch.bfloat16))
    adapter.fuse(half)
    draw = torch.Generator().manual_seed(1)
    prompts = [torch.randint(4, 300, (length,), generator=draw) for length in range(1, 41)]
    tokens = torch.randint(4, 300, (40,), generator=draw)
    cache = generation.KVCache(generation.DecoderForward(half.get_base_model()), prompts)
    cache.prefill(prompts)
    ours = cache.decode_step(tokens)
    whole = [torch.cat((ids, tokens[row : row + 1]))[None] for row, ids in enumerate(prompts)]
    wanted, learns = (
        torch.cat([model(ids).logits[:, -1].float() for ids in whole]) for model in (exact, half)
    )
    errors = [(found - wanted).square().mean(-1).median() for found in (ours, learns)]
    assert errors[0] < 1.3 * errors[1]


@torch.no_grad()
def test_what_an_adapter_learns_in_a_few_steps_is_written_with(tiny):
    """In half precision the sum of a weight and so little would be the weight."""
    half = with_adapter(tiny, torch.bfloat16).eval()
    attention = half.get_base_model().model.layers[0].self_attn
    for name, weight in half.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(weight, 1e-5)
    module = attention.q_proj
    merged = module.base_layer.weight + module.get_delta_weight("default").bfloat16()
    unchanged = (merged == module.base_layer.weight).float().mean()
    assert unchanged > 0.9
    # So large that what the adapter adds is more than the rounding of the result.
    x = 50 * torch.sign(module.lora_A["default"].weight.sum(0, keepdim=True)).bfloat16()
    added = (
        generation.FusedProjection([module])(x).float()
        - torch.nn.functional.linear(x, module.base_layer.weight).float()
    )
    wanted = torch.nn.functional.linear(x.float(), module.get_delta_weight("default").float())
    assert 0.8 < added.mean() / wanted.mean() < 1.2


def test_no_token_is_drawn_where_there_is_no_number():
    with pytest.raises(RuntimeError, match="probability tensor contains"):
        generation._sample(torch.tensor([[0.5, 0.5], [float("nan"), 0.5]]))


def test_products_in_another_precision_than_the_weights_are_left_to_transformers(adapted, reads):
    assert generation.switch_on(adapted) == ""
    adapted.forward = torch.autocast("cpu", torch.bfloat16)(adapted.forward)
    adapted.generate(**ASKED, max_new_tokens=2)
    assert reads == []


def test_processors_that_remember_rows_are_left_to_transformers(adapted, reads):
    plain, ours = both(adapted, do_sample=False, max_new_tokens=6, encoder_repetition_penalty=1.2)
    assert plain.tolist() == ours.tolist()
    assert reads == []


def window(folder):
    return AutoModelForCausalLM.from_pretrained(tiny_model(folder, "mistral"), sliding_window=6)


def gemma(folder):
    return AutoModelForCausalLM.from_pretrained(tiny_model(folder, "gemma2"))


def dora(folder):
    return with_adapter(tiny_model(folder), use_dora=True)


def other_precision(folder):
    model = AutoModelForCausalLM.from_pretrained(tiny_model(folder), dtype=torch.bfloat16)
    model.lm_head.float()
    return model


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (window, "looks back through a window"),
        (gemma, "this architecture"),
        (dora, "layers are of another kind"),
        (other_precision, "several precisions"),
    ],
)
def test_other_models_are_left_to_transformers(make, why, tmp_path, reads):
    model = make(tmp_path / "model").eval()
    assert why in generation.switch_on(model)
    if make is not other_precision:
        model.generate(**ASKED, max_new_tokens=2)
    assert reads == []


def test_beams_are_left_to_transformers(adapted, reads):
    """Though it is the model's own configuration that asks for them."""
    adapted.generation_config.num_beams = 3
    plain, ours = both(adapted, do_sample=False, max_new_tokens=6)
    assert plain.tolist() == ours.tolist()
    assert reads == []
