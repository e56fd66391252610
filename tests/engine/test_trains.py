"""A train from its run directory to its last event: what it writes, and that equal settings give
equal losses."""

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from engine.__main__ import losses
from engine.__main__ import main as by_hand
from engine.contract.rundir import (
    EVENTS,
    Branch,
    EventWriter,
    checkpoint_is_whole,
    checkpoint_latest,
    checkpoint_seal,
    checkpoints,
    read_spec,
    stop_request,
    write_spec,
)
from engine.run.callback import Plan, TrainCallback
from engine.run.hardware import detect
from engine.run.main import job_read, run
from engine.schema.registry import LOSS
from tests.engine.runs import DEFAULTS, Run, prepare, toy_rows, train


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """A train with everything on."""
    return train(
        tmp_path_factory.mktemp("whole") / "run",
        tiny,
        epochs=3,
        max_steps=None,
        evaluation_split=0.2,
        evaluation_every=0.25,
        sample_prompts=2,
        sample_max_tokens=8,
        save_strategy="epochs",
        save_total_limit=1,
        lora_dropout=0.1,
        system_prompt="Be brief.",
    )


def test_events_come_in_order_and_end_with_finished(whole):
    assert whole.code == 0
    kinds = [event["type"] for event in whole.events]
    assert [event["seq"] for event in whole.events] == list(range(1, len(kinds) + 1))
    assert kinds[:3] == ["phase", "phase", "started"]
    assert kinds[-1] == "finished"
    assert {event["name"] for event in whole.of("phase")} == {
        "loading model",
        "preparing data",
        "answering",
        "evaluating",
        "training",
        "saving",
    }


def test_started_says_what_will_be_done(whole):
    (started,) = whole.of("started")
    assert (started["train_rows"], started["eval_rows"], started["left_out_rows"]) == (19, 5, 0)
    assert (started["total_steps"], started["steps_per_epoch"], started["evaluate_every"]) == (
        15,
        5,
        4,
    )
    assert 0 < started["trainable_count"] < started["parameter_count"]
    assert started["device"]["kind"] in ("cpu", "cuda")
    assert {"torch", "transformers", "trl", "peft"} <= set(started["versions"])


def test_every_step_is_logged_with_the_names_of_the_trainer(whole):
    assert list(whole.losses()) == list(range(1, 16))
    values = whole.of("metrics")[-2]["values"]
    assert set(values) == {
        "loss",
        "grad_norm",
        "learning_rate",
        "entropy",
        "mean_token_accuracy",
        "num_tokens",
        "tokens_per_second",
        "samples_per_second",
        "peak_memory_gb",
    }
    assert whole.of("metrics")[-2]["epoch"] == 3


def test_it_is_measured_before_at_each_share_of_the_train_at_checkpoints_and_at_the_end(whole):
    assert list(whole.losses("eval")) == [0, 4, 5, 8, 10, 12, 15]
    values = whole.of("metrics")[-1]["values"]
    assert set(values) == {
        "eval_loss",
        "eval_perplexity",
        "eval_mean_token_accuracy",
        "eval_entropy",
    }


def test_samples_answer_the_same_held_out_prompts_before_and_after(whole):
    samples = whole.of("sample")
    assert [(row["stage"], row["index"], row["step"]) for row in samples] == [
        ("before", 0, 0),
        ("before", 1, 0),
        ("after", 0, 15),
        ("after", 1, 15),
    ]
    assert [row["prompt"] for row in samples[:2]] == [row["prompt"] for row in samples[2:]]
    assert all("Ball" in row["prompt"] and row["reference"].startswith("It is") for row in samples)
    assert samples[0]["text"] != samples[2]["text"]


def test_the_last_checkpoint_is_kept_and_the_best_besides(whole):
    events = whole.of("checkpoint")
    assert [event["step"] for event in events] == [5, 10, 15]
    assert all(event["value"] == whole.losses("eval")[event["step"]] for event in events)
    kept = {step for step, folder in checkpoints(whole.directory) if checkpoint_is_whole(folder)}
    pruned = {step for event in events for step in event["pruned"]}
    best = min(events, key=lambda event: event["value"])["step"]
    assert kept == {15, best}
    assert pruned == {5, 10, 15} - kept
    assert not list(whole.directory.rglob("training_args.bin"))


def test_the_best_checkpoint_outlives_the_last_ones(tiny, tmp_path):
    directory = prepare(tmp_path / "run", tiny)
    plan = Plan(
        20, total_steps=20, steps_per_epoch=5, evaluate_every=5, save_every=5, save_total_limit=1
    )
    watch = TrainCallback(job_read(directory, EventWriter(directory)), plan, LOSS)
    watch.evaluations = {5: 1.0, 10: 0.5, 15: 0.8, 20: math.nan}
    for step in (5, 10, 15, 20):
        folder = directory / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        checkpoint_seal(folder)
    assert watch.replaced() == {
        step: directory / "checkpoints" / f"checkpoint-{step}" for step in (15, 5)
    }


def test_the_model_card_and_parameters_lie_beside_the_model(whole):
    folder = whole.directory / "model"
    card = (folder / "README.md").read_text()
    assert "| Base model | Tiny |" in card
    spec = json.loads((whole.directory / "spec.json").read_text())
    assert spec["dataset"]["sha256"] in card
    assert "Be brief." in card
    assert (
        json.loads((folder / "training_parameters.json").read_text())["parameters"]["lora_rank"]
        == 4
    )
    assert (
        json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "Tiny"
    )
    assert not [path for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]


def test_repeating_by_hand_reaches_the_same_losses_and_leaves_the_run_alone(whole, capsys):
    before = {path: path.stat().st_mtime_ns for path in whole.directory.rglob("*")}
    assert by_hand([str(whole.directory)]) == 0
    assert re.search(r"All \d+ losses are the same", capsys.readouterr().out)
    again = Run(0, whole.directory / "repeats" / "1")
    assert again.losses() == whole.losses()
    assert all(
        path.stat().st_mtime_ns == time for path, time in before.items() if path != whole.directory
    )


def test_repeating_by_hand_says_when_losses_differ(whole, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "spec.json").write_bytes((whole.directory / "spec.json").read_bytes())
    lines = [
        json.loads(line) for line in (whole.directory / "events.jsonl").read_text().splitlines()
    ]
    lines = [
        line | {"values": line["values"] | {"loss": 1.0}} if line["type"] == "metrics" else line
        for line in lines
    ]
    (copy / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert by_hand([str(copy), "--into", str(tmp_path / "again")]) == 4
    assert "differ" in capsys.readouterr().out


def test_a_directory_is_never_trained_in_twice(whole, capsys):
    size = (whole.directory / "events.jsonl").stat().st_size
    assert by_hand([str(whole.directory), "--in-place"]) == 1
    assert "has been trained in" in capsys.readouterr().err
    assert (whole.directory / "events.jsonl").stat().st_size == size


def test_a_batch_of_four_equals_two_batches_of_two(tiny, tmp_path):
    one = train(tmp_path / "one", tiny, batch_size=4, gradient_accumulation_steps=1)
    two = train(tmp_path / "two", tiny, batch_size=2, gradient_accumulation_steps=2)
    assert two.losses() == pytest.approx(one.losses(), rel=1e-5)


def test_the_evaluation_loss_does_not_depend_on_the_batch_size(tiny, tmp_path):
    rows = [
        {
            "messages": [
                {"role": "user", "content": "Count."},
                {"role": "assistant", "content": "one " * number},
            ]
        }
        for number in range(1, 13)
    ]
    given = {"evaluation_split": 0.5, "max_steps": 1, "learning_rate": 1e-9}
    small = train(tmp_path / "small", tiny, rows, batch_size=1, **given)
    large = train(tmp_path / "large", tiny, rows, batch_size=4, **given)
    for one, other in zip(small.of("metrics"), large.of("metrics"), strict=True):
        if one["split"] == "eval":
            assert other["values"] == pytest.approx(one["values"], rel=1e-5)


def test_what_is_learned_alone_is_computed_and_the_loss_is_the_same(tiny, tmp_path, monkeypatch):
    """Our switch in TRL's output layer for CPUs changes speed, not results."""
    import trl.trainer.utils as head

    from engine.run import session

    fast = train(tmp_path / "fast", tiny)
    monkeypatch.setattr(
        session, "device_configure", lambda device, seed: __import__("transformers").set_seed(seed)
    )
    monkeypatch.setattr(head, "_use_triton", lambda device: False)
    monkeypatch.setattr(head, "_CHUNKED_LOGPROB_CHUNK_SIZE", 32768)
    slow = train(tmp_path / "slow", tiny)
    assert fast.losses() == pytest.approx(slow.losses(), rel=1e-5)


def tokens(run):
    return [
        event["values"]["num_tokens"] for event in run.of("metrics") if event["split"] == "train"
    ]


def test_a_later_attempt_goes_on_in_the_same_folder(tiny, tmp_path, monkeypatch):
    """Stopped after a checkpoint, with a torn line at its end: one curve, no step twice, the model
    made anew."""
    given = {
        "max_steps": 9,
        "save_strategy": "steps",
        "save_every": 4,
        "save_total_limit": 9,
        "logging_steps": 1,
    }
    whole = train(tmp_path / "whole", tiny, **given)
    first = train(tmp_path / "run", tiny, **given)
    with (first.directory / EVENTS).open("a") as stream:
        stream.write('{"v": 1, "seq": 99999, "ty')
    checkpoint = first.directory / "checkpoints" / "checkpoint-4"
    write_spec(
        first.directory, replace(read_spec(first.directory), attempt=2, resume_from=str(checkpoint))
    )
    second = Run(run(first.directory), first.directory)

    assert second.code == 0, second.last
    seqs = [event["seq"] for event in second.events]
    assert seqs == list(range(1, len(seqs) + 1))
    assert [event.get("resumed_from") for event in second.of("started")] == [None, 4]
    later = [event for event in second.events if event["seq"] > second.of("started")[1]["seq"]]
    again = {event["step"]: event["values"] for event in later if event["type"] == "metrics"}
    assert {step: values["loss"] for step, values in again.items()} == {
        step: loss for step, loss in whole.losses().items() if step > 4
    }
    assert losses(second.events) == losses(whole.events)
    assert {path.name for path in (first.directory / "checkpoints").iterdir()} == {
        "checkpoint-4",
        "checkpoint-8",
    }
    made = [
        load_file(folder / "model" / "adapter_model.safetensors")
        for folder in (first.directory, whole.directory)
    ]
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[1])


def test_a_later_attempt_computes_as_the_one_before(tiny, tmp_path, monkeypatch):
    """Auto measures the device, and on a busy machine not always with the same result."""
    given = {"precision": "auto", "max_steps": 4, "save_strategy": "steps", "save_every": 2}
    first = train(tmp_path / "run", tiny, **given)
    kind = {"fp32": True, "bf16": False}[first.of("started")[0]["precision"]]
    here = detect()
    monkeypatch.setattr("engine.run.session.detect", lambda: replace(here, bf16=kind))
    checkpoint = first.directory / "checkpoints" / "checkpoint-2"
    write_spec(
        first.directory, replace(read_spec(first.directory), attempt=2, resume_from=str(checkpoint))
    )
    run(first.directory)
    later = Run(0, first.directory).of("started")
    assert [event["precision"] for event in later] == [later[0]["precision"]] * 2
    # From the beginning it may choose anew.
    write_spec(first.directory, replace(read_spec(first.directory), attempt=3, resume_from=None))
    run(first.directory)
    assert Run(0, first.directory).of("started")[-1]["precision"] != later[0]["precision"]


def test_a_resumed_train_goes_on_as_if_it_had_never_stopped(tiny, tmp_path):
    given = {
        "max_steps": 9,
        "lora_dropout": 0.1,
        "save_strategy": "steps",
        "save_every": 4,
        "scheduler": "cosine",
    }
    whole = train(tmp_path / "whole", tiny, **given)
    checkpoint = whole.directory / "checkpoints" / "checkpoint-4"
    resumed = train(tmp_path / "resumed", tiny, resume_from=str(checkpoint), **given)
    assert resumed.code == 0, resumed.last
    assert resumed.losses() == {step: loss for step, loss in whole.losses().items() if step > 4}
    assert tokens(resumed) == tokens(whole)[4:]


def test_half_the_batch_with_twice_the_accumulation_goes_on_alike(tiny, tmp_path):
    given = {"max_steps": 9, "save_strategy": "steps", "save_every": 4}
    whole = train(tmp_path / "whole", tiny, batch_size=4, **given)
    checkpoint = whole.directory / "checkpoints" / "checkpoint-4"
    smaller = {"batch_size": 2, "gradient_accumulation_steps": 2, "gradient_checkpointing": True}
    resumed = train(tmp_path / "resumed", tiny, resume_from=str(checkpoint), **given | smaller)
    assert resumed.code == 0, resumed.last
    wanted = {step: loss for step, loss in whole.losses().items() if step > 4}
    assert resumed.losses() == pytest.approx(wanted, abs=2e-3)


def test_a_branch_begins_with_the_weights_of_another_train(tiny, tmp_path):
    given = {"evaluation_split": 0.25, "evaluation_every": 1.0, "logging_steps": 1}
    first = train(tmp_path / "first", tiny, max_steps=6, **given)
    checkpoint = checkpoint_latest(first.directory)
    branch = Branch(str(checkpoint), run_id=1, step=6)
    second = train(
        tmp_path / "second", tiny, branch=branch, max_steps=3, learning_rate=1e-3, **given
    )
    assert second.code == 0, second.last
    assert second.losses("eval")[0] == pytest.approx(first.losses("eval")[6], abs=1e-5)
    assert list(second.losses()) == [1, 2, 3]
    assert second.losses("eval")[3] < second.losses("eval")[0]


def test_a_branch_of_torn_weights_is_no_train_of_the_base_model(tiny, tmp_path):
    first = train(tmp_path / "first", tiny, max_steps=1)
    checkpoint = checkpoint_latest(first.directory)
    (checkpoint / "adapter_model.safetensors").write_bytes(b"torn")
    second = train(
        tmp_path / "second", tiny, branch=Branch(str(checkpoint), run_id=1, step=1), max_steps=1
    )
    assert (second.code, second.last["code"]) == (1, "bad_checkpoint")


def test_a_train_that_was_lost_after_its_last_step_only_writes_its_model(tiny, tmp_path):
    """A trainer that resumes there would train one step more."""
    done = train(tmp_path / "run", tiny, max_steps=6, evaluation_split=0.2, logging_steps=1)
    model = load_file(done.directory / "model" / "adapter_model.safetensors")
    spec = read_spec(done.directory)
    latest = checkpoint_latest(done.directory)
    assert latest is not None
    again = replace(spec, attempt=2, resume_from=str(latest), last_seq=done.last["seq"])
    write_spec(done.directory, again)
    resumed = Run(run(done.directory), done.directory)

    assert resumed.code == 0
    assert resumed.last["type"] == "finished"
    assert resumed.last["step"] == 6
    assert resumed.last["metrics"]["loss"] == done.last["metrics"]["loss"]
    assert resumed.last["metrics"]["eval_loss"] == done.last["metrics"]["eval_loss"]
    assert len(resumed.of("metrics")) == len(done.of("metrics"))
    found = load_file(done.directory / "model" / "adapter_model.safetensors")
    assert all((found[name] == values).all() for name, values in model.items())


def test_a_torn_checkpoint_is_not_resumed_from(tiny, tmp_path):
    run = train(tmp_path / "run", tiny, max_steps=2)
    checkpoint = checkpoint_latest(run.directory)
    (checkpoint / "optimizer.pt").write_bytes(b"torn")
    again = train(tmp_path / "again", tiny, max_steps=4, resume_from=str(checkpoint))
    assert (again.code, again.last["code"]) == (1, "bad_checkpoint")


def test_a_stop_saves_a_checkpoint_and_a_model_after_the_step(tiny, tmp_path, monkeypatch):
    log = TrainCallback._train_metrics

    def stop_at_three(self, state, logs):
        log(self, state, logs)
        if state.global_step == 2:
            stop_request(self.job.directory)

    monkeypatch.setattr(TrainCallback, "_train_metrics", stop_at_three)
    run = train(tmp_path / "run", tiny, max_steps=50, sample_prompts=1, sample_max_tokens=8)
    assert (run.code, run.last["type"], run.last["step"]) == (3, "stopped", 3)
    assert (run.directory / "model" / "adapter_model.safetensors").is_file()
    assert "stopped after step 3 of 50" in (run.directory / "model" / "README.md").read_text()
    assert checkpoint_latest(run.directory).name == "checkpoint-3"
    assert run.of("checkpoint")[-1]["step"] == 3
    assert [row["tokens"] for row in run.of("sample")][1] > 1, "what was learned is heard in full"


def test_a_stop_in_an_evaluation_saves_the_step_before(tiny, tmp_path, monkeypatch):
    look = TrainCallback.on_prediction_step

    def stop_while_measuring(self, args, state, control, **kwargs):
        if state.global_step == 2:
            stop_request(self.job.directory)
        look(self, args, state, control, **kwargs)

    monkeypatch.setattr(TrainCallback, "on_prediction_step", stop_while_measuring)
    run = train(tmp_path / "run", tiny, max_steps=50, evaluation_split=0.2, evaluation_every=0.04)
    assert (run.code, run.last["step"]) == (3, 2)
    assert checkpoint_latest(run.directory).name == "checkpoint-2"


def test_a_stop_before_the_first_step_leaves_nothing(tiny, tmp_path):
    directory = prepare(tmp_path / "run", tiny)
    stop_request(directory)
    from engine.run.main import run

    assert run(directory) == 3
    assert Run(3, directory).last["type"] == "stopped"
    assert not (directory / "model").exists()


def test_packing_learns_the_same_tokens_in_fewer_batches(tiny, tmp_path):
    run = train(tmp_path / "run", tiny, toy_rows(40), packing=True, max_steps=None, epochs=1)
    assert run.code == 0, run.last
    assert run.of("started")[0]["total_steps"] < 10
    assert run.losses()


def test_plain_text_is_learned(tiny, tmp_path):
    rows = [{"text": f"The {number % 3} little pigs."} for number in range(16)]
    run = train(
        tmp_path / "run",
        tiny,
        rows,
        format="text",
        max_steps=8,
        sample_prompts=1,
        sample_max_tokens=8,
    )
    assert run.code == 0, run.last
    assert run.losses()[8] < run.losses()[1]
    assert run.of("sample")[0]["reference"]


def test_the_other_options_of_the_trainer_reach_it(tiny, tmp_path):
    sgd = train(tmp_path / "sgd", tiny, more={"optim": "sgd"})
    adam = train(tmp_path / "adam", tiny)
    assert sgd.code == 0, sgd.last
    assert sgd.losses()[1] == adam.losses()[1]
    assert sgd.losses()[4] != adam.losses()[4]


def test_half_precision_trains_an_adapter_in_full_precision(tiny, tmp_path):
    run = train(tmp_path / "run", tiny, precision="bf16", max_steps=8)
    assert run.code == 0, run.last
    assert run.of("started")[0]["precision"] == "bf16"
    assert run.losses()[8] < run.losses()[1] - 0.2
    from safetensors.torch import load_file

    adapter = load_file(run.directory / "model" / "adapter_model.safetensors")
    assert {str(value.dtype) for value in adapter.values()} == {"torch.float32"}


@pytest.mark.parametrize(
    "given",
    [
        {"gradient_checkpointing": True},
        {"use_dora": True},
        {"use_rslora": True},
        {"neftune_noise_alpha": 5, "max_steps": 24},
        {"target_modules": ["q_proj", "v_proj"]},
        {"answers_only": False},
        {"adapter": "none", "precision": "bf16", "learning_rate": 1e-3},
        {"adapter": "none", "gradient_checkpointing": True, "learning_rate": 1e-3},
    ],
    ids=lambda given: "-".join(given),
)
def test_every_switch_of_the_form_trains(tiny, tmp_path, given):
    run = train(tmp_path / "run", tiny, **{"max_steps": 12} | given)
    assert run.code == 0, run.last
    assert run.losses()[run.last["step"]] < run.losses()[1] - 0.05


def test_a_full_model_computed_in_half_precision_is_published_in_it(tiny, tmp_path):
    from safetensors.torch import load_file

    run = train(
        tmp_path / "run",
        tiny,
        adapter="none",
        precision="bf16",
        sample_prompts=1,
        sample_max_tokens=8,
    )
    weights = load_file(run.directory / "model" / "model.safetensors")
    assert {str(value.dtype) for value in weights.values()} == {"torch.bfloat16"}
    assert json.loads((run.directory / "model" / "config.json").read_text())["dtype"] == "bfloat16"


def test_defaults_of_these_tests_are_parameters_of_the_recipe():
    from engine.schema.sft import SftParameters

    assert set(DEFAULTS) <= set(SftParameters.model_fields)
