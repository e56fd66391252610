"""Trains of two ranks: what they learn is what one rank learns from twice the batch, one of them
writes, and they stop, save and end together.

Sums over ranks are rounded in another order than sums over rows: in fp32 that is some 1e-7 of a
gradient. AdamW divides each gradient by its own size, so that of a weight with hardly any gradient
the error counts as much as the gradient does. After a few steps curves agree to about 1e-5;
gradients that are not exchanged, or rows that are counted twice, show from the second digit on."""

import errno
import json
import os
import shutil
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from engine.contract.rundir import (
    CHECKPOINTS,
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_STOPPED,
    Branch,
    Resource,
    all_events,
    checkpoint_is_whole,
    checkpoint_latest,
    checkpoint_seal,
    checkpoints,
    file_sha256,
    rank_log,
    read_spec,
    save_request,
    stop_request,
    write_spec,
)
from engine.distributed.evaluation import rounds
from engine.distributed.launch import run_ranks
from engine.distributed.ranks import Ranks
from engine.messages.failures import DISK_FULL
from engine.run.trainer import one_gpu_alone, rank_options
from engine.schema.dpo import DpoParameters
from engine.schema.kto import KtoParameters
from engine.schema.registry import RECIPES
from engine.schema.sft import SftParameters
from tests.engine.runs import Run, prepare, toy_pairs, toy_rows
from tests.warm import Program, Warm
from training.train.branching import LEFT_BEHIND

TOLERANCE = 1e-4
# Weights move by up to the learning rate a step, 0.01; those with hardly a gradient in any direction.
MOVED = 0.02
# Of the seconds that a step may take on a busy machine.
WAITING_SECONDS = 60
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
HEAD = "def reward(prompts, completions, references, rows, **parameters):\n"
REWARD = HEAD + "    return [text.count('e') / 16 for text in completions]\n"
# What the method's own name says of a batch, and not of its rows.
OF_BATCHES = ("eval_min_reward", "eval_max_reward")

CASES: dict[str, dict[str, Any]] = {
    "sft": {},
    "sft, all weights": {"adapter": "none", "learning_rate": 0.003},
    # One pass over so many sequences that none of four steps meets its end.
    "sft, packed": {"packing": True, "max_tokens": 96, "max_samples": 120, "max_steps": 4},
    "sft, accumulated": {"gradient_accumulation_steps": 2},
    "sft, split": {"strategy": "shard"},
    "sft, all weights, split": {"strategy": "shard", "adapter": "none", "learning_rate": 0.003},
    "dpo": {"recipe": "dpo", "format": "preference"},
    "kto": {"recipe": "kto", "format": "preference"},
    "reward": {"recipe": "reward", "format": "preference"},
    "grpo": {"recipe": "grpo", "num_generations": 4},
    "ppo": {"recipe": "ppo", "ppo_epochs": 2, "missing_eos_penalty": 0.0},
}
WRITING = {"max_prompt_tokens": 64, "max_completion_tokens": 4, "learning_rate": 0.01}


def directory_of(folder: Path, tiny: Path, case: str, **given: Any) -> Path:
    """A run directory of `case`, with every step logged."""
    given = {"logging_steps": 1, "max_steps": 6} | CASES[case] | given
    pairs = given.get("format") == "preference"
    if given.get("recipe") in ("grpo", "ppo"):
        source = folder.with_suffix(".py")
        source.write_text(REWARD)
        mine = Resource(str(source), file_sha256(source))
        given = WRITING | {"rewards": [{"function": "custom:mine"}]} | given
        given["resources"] = {"reward_function:mine": mine}

    count = given.get("max_samples", 27)
    return prepare(folder, tiny, toy_pairs(count) if pairs else toy_rows(count), **given)


def start(warm: Warm, directory: Path, module: str = "engine.run.main") -> Program:
    return warm.program([module, str(directory)], env=dict(os.environ) | ENVIRONMENT)


def finish(program: Program, directory: Path) -> Run:
    out, err = program.communicate()
    (directory / "train.log").write_bytes(out + err)
    return Run(program.wait(), directory)


def run(warm: Warm, directory: Path, module: str = "engine.run.main") -> Run:
    return finish(start(warm, directory, module), directory)


def log_of(done: Run) -> str:
    return (done.directory / "train.log").read_text()


def curve(done: Run) -> dict[tuple[str, int], dict[str, float]]:
    return {(event["split"], event["step"]): event["values"] for event in done.of("metrics")}


def wait_for(directory: Path, kind: str, step: int = 0) -> None:
    """Until the train has written an event of this kind, of this step or a later one."""
    until = time.monotonic() + WAITING_SECONDS
    while time.monotonic() < until:
        for event in all_events(directory):
            if event["type"] == kind and event.get("step", 0) >= step:
                return
        time.sleep(0.01)
    raise AssertionError(f"no {kind} of step {step}")


def rank_pids(program: Program) -> list[int]:
    """The ranks, in order."""
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text()
    return sorted(map(int, children.split()))


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def weights(done: Run) -> dict[str, Any]:
    return load_file(done.directory / "model" / "adapter_model.safetensors")


def events_are_in_order(done: Run) -> None:
    """Each is there once, and one ending closes them."""
    numbers = [event["seq"] for event in done.events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    kinds = Counter(event["type"] for event in done.events)
    assert sum(kinds[kind] for kind in ("finished", "stopped", "failed")) == 1
    assert done.last["type"] in ("finished", "stopped", "failed")


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_learn_what_one_learns_from_twice_the_batch(tiny, warm, tmp_path, case):
    strategy = CASES[case].get("strategy", "replicate")
    writes = "num_generations" in CASES[case] or "ppo_epochs" in CASES[case]
    module = "tests.engine.chance_by_place" if writes else "engine.run.main"
    if strategy == "shard":
        module = "tests.engine.split_on_processors"

    # 16 rows are learned from, so that a second epoch begins. The 11 that are held out do not fill
    # the last batches.
    is_short = writes or "packing" in CASES[case]
    given: dict[str, Any] = {"evaluation_split": 0.0 if is_short else 0.41, "evaluation_every": 0.5}
    one = run(warm, directory_of(tmp_path / "one", tiny, case, batch_size=4, **given), module)
    two = run(
        warm, directory_of(tmp_path / "two", tiny, case, batch_size=2, devices=2, **given), module
    )

    assert (one.code, two.code) == (0, 0), log_of(two)
    expected, found = curve(one), curve(two)
    assert expected.keys() == found.keys()
    for place, values in expected.items():
        assert values.keys() == found[place].keys()
        for name, value in values.items():
            if name.endswith(("_second", "_gb", "_time")) or name in OF_BATCHES:
                continue
            near = pytest.approx(value, rel=TOLERANCE, abs=TOLERANCE)
            assert found[place][name] == near, (place, name)

    assert len({values["grad_norm"] for values in expected.values() if "grad_norm" in values}) > 1
    events_are_in_order(two)
    # Of the answers of a step those of the first rank are shown, and a split model answers nothing.
    kinds = [
        Counter(event["type"] for event in done.events if event["type"] not in ("sample", "phase"))
        for done in (one, two)
    ]
    assert kinds[0] == kinds[1]
    (started,) = two.of("started")
    if "packing" not in CASES[case]:
        spec = read_spec(two.directory)
        parameters = RECIPES[spec.recipe].parameters.model_validate(spec.parameters)
        assert started["steps_per_epoch"] == parameters.steps_per_epoch(started["train_rows"])
    assert started["ranks"] == 2
    assert started["strategy"] == strategy
    # What is published opens without FSDP, and is the same.
    (name,) = (path.name for path in (one.directory / "model").glob("*.safetensors"))
    expected, found = (load_file(done.directory / "model" / name) for done in (one, two))
    assert expected.keys() == found.keys()
    for weight, values in expected.items():
        assert torch.allclose(values, found[weight], atol=MOVED), weight

    assert not (two.directory / rank_log(1)).exists()


def test_every_held_out_row_counts_once():
    order = list(range(11))
    plan = rounds(order, 2, 2)
    assert [entry.rows for entry in plan] == [4, 4, 2, 1]
    assert [entry.batches for entry in plan[2:]] == [[[8], [9]], [[10], [10]]]

    for count, batch, ranks, unit in (
        (1, 4, 3, 1),
        (24, 4, 2, 4),
        (20, 4, 3, 4),
        (7, 2, 2, 1),
        (36, 6, 4, 3),
    ):
        plan = rounds(range(count), batch, ranks, unit)
        seen = []
        for entry in plan:
            assert len(entry.batches) == ranks
            assert len({len(rows) for rows in entry.batches}) == 1
            assert entry.rows % unit == 0
            for rows in entry.batches[:1] if entry.copies > 1 else entry.batches:
                seen += rows
        assert seen == list(range(count))
        assert sum(entry.rows for entry in plan) == count


@pytest.fixture(scope="module")
def uninterrupted(tiny, warm, tmp_path_factory) -> Run:
    done = run(warm, long_train(tmp_path_factory.mktemp("whole") / "run", tiny))
    assert done.code == EXIT_FINISHED, log_of(done)
    return done


def long_train(folder: Path, tiny: Path, **given: Any) -> Path:
    """Forty steps with dropout, so that random numbers count, and a checkpoint every ten."""
    given = {
        "devices": 2,
        "batch_size": 2,
        "max_steps": 40,
        "lora_dropout": 0.2,
        "save_strategy": "steps",
        "save_every": 10,
        "save_total_limit": 9,
    } | given
    return directory_of(folder, tiny, "sft", **given)


def resume(warm: Warm, done: Run) -> Run:
    """The next attempt, from the newest whole checkpoint."""
    spec = read_spec(done.directory)
    latest = checkpoint_latest(done.directory)
    write_spec(
        done.directory,
        replace(
            spec,
            attempt=spec.attempt + 1,
            resume_from=str(latest) if latest else None,
            last_seq=done.last["seq"],
        ),
    )
    return run(warm, done.directory)


@pytest.mark.long
def test_a_killed_rank_ends_the_train_and_it_resumes_to_the_same(
    tiny, warm, tmp_path, uninterrupted
):
    directory = long_train(tmp_path / "run", tiny)
    program = start(warm, directory)
    wait_for(directory, "checkpoint")
    pids = rank_pids(program)
    os.kill(pids[1], signal.SIGKILL)
    began = time.monotonic()
    done = finish(program, directory)

    assert time.monotonic() - began < 10
    assert done.code == EXIT_FAILED
    assert done.last["type"] == "failed"
    assert done.last["message"].startswith("Rank 1 of 2 was killed")
    assert all(map(is_gone, pids))
    assert all(checkpoint_is_whole(folder) for _, folder in checkpoints(directory))
    assert "Rank 1 of 2 was killed" in log_of(done)

    again = resume(warm, done)
    assert again.code == EXIT_FINISHED, log_of(again)
    assert again.losses() == uninterrupted.losses()
    expected = weights(uninterrupted)
    assert all((value == expected[name]).all() for name, value in weights(again).items())


def test_the_last_batch_of_an_epoch_counts_on_all_ranks(tiny, warm, tmp_path):
    """It is filled up: five rows are two steps of four, and a step of equal rows is worth as many
    tokens as any."""
    given = {"devices": 2, "batch_size": 2, "max_steps": 4, "logging_steps": 1}
    directory = prepare(tmp_path / "run", tiny, 5 * toy_rows(1), **given)
    done = run(warm, directory)
    assert done.code == EXIT_FINISHED, log_of(done)
    tokens = [
        values["num_tokens"] for (split, _), values in curve(done).items() if split == "train"
    ]
    assert tokens == [step * tokens[0] for step in (1, 2, 3, 4)]


def test_a_later_epoch_goes_on_in_its_own_order(tiny, warm, tmp_path):
    """Rows are in another order in each epoch, which a resume in the middle of one goes on with."""
    given = {"save_strategy": "steps", "save_every": 1, "save_total_limit": 9, "max_steps": 8}
    given |= {"max_samples": 16, "evaluation_split": 0.0}
    directory = directory_of(tmp_path / "run", tiny, "dpo", batch_size=2, devices=2, **given)
    done = run(warm, directory)
    assert done.code == EXIT_FINISHED, log_of(done)
    (started,) = done.of("started")
    middle = started["steps_per_epoch"] + 1
    assert middle < done.last["step"] - 1
    whole = curve(done)

    for step, folder in checkpoints(directory):
        if step > middle:
            shutil.rmtree(folder)

    again = resume(warm, done)
    assert again.code == EXIT_FINISHED, log_of(again)
    assert again.of("started")[-1]["resumed_from"] == middle
    rows = {step: values["loss"] for (split, step), values in whole.items() if split == "train"}
    assert again.losses() == pytest.approx(rows, rel=TOLERANCE)


@pytest.mark.long
def test_the_ranks_die_with_the_engine(tiny, warm, tmp_path):
    directory = long_train(tmp_path / "run", tiny, max_steps=4000)
    program = start(warm, directory)
    wait_for(directory, "metrics")
    pids = rank_pids(program)
    assert len(pids) == 2
    program.kill()
    assert program.wait() == 128 + signal.SIGKILL or program.returncode < 0
    until = time.monotonic() + 10
    while not all(map(is_gone, pids)) and time.monotonic() < until:
        time.sleep(0.01)
    assert all(map(is_gone, pids))


def stop_by_file(directory: Path, program: Program) -> None:
    stop_request(directory)


def stop_by_signal(directory: Path, program: Program) -> None:
    os.kill(program.pid, signal.SIGTERM)


def stop_all_at_once(directory: Path, program: Program) -> None:
    """As a service manager does: the signal goes to all processes, and the engine passes it on."""
    for pid in (*rank_pids(program), program.pid):
        os.kill(pid, signal.SIGTERM)


def stop_second_rank(directory: Path, program: Program) -> None:
    os.kill(rank_pids(program)[1], signal.SIGTERM)


@pytest.mark.parametrize(
    ("how", "when"),
    [
        (stop_by_file, "checkpoint"),
        (stop_by_signal, "evaluation"),
        (stop_second_rank, "metrics"),
        (stop_all_at_once, "metrics"),
    ],
)
def test_a_stop_leaves_one_whole_checkpoint_and_a_model(tiny, warm, tmp_path, how, when):
    given = {"max_steps": 4000, "save_every": 3, "save_total_limit": 1}
    if when == "evaluation":
        given |= {"evaluation_split": 0.5, "evaluation_every": 0.0005}
    directory = long_train(tmp_path / "run", tiny, **given)
    program = start(warm, directory)
    wait_for(directory, "metrics" if when == "evaluation" else when, step=2)
    how(directory, program)
    done = finish(program, directory)

    assert done.code == EXIT_STOPPED, log_of(done)
    events_are_in_order(done)
    step = done.last["step"]
    assert 0 < step < 4000
    ((found, folder),) = checkpoints(directory)
    assert found == step
    assert checkpoint_is_whole(folder)
    names = {path.name for path in folder.iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= names
    assert (directory / "model" / "adapter_model.safetensors").exists()
    assert step in done.losses()


@pytest.mark.parametrize("how", [stop_by_file, stop_by_signal])
def test_a_stop_before_the_first_step_leaves_nothing(tiny, warm, tmp_path, how):
    directory = long_train(tmp_path / "run", tiny, evaluation_split=0.5)
    if how is stop_by_file:
        stop_request(directory)
    program = start(warm, directory)
    if how is stop_by_signal:
        how(directory, program)
    done = finish(program, directory)
    if how is stop_by_signal and done.code != EXIT_STOPPED:
        # It came before anybody could hear it.
        assert done.code in (-signal.SIGTERM, 128 + signal.SIGTERM)
        return
    assert done.code == EXIT_STOPPED, log_of(done)
    assert done.last["type"] == "stopped"
    assert not list((directory / CHECKPOINTS).glob("*"))


def test_a_checkpoint_that_is_asked_for_is_saved_once(tiny, warm, tmp_path):
    directory = long_train(tmp_path / "run", tiny, save_every=4000, max_steps=60)
    program = start(warm, directory)
    wait_for(directory, "metrics", step=2)
    save_request(directory)
    wait_for(directory, "checkpoint")
    done = finish(program, directory)
    assert done.code == EXIT_FINISHED, log_of(done)
    assert len(done.of("checkpoint")) == 1
    events_are_in_order(done)


def test_patience_ends_both(tiny, warm, tmp_path):
    """It is noticed by the first rank alone."""
    given = {"evaluation_split": 0.1, "evaluation_every": 0.025, "early_stop_after": 1}
    done = run(warm, long_train(tmp_path / "run", tiny, learning_rate=0.5, **given))
    assert done.code == EXIT_FINISHED, log_of(done)
    assert done.last["step"] < 40
    assert "no better than that of step" in log_of(done)
    events_are_in_order(done)


def test_the_end_of_the_time_ends_both(tiny, warm, tmp_path):
    given = {"max_steps": 4000, "save_every": 4000, "time_limit_minutes": 1}
    directory = long_train(tmp_path / "run", tiny, **given)
    done = run(warm, directory, "tests.engine.seconds_for_minutes")
    assert done.code == EXIT_FAILED
    assert done.last["code"] == "time_limit", log_of(done)
    (checkpoint,) = done.of("checkpoint")
    assert checkpoint_is_whole(directory / CHECKPOINTS / f"checkpoint-{checkpoint['step']}")
    assert (directory / "model" / "adapter_model.safetensors").exists()
    events_are_in_order(done)


@pytest.mark.long
def test_a_branch_of_a_split_model_begins_with_its_weights(tiny, warm, tmp_path):
    module, case = "tests.engine.split_on_processors", "sft, all weights, split"
    given = {"devices": 2, "batch_size": 2, "max_steps": 2, "save_strategy": "end"}
    first = run(warm, directory_of(tmp_path / "first", tiny, case, **given), module)
    assert first.code == EXIT_FINISHED, log_of(first)
    ((step, checkpoint),) = checkpoints(first.directory)

    given |= {"learning_rate": 1e-12, "max_steps": 1}
    directory = directory_of(tmp_path / "second", tiny, case, **given)
    start = directory / "start"
    ignored = shutil.ignore_patterns(*LEFT_BEHIND)
    shutil.copytree(checkpoint, start, ignore=ignored)
    checkpoint_seal(start)
    branch = Branch(run_id=1, step=step, path=str(start))
    write_spec(directory, replace(read_spec(directory), branch=branch))

    second = run(warm, directory, module)
    assert second.code == EXIT_FINISHED, log_of(second)
    name = Path("model") / "model.safetensors"
    learned, begun, base = (
        load_file(folder / file)
        for folder, file in ((first.directory, name), (second.directory, name), (tiny, name.name))
    )
    assert any(not torch.allclose(learned[key], base[key].float()) for key in learned)
    assert all(torch.allclose(learned[key], begun[key], atol=1e-6) for key in learned)


def test_a_rank_that_fails_says_why(tiny, warm, tmp_path):
    """The reward fails on the second rank alone."""
    directory = directory_of(tmp_path / "run", tiny, "ppo", batch_size=2, devices=2)
    source = (
        f"import os\n{HEAD}    print('what I saw', flush=True)\n"
        "    return [1.0 if os.environ['RANK'] == '0' else None for _ in completions]\n"
    )
    script = tmp_path / "run.py"
    script.write_text(source)
    spec = read_spec(directory)
    mine = Resource(str(script), file_sha256(script))
    write_spec(directory, replace(spec, resources={"reward_function:mine": mine}))
    done = run(warm, directory)
    assert done.code == EXIT_FAILED
    assert done.last["code"] == "reward_failed", log_of(done)
    events_are_in_order(done)


def test_each_rank_writes_answers_of_its_own(tiny, warm, tmp_path):
    """And has those alone scored, once."""
    directory = directory_of(
        tmp_path / "run", tiny, "grpo", batch_size=4, devices=2, num_generations=8, max_steps=2
    )
    source = (
        f"import json, os\n{HEAD}    with open({str(tmp_path)!r} + '/' + os.environ['RANK'], 'a') as stream:\n"
        "        stream.write(json.dumps(completions) + '\\n')\n"
        "    return [len(text) / 16 for text in completions]\n"
    )
    script = tmp_path / "run.py"
    script.write_text(source)
    spec = read_spec(directory)
    mine = Resource(str(script), file_sha256(script))
    write_spec(directory, replace(spec, resources={"reward_function:mine": mine}))
    done = run(warm, directory)
    assert done.code == EXIT_FINISHED, log_of(done)
    first, second = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()] for name in "01"
    )
    assert [len(answers) for answers in first] == [len(answers) for answers in second] == [4, 4]
    assert all(ours != theirs for ours, theirs in zip(first, second, strict=True))


def test_a_train_is_repeated_on_other_ranks(tiny, warm, tmp_path):
    directory = directory_of(tmp_path / "run", tiny, "sft", batch_size=4)
    assert run(warm, directory).code == EXIT_FINISHED

    def repeat(*arguments: str) -> tuple[int, str]:
        done = warm.run("engine", str(directory), *arguments, env=dict(os.environ) | ENVIRONMENT)
        return done.returncode, done.stdout + done.stderr

    code, text = repeat("--ranks", "2")
    assert code == 0, text
    assert "All 6 losses are the same" in text
    repeated = directory / "repeats" / "1"
    assert read_spec(repeated).parameters["batch_size"] == 2
    code, text = repeat("--ranks", "3")
    assert code == EXIT_FAILED
    assert "3 devices cannot share the 4 rows" in text
    assert not (directory / "repeats" / "2").exists()


def test_a_model_is_not_split_over_processors(tiny, warm, tmp_path):
    directory = directory_of(tmp_path / "run", tiny, "sft", devices=2, strategy="shard")
    done = run(warm, directory)
    assert done.code == EXIT_FAILED
    assert done.last["code"] == "no_gpu", done.last
    events_are_in_order(done)


def test_what_one_device_alone_can_do_is_refused_for_several():
    for kind in (DpoParameters, KtoParameters):
        kind(more={"precompute_ref_log_probs": True})
        with pytest.raises(ValueError, match="on one device only"):
            kind(devices=2, more={"precompute_ref_log_probs": True})


def test_weights_that_a_step_passes_by_are_looked_for_beside_checkpointing_too():
    """Those that look at images get nothing from rows of text."""
    config = SimpleNamespace(get_text_config=SimpleNamespace)
    job = SimpleNamespace(
        parameters=SftParameters(devices=2, adapter="none", gradient_checkpointing=True),
        ranks=SimpleNamespace(are_several=True),
    )
    options = rank_options(job, SimpleNamespace(config=config))
    assert options["ddp_find_unused_parameters"]


def test_a_process_computes_on_one_gpu_however_many_it_sees(tmp_path):
    options = TrainingArguments(tmp_path, per_device_train_batch_size=3, use_cpu=True)
    options._n_gpu = 4
    assert options.train_batch_size == 12
    assert one_gpu_alone(options).train_batch_size == 3


def test_a_rank_whose_disk_is_full_says_so(tmp_path):
    """Though its log takes nothing any more."""
    (tmp_path / rank_log(1)).symlink_to("/dev/full")

    def work(ranks: Ranks) -> int:
        if ranks.is_first:
            signal.pause()
        raise OSError(errno.ENOSPC, "No space left on device")

    assert run_ranks(2, tmp_path, work).failure == DISK_FULL
