"""GRPO and PPO: the reward rises, resuming is going on, and what is computed is what was meant."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.contract.rundir import Resource, file_sha256, held_out_read
from engine.recipes.ppo_trainer import PpoTrainer
from engine.schema.registry import RECIPES
from tests.engine.runs import toy_rows, train

RECIPES_HERE = ("grpo", "ppo")
HEAD = "def reward(prompts, completions, references, rows, **parameters):\n    "
SHARE = HEAD + "return [text.count('e') / 16 for text in completions]\n"
GIVEN = {
    "max_prompt_tokens": 64,
    "max_completion_tokens": 16,
    "batch_size": 16,
    "adapter": "none",
    "learning_rate": 3e-3,
    "max_steps": 3,
}
OWN = {
    "grpo": {"num_generations": 8},
    "ppo": {"ppo_epochs": 2, "kl_coef": 0.001, "missing_eos_penalty": 0.0},
}


def registered(folder, source=SHARE):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mine.py"
    path.write_text(source)
    return {"reward_function:mine": Resource(str(path), file_sha256(path))}


def run(directory, model, recipe, *, source=SHARE, **given):
    """A train that is rewarded for the share of one letter."""
    given = GIVEN | OWN[recipe] | {"rewards": [{"function": "custom:mine"}]} | given
    resources = registered(directory / "rewards", source)
    return train(directory, model, toy_rows(48), recipe=recipe, resources=resources, **given)


def series(done, name, split="train"):
    values = [event["values"] for event in done.of("metrics") if event["split"] == split]
    return [found[name] for found in values if name in found]


@pytest.mark.parametrize("recipe", RECIPES_HERE)
def test_rewards_get_the_rows_of_the_dataset(tiny, tmp_path, recipe):
    """All of a row for a function of one's own, for graders the columns that they name."""
    asks = HEAD + "return [float(row['messages'][0]['content'][:4] == 'Ball') for row in rows]\n"
    near = {
        "function": "text_similarity",
        "parameters": {"reference": "{{item.messages[0].content}}"},
    }
    rewards = [{"function": "custom:mine"}, near]
    done = run(tmp_path / "run", tiny, recipe, source=asks, max_steps=1, rewards=rewards)
    assert done.last["type"] == "finished"
    (step,) = [event["values"] for event in done.of("metrics") if event["split"] == "train"]
    assert step["rewards/mine/mean"] == 1
    assert 0 <= step["rewards/text_similarity/mean"] < 1


@pytest.mark.long
@pytest.mark.parametrize("recipe", RECIPES_HERE)
def test_the_reward_rises(tiny, tmp_path, recipe):
    steps = {"grpo": 30, "ppo": 60}[recipe]
    done = run(
        tmp_path / "run",
        tiny,
        recipe,
        max_steps=steps,
        batch_size=32,
        learning_rate=0.01,
        logging_steps=1,
    )
    assert done.code == 0, done.last
    rewards = series(done, "reward")
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 0.1
    if recipe == "ppo":
        assert all(
            len(series(done, name)) >= steps / 2
            for name in ("value_loss", "policy_loss", "return", "kl")
        )


@pytest.mark.parametrize("size", [2, 4])
def test_each_held_out_prompt_counts_once(tiny, tmp_path, size):
    """Also where they do not fill the last batch."""
    source = HEAD + "return [float(row['messages'][0]['content'][5:-1]) for row in rows]\n"
    given = {"batch_size": size, "max_steps": 1, "evaluation_split": 0.11, "evaluation_every": 1.0}
    done = run(tmp_path / "run", tiny, "ppo", source=source, **given)
    assert done.code == 0, done.last
    numbers = held_out_read(done.directory)
    assert numbers is not None
    assert len(numbers) % size
    rows = [json.loads(line) for line in (done.directory / "data.jsonl").read_text().splitlines()]
    asked = [rows[number]["messages"][0]["content"] for number in numbers]
    expected = sum(float(text[5:-1]) for text in asked) / len(asked)
    assert series(done, "eval_reward", "eval")[0] == pytest.approx(expected)


def test_the_values_come_to_foretell_the_rewards(tiny, tmp_path):
    """What an answer is worth depends on its prompt alone here, so that it can be known before the
    first token."""
    source = HEAD + "return [1.0 * ('1' in prompt[-1]['content']) for prompt in prompts]\n"
    given = {
        "value_coef": 1.0,
        "value_learning_rate": 0.03,
        "value_clip_range": 5.0,
        "max_steps": 32,
    }
    done = run(tmp_path / "run", tiny, "ppo", source=source, batch_size=32, **given)
    explained = series(done, "explained_variance")
    assert max(explained[:2]) <= 0.1
    assert min(explained[-3:]) > 0.6


@pytest.mark.parametrize("recipe", RECIPES_HERE)
def test_an_adapter_alone_moves_and_what_is_saved_loads(tiny, tmp_path, recipe):
    given = {"adapter": "lora", "learning_rate": 0.05, "evaluation_split": 0.2, "sample_prompts": 1}
    done = run(tmp_path / "run", tiny, recipe, **given)
    assert done.code == 0, done.last
    model = done.directory / "model"
    saved = load_file(model / "adapter_model.safetensors")
    assert all("lora_" in name for name in saved)
    assert any(value.abs().max() > 0 for name, value in saved.items() if "lora_B" in name)
    assert (model / "beside" / "value_head.safetensors").exists() == (recipe == "ppo")
    ids = torch.tensor([[5, 6, 7]])
    base = AutoModelForCausalLM.from_pretrained(tiny)
    with torch.no_grad():
        before = base(input_ids=ids).logits
        assert not torch.allclose(
            PeftModel.from_pretrained(base, model)(input_ids=ids).logits, before, atol=1e-4
        )
    assert len(series(done, "eval_reward", "eval")) >= 2
    assert "eval_loss" not in done.of("metrics")[0]["values"]
    samples = [event for event in done.of("sample") if event["stage"] == "completion"]
    assert {event["step"] for event in samples} <= {1, 2, 3}
    assert all(event["rewards"].keys() == {"mine"} and event["tokens"] <= 16 for event in samples)


@pytest.mark.parametrize(
    ("recipe", "own"),
    [("grpo", {"num_iterations": 2}), ("grpo", {"beta": 0.1}), ("ppo", {"ppo_epochs": 3})],
)
def test_a_resumed_train_goes_on_as_if_it_had_never_stopped(tiny, tmp_path, recipe, own):
    given = {"max_steps": 8, "save_strategy": "steps", "save_every": 4, "save_total_limit": 9} | own
    if "num_iterations" in own:
        given["save_every"] = 3
    whole = run(tmp_path / "whole", tiny, recipe, **given)
    step = given["save_every"]
    checkpoint = whole.directory / "checkpoints" / f"checkpoint-{step}"
    # In the midst of a batch of answers, and in the second epoch at that where it is step 4.
    assert (checkpoint / "rollouts.safetensors").exists() == ("beta" not in own)
    resumed = run(tmp_path / "resumed", tiny, recipe, resume_from=str(checkpoint), **given)
    assert resumed.code == 0, resumed.last
    for name in ("loss", "entropy"):
        assert series(resumed, name) == pytest.approx(series(whole, name)[step:], abs=1e-4)
    assert series(resumed, "reward") == pytest.approx(
        series(whole, "reward")[-len(series(resumed, "reward")) :]
    )


def test_the_steps_are_those_that_the_form_counts(tiny, tmp_path):
    for recipe, own in (("grpo", {"num_iterations": 2}), ("ppo", {})):
        given = {"max_steps": None, "epochs": 1} | own
        done = run(tmp_path / recipe, tiny, recipe, **given)
        spec = json.loads((done.directory / "spec.json").read_text())
        parameters = RECIPES[recipe].parameters.model_validate(spec["parameters"])
        (started,) = done.of("started")
        assert (
            started["steps_per_epoch"]
            == started["total_steps"]
            == parameters.steps_per_epoch(started["train_rows"])
        )
        assert done.last["step"] == started["total_steps"]


BROKEN = {
    "raises": "raise ValueError('no')",
    "none": "return [None for text in completions]",
    "length": "return [1.0]",
    "some": "return [None if index % 3 == 0 else 1.0 * index for index, text in "
    "enumerate(completions)]",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_reward_that_fails_ends_the_train_with_its_reason(tiny, tmp_path, case):
    source = f"{HEAD}{BROKEN[case]}\n"
    done = run(tmp_path / "run", tiny, "grpo", source=source)
    assert (done.code, done.last["code"]) == (1, "reward_failed")
    assert "mine, answer 1" in done.last["message"]
    assert "Ball" in done.last["message"]


@pytest.mark.parametrize("recipe", RECIPES_HERE)
def test_answers_without_a_score_can_be_left_out(tiny, tmp_path, recipe):
    source = f"{HEAD}{BROKEN['some']}\n"
    done = run(tmp_path / "run", tiny, recipe, source=source, on_reward_error="skip")
    assert done.code == 0, done.last
    assert [event["code"] for event in done.of("warning")].count("reward_failed:custom:mine") == 1
    assert series(done, "rewards/unscored")[0] == pytest.approx(6 / 16)
    assert all(value == value for value in series(done, "loss")), "no loss is NaN"


def test_a_missing_score_is_no_score_of_nothing(tiny, tmp_path):
    """Its answer is left out whole: the other rewards alone would tell against it."""
    source = (
        f"{HEAD}return [None if index % 3 == 0 else 1.0 for index, text in "
        "enumerate(completions)]\n"
    )
    both = [
        {"function": "custom:mine"},
        {"function": "contains", "parameters": {"forbidden": "🐙"}},
    ]
    done = run(tmp_path / "run", tiny, "grpo", source=source, rewards=both, on_reward_error="skip")
    assert set(series(done, "reward")) == {2.0}
    assert set(series(done, "frac_reward_zero_std")) == {1.0}


def test_nothing_scored_at_all_is_a_failure_even_when_left_out(tiny, tmp_path):
    source = f"{HEAD}{BROKEN['none']}\n"
    done = run(tmp_path / "run", tiny, "ppo", source=source, on_reward_error="skip")
    assert (done.code, done.last["code"]) == (1, "nothing_scored")


def test_rewards_without_spread_are_warned_about(tiny, tmp_path):
    source = HEAD + "return [1.0] * len(completions)\n"
    done = run(tmp_path / "run", tiny, "grpo", source=source, max_steps=6)
    assert "zero_spread" in [event["code"] for event in done.of("warning")]


def test_fewer_prompts_than_a_step_takes_is_an_error(tiny, tmp_path):
    done = run(tmp_path / "run", tiny, "ppo", batch_size=64)
    assert (done.code, done.last["code"]) == (1, "batch_too_large")
    assert "48 rows" in done.last["message"]


def test_prompt_and_answer_must_fit_the_context(tiny, tmp_path):
    done = run(tmp_path / "run", tiny, "grpo", max_prompt_tokens=500, max_completion_tokens=100)
    assert (done.code, done.last["code"]) == (1, "context_length")


class Seen(Exception):
    pass


@pytest.fixture
def first_step(tiny, tmp_path, monkeypatch):
    """A PPO train up to the gradients of its first batch: (trainer, inputs of each micro-batch)."""

    def take(**given):
        seen = {"inputs": []}
        loss_of = PpoTrainer._compute_loss
        clip = PpoTrainer._clip_grad_norm

        def keep_inputs(self, model, inputs):
            seen["inputs"].append(inputs)
            return loss_of(self, model, inputs)

        def stop(self, model):
            seen["trainer"] = self
            raise Seen

        monkeypatch.setattr(PpoTrainer, "_compute_loss", keep_inputs)
        monkeypatch.setattr(PpoTrainer, "_clip_grad_norm", stop)
        done = run(tmp_path / "run", tiny, "ppo", **given)
        monkeypatch.setattr(PpoTrainer, "_compute_loss", loss_of)
        monkeypatch.setattr(PpoTrainer, "_clip_grad_norm", clip)
        assert "Seen" in done.last["message"], done.last
        return seen["trainer"], seen["inputs"]

    return take


def log_probabilities(model, inputs):
    """Of the completion tokens, from plain logits: (answers, tokens)."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    count = inputs["completion_ids"].shape[1]
    logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits[
        :, -count - 1 : -1
    ]
    logits = logits.to(ids.device).float()
    return torch.log_softmax(logits, -1).gather(-1, inputs["completion_ids"][..., None]).squeeze(-1)


@pytest.mark.parametrize(
    "given", [{}, {"gradient_accumulation_steps": 2, "batch_size": 8}], ids=["whole", "in two"]
)
def test_without_values_and_discount_the_gradient_is_that_of_reinforce(first_step, given):
    trainer, batches = first_step(
        ppo_epochs=1,
        gamma=1.0,
        lam=1.0,
        kl_coef=0.0,
        value_coef=0.0,
        whiten_advantages=False,
        **given,
    )
    model = trainer.model
    found = {
        name: weight.grad.clone()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }
    model.zero_grad()
    tokens = sum(float(inputs["completion_mask"].sum()) for inputs in batches)
    for inputs in batches:
        texts = trainer.processing_class.batch_decode(
            inputs["completion_ids"], skip_special_tokens=True
        )
        worth = torch.tensor([text.count("e") / 16 for text in texts], device=model.device)
        (
            -(worth[:, None] * log_probabilities(model, inputs) * inputs["completion_mask"]).sum()
            / tokens
        ).backward()
    assert found
    for name, gradient in found.items():
        wanted = dict(model.named_parameters())[name].grad
        torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=1e-3, msg=name)


@pytest.mark.parametrize("adapter", ["lora", "none"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_what_ppo_learns_from_is_what_it_says(first_step, tiny, adapter, epochs):
    trainer, (inputs,) = first_step(
        ppo_epochs=epochs, adapter=adapter, kl_coef=0.5, whiten_advantages=False
    )
    mask = inputs["completion_mask"].float()
    base = AutoModelForCausalLM.from_pretrained(tiny).eval()
    with torch.no_grad():
        plain = log_probabilities(base, inputs)
    # Before the first step the policy is the base model, its own reference.
    torch.testing.assert_close(
        inputs["old_per_token_logps"] * mask, plain * mask, atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(
        inputs["ref_per_token_logps"] * mask, plain * mask, atol=1e-4, rtol=1e-4
    )
    assert inputs["old_values"].abs().max() == 0
    texts = trainer.processing_class.batch_decode(
        inputs["completion_ids"], skip_special_tokens=True
    )
    worth = torch.tensor([text.count("e") / 16 for text in texts], device=mask.device)
    lengths = mask.sum(1, keepdim=True)
    to_go = (
        worth[:, None]
        * 0.95 ** (lengths - 1 - torch.arange(mask.shape[1], device=mask.device))
        * mask
    )
    torch.testing.assert_close(inputs["advantages"] * mask, to_go, atol=1e-5, rtol=1e-4)
    assert trainer.head.weight.grad.abs().max() > 0


def test_the_tokens_that_end_an_answer_are_those_of_the_template(tiny, tmp_path, monkeypatch):
    from engine.recipes import rollouts

    kept = {}
    init = rollouts.RolloutTrainer.__init__

    def keep(self, **arguments):
        init(self, **arguments)
        kept["stops"] = self.generation_config.eos_token_id

    monkeypatch.setattr(rollouts.RolloutTrainer, "__init__", keep)
    run(tmp_path / "run", tiny, "grpo", max_steps=1)
    assert AutoTokenizer.from_pretrained(tiny).convert_tokens_to_ids("<|im_end|>") in kept["stops"]
