"""A train that carries an adapter on: it begins as the model that was trained, compares with that
model and not with the base model, and leaves one adapter."""

import json
import math
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import trl.trainer.dpo_trainer
import trl.trainer.grpo_trainer
import trl.trainer.kto_trainer
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from engine.__main__ import main as by_hand
from engine.contract.rundir import Branch, StartAdapter, checkpoint_seal, file_sha256
from engine.loading.model import adapter_carry_on
from engine.merging.folder import MergeRequest, model_write
from engine.proof.prove import prove
from engine.run.session import Session
from engine.schema.registry import RECIPES, carry_on_obstacle
from engine.schema.sft import SftParameters
from tests.engine.runs import Run, toy_pairs, toy_rows, train
from tests.engine.test_rollouts import GIVEN as ROLLOUTS
from tests.engine.test_rollouts import OWN, registered
from tests.tiny import tiny_model

# What methods with a reference call the distance from it.
DISTANCE = {"dpo": "rewards/margins", "kto": "rewards/margins", "grpo": "kl", "ppo": "kl"}
TRAINERS = {
    "dpo": trl.trainer.dpo_trainer,
    "kto": trl.trainer.kto_trainer,
    "grpo": trl.trainer.grpo_trainer,
    "ppo": trl.trainer.grpo_trainer,
}
CARRYING = [name for name in RECIPES if not carry_on_obstacle(name, "lora")]
KINDS = {
    "lora": {},
    "rank-stabilised": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "some layers": {"target_modules": ["q_proj", "down_proj"], "lora_alpha": 3},
}


def start_of(run: Run, folder: Path) -> StartAdapter:
    """The adapter of a train, as the platform copies it into the next train's folder."""
    folder.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(run.directory / "model" / name, folder / name)

    checkpoint_seal(folder)
    return StartAdapter(str(folder), "First")


def first_train(folder: Path, model: Path, **given) -> Run:
    done = train(folder, model, **({"max_steps": 12, "lora_rank": 4} | given))
    assert done.code == 0, done.last
    return done


@pytest.fixture(scope="module")
def first(tiny, tmp_path_factory) -> Run:
    """A train whose adapter has moved the model far from the base model."""
    folder = tmp_path_factory.mktemp("first") / "run"
    return first_train(folder, tiny, evaluation_split=0.2, sample_prompts=2, sample_max_tokens=12)


def carry_on(directory: Path, model: Path, recipe: str, before: Run, **given) -> Run:
    if "start_adapter" not in given:
        given["start_adapter"] = start_of(before, directory / "start-adapter")

    if recipe in OWN:
        own = ROLLOUTS | OWN[recipe] | {"adapter": "lora", "rewards": [{"function": "custom:mine"}]}
        own |= {"beta": 0.1} if recipe == "grpo" else {"kl_coef": 0.1, "ppo_epochs": 1}
        given = own | {"resources": registered(directory / "rewards")} | given
        rows = toy_rows(48)
    elif recipe == "sft":
        rows = toy_rows()
    else:
        rows = toy_pairs()
        given = {"format": "preference"} | given

    return train(directory, model, rows, recipe=recipe, logging_steps=1, **given)


def values_at(run: Run, step: int) -> dict[str, float]:
    """What a step learned from and by: all its metrics but those of the machine (speed, memory)."""
    rows = [event for event in run.of("metrics") if event["split"] == "train"]
    (values,) = [event["values"] for event in rows if event["step"] == step]
    return {
        name: value
        for name, value in values.items()
        if not name.endswith("_per_second") and name != "peak_memory_gb"
    }


def first_distance(run: Run, recipe: str) -> float:
    assert run.code == 0, run.last
    return values_at(run, 1)[DISTANCE[recipe]]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recipe", DISTANCE)
def test_the_reference_is_the_model_at_the_start(tiny, first, tmp_path, recipe, precision):
    done = carry_on(tmp_path / "run", tiny, recipe, first, precision=precision)
    assert first_distance(done, recipe) == pytest.approx(0, abs=1e-5)
    if recipe == "dpo":
        assert values_at(done, 1)["loss"] == pytest.approx(math.log(2), abs=1e-5)
        assert abs(values_at(done, 4)[DISTANCE[recipe]]) > 1e-3


@pytest.mark.parametrize("recipe", DISTANCE)
def test_the_base_model_would_be_another_reference(tiny, first, tmp_path, recipe, monkeypatch):
    """What the test above measures is not 0 by itself."""
    trainer = TRAINERS[recipe]
    before = trainer.use_adapter

    @contextmanager
    def base_model(model, adapter_name):
        with before(model, None):
            yield

    monkeypatch.setattr(trainer, "use_adapter", base_model)
    done = carry_on(tmp_path / "run", tiny, recipe, first)
    assert abs(first_distance(done, recipe)) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_is_carried_on_as_it_is(tiny, tmp_path, kind):
    before = first_train(tmp_path / "first", tiny, **KINDS[kind])
    # Other values in the form would not be the adapter's: its own file decides.
    done = carry_on(tmp_path / "run", tiny, "dpo", before, lora_rank=8, lora_alpha=1)
    assert first_distance(done, "dpo") == pytest.approx(0, abs=1e-5)

    old, new = (config_of(run) for run in (before, done))
    for name in ("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "target_modules"):
        assert new[name] == old[name], name


def config_of(run: Run):
    return json.loads((run.directory / "model" / "adapter_config.json").read_text())


def test_on_a_quantised_base_the_reference_is_rounded_as_the_adapter_is(tiny, first):
    """TRL trains adapters on quantised models in bf16, and copies the reference before."""
    model = AutoModelForCausalLM.from_pretrained(tiny)
    parameters = SftParameters(quantization="4-bit")
    adapted = adapter_carry_on(model, first.directory / "model", parameters)

    start = load_file(first.directory / "model" / "adapter_model.safetensors")
    for name, value in get_peft_model_state_dict(adapted).items():
        assert value.dtype == torch.float32
        assert torch.equal(value, start[name].bfloat16().float()), name


@pytest.mark.parametrize("architecture", ["qwen3", "mistral", "gemma3_text", "qwen3_moe"])
def test_other_architectures_carry_on_too(tmp_path, architecture):
    model = tiny_model(tmp_path / "model", architecture)
    before = first_train(tmp_path / "first", model)
    done = carry_on(tmp_path / "run", model, "dpo", before)
    assert first_distance(done, "dpo") == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("recipe", CARRYING)
def test_one_adapter_is_left_that_fits_the_base_model(tiny, first, tmp_path, recipe):
    done = carry_on(tmp_path / "run", tiny, recipe, first, learning_rate=0.003)
    assert done.code == 0, done.last

    published = done.directory / "model"
    assert not [path for path in published.rglob("adapter_*") if path.parent != published]

    old, new = (
        load_file(run.directory / "model" / "adapter_model.safetensors") for run in (first, done)
    )
    assert {name: value.shape for name, value in new.items()} == {
        name: value.shape for name, value in old.items()
    }
    assert any(not torch.equal(new[name], old[name]) for name in new)

    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), published)
    for name, value in get_peft_model_state_dict(loaded).items():
        assert torch.equal(value, new[name]), name


@pytest.mark.parametrize("recipe", ["sft", "dpo"])
def test_it_is_merged_and_proved_as_any_other(tiny, first, tmp_path, recipe):
    done = carry_on(tmp_path / "run", tiny, recipe, first, evaluation_split=0.2, sample_prompts=2)
    model_write(MergeRequest(done.directory), tmp_path / "merged", lambda share: None)
    checks = prove(done.directory, tmp_path / "merged", 0, lambda share: None)
    assert [check.name for check in checks if not check.passed] == []

    passport = json.loads((tmp_path / "merged" / "passport.json").read_text())
    start = first.directory / "model" / "adapter_model.safetensors"
    assert passport["carried_on"] == {
        "model": "First",
        "weights_sha256": {start.name: file_sha256(start)},
    }
    assert "continues the adapter of First" in (done.directory / "model/README.md").read_text()


def test_what_is_measured_before_is_the_model_at_the_start(tiny, first, tmp_path):
    given = {"evaluation_split": 0.2, "sample_prompts": 2, "sample_max_tokens": 12}
    done = carry_on(tmp_path / "run", tiny, "sft", first, **given)
    assert samples_of(done, "before") == samples_of(first, "after")
    assert samples_of(done, "before") != samples_of(first, "before")
    assert done.losses("eval")[0] == pytest.approx(first.losses("eval")[12], abs=1e-5)


def samples_of(run: Run, stage: str) -> list[str]:
    return [event["text"] for event in run.of("sample") if event["stage"] == stage]


@pytest.fixture
def references(monkeypatch) -> list[dict[str, torch.Tensor]]:
    """The reference of each train as it is at its end."""
    found = []
    before = Session.run

    def hear(session, trainer, *arguments):
        result = before(session, trainer, *arguments)
        found.append(get_peft_model_state_dict(trainer.model, adapter_name="ref"))
        return result

    monkeypatch.setattr(Session, "run", hear)
    return found


@pytest.mark.long
@pytest.mark.parametrize("recipe", DISTANCE)
def test_the_reference_stays_over_resumes_and_branches(tiny, first, tmp_path, recipe, references):
    given = {"save_strategy": "steps", "save_every": 2, "save_total_limit": 9, "max_steps": 4}
    whole = carry_on(tmp_path / "whole", tiny, recipe, first, **given)
    checkpoint = whole.directory / "checkpoints" / "checkpoint-2"
    resumed = carry_on(
        tmp_path / "resumed", tiny, recipe, first, resume_from=str(checkpoint), **given
    )
    branch = Branch(str(checkpoint_weights(checkpoint, tmp_path / "start")), 7, 2)
    branched = carry_on(tmp_path / "branched", tiny, recipe, first, branch=branch, **given)

    start = load_file(first.directory / "model" / "adapter_model.safetensors")
    for run, reference in zip((whole, resumed, branched), references, strict=True):
        assert run.code == 0, run.last
        assert reference.keys() == start.keys()
        for name, value in start.items():
            assert torch.equal(reference[name], value), name

    assert values_at(resumed, 3) == pytest.approx(values_at(whole, 3), abs=1e-4)
    assert abs(first_distance(branched, recipe)) > 1e-5


def checkpoint_weights(checkpoint: Path, folder: Path) -> Path:
    """What a branch takes of a checkpoint."""
    folder.mkdir()
    for path in checkpoint.iterdir():
        if path.is_file() and path.name not in ("optimizer.pt", "scheduler.pt", "COMPLETE"):
            shutil.copyfile(path, folder / path.name)

    checkpoint_seal(folder)
    return folder


def test_it_can_be_repeated_when_the_first_train_is_gone(tiny, tmp_path, capsys):
    before = first_train(tmp_path / "first", tiny)
    done = carry_on(tmp_path / "run", tiny, "dpo", before)
    shutil.rmtree(before.directory)
    assert by_hand([str(done.directory)]) == 0, capsys.readouterr().out
    assert "carrying the adapter of First on" in capsys.readouterr().out


def cut(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def of_other_shapes(folder: Path) -> None:
    change(folder, lambda weights: {name: value[:, :-1] for name, value in weights.items()})


def of_other_layers(folder: Path) -> None:
    change(
        folder,
        lambda weights: {
            name.replace("q_proj", "x_proj"): value for name, value in weights.items()
        },
    )


def with_less(folder: Path) -> None:
    change(folder, lambda weights: dict(list(weights.items())[1:]))


def change(folder: Path, how) -> None:
    path = folder / "adapter_model.safetensors"
    weights = {name: value.contiguous() for name, value in how(load_file(path)).items()}
    save_file(weights, path, metadata={"format": "pt"})
    checkpoint_seal(folder)


WRONG = {
    cut: "not whole",
    of_other_shapes: "does not fit",
    of_other_layers: "no place for",
    with_less: "lacks 1",
}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_an_adapter_that_is_not_the_one_it_was_is_refused(tiny, first, tmp_path, wrong):
    start = start_of(first, tmp_path / "start-adapter")
    wrong(Path(start.path))
    done = carry_on(tmp_path / "run", tiny, "sft", first, start_adapter=start)
    assert (done.code, done.last["code"]) == (1, "bad_adapter"), done.last
    assert WRONG[wrong] in done.last["message"]
    assert not (done.directory / "model").exists()


@pytest.mark.parametrize(
    ("recipe", "given"), [("reward", {}), ("sft", {"adapter": "none", "quantization": "none"})]
)
def test_where_it_makes_no_sense_it_is_refused(tiny, first, tmp_path, recipe, given):
    done = carry_on(tmp_path / "run", tiny, recipe, first, **given)
    assert done.last["code"] == "bad_adapter"
    assert done.last["message"] == carry_on_obstacle(recipe, given.get("adapter", "lora"))
