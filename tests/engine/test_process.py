"""The engine as a process: forked from a warm one, asked to stop by a signal, and what its modules
import."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.data.length_grouping import GroupedByLength
from engine.process.waiting import BRIEFLY, threads_spin_briefly
from engine.programs.option_catalogues import catalogue_text
from engine.run.hardware import Device, precision_choose, thread_count
from engine.schema.options import CATALOGUES
from engine.schema.registry import RECIPES, more_options
from tests.engine.runs import Run, prepare

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 90

# One process answers all questions about a warm one: to warm it takes many seconds. The operation
# comes last, since nothing may be forked after it.
WARM = """
import json, os, sys
from pathlib import Path
from engine.process import preload
from engine.schema.registry import RECIPES

def pool():
    # Allocators have threads of other names, which come and go.
    return sum(Path(f"/proc/self/task/{task}/comm").read_text() == own for task in os.listdir("/proc/self/task"))

own = Path("/proc/self/comm").read_text() if sys.platform == "linux" else ""
preload.load()
report = {"peft": "peft" in sys.modules, "spins": os.environ.get("GOMP_SPINCOUNT")}
report["can_train"] = [preload.can_train({}), preload.can_train({"quantization": "4-bit"})]
trainers = {
    recipe.trainer_config.partition(":")[0].replace("_config", "_trainer")
    for recipe in RECIPES.values()
}
report["no trainer"] = sorted(trainers - set(sys.modules))

before = set(sys.modules)
receive, send = os.pipe()
pid = os.fork()
if pid == 0:
    from engine.run.main import run
    code = run(Path(sys.argv[1]))
    heavy = ("torch", "transformers", "trl", "peft", "datasets", "accelerate")
    late = sorted(name for name in set(sys.modules) - before if name.split(".")[0] in heavy)
    os.write(send, json.dumps(late).encode())
    os._exit(code)
os.close(send)
report["late"] = json.loads(os.fdopen(receive).read() or "null")
_, status = os.waitpid(pid, 0)
report["code"] = os.waitstatus_to_exitcode(status)

if own:
    threads = pool()
    import torch
    torch.ones(512, 512) @ torch.ones(512, 512)
    report["threads"] = [torch.get_num_threads(), pool() - threads]
print("REPORT", json.dumps(report))
"""


# How an operator chooses what threads do while they wait.
CHOSEN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.fixture(scope="module")
def warm_process(tiny, tmp_path_factory) -> dict:
    """What a warm process says of itself, and the directory of a train that was forked from it.
    A bitsandbytes is installed that must not be imported."""
    folder = tmp_path_factory.mktemp("warm")
    package = folder / "bitsandbytes"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('bitsandbytes was imported')")
    directory = prepare(folder / "run", tiny, max_steps=2)
    result = subprocess.run(
        [sys.executable, "-c", WARM, str(directory)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env={name: value for name, value in os.environ.items() if name not in CHOSEN}
        | {"OMP_NUM_THREADS": "2", "PYTHONPATH": f"{ROOT}:{folder}"},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    report = re.search(r"^REPORT (.*)$", result.stdout, re.MULTILINE)
    assert report, result.stdout
    return json.loads(report[1]) | {"directory": directory, "output": result.stdout}


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_a_warm_process_has_not_started_the_threads_that_a_fork_would_lose(warm_process):
    """The first operation starts the pool, so none was run before."""
    assert warm_process["threads"] == [2, 1]


def test_a_warm_process_does_not_import_what_wakes_the_gpu(warm_process):
    """peft imports bitsandbytes where it is installed, and that asks the GPU what it can do."""
    assert warm_process["peft"]
    assert warm_process["can_train"] == [True, False]


def test_the_threads_of_a_train_spin_briefly_where_nobody_chose_otherwise(
    warm_process, monkeypatch
):
    assert warm_process["spins"] == BRIEFLY["GOMP_SPINCOUNT"]

    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    threads_spin_briefly()
    assert "GOMP_SPINCOUNT" not in os.environ


def test_what_a_warm_process_imports_holds_every_trainer(warm_process):
    assert warm_process["no trainer"] == []


def test_a_train_forked_from_a_warm_process_finishes_and_imports_next_to_nothing(warm_process):
    assert warm_process["code"] == 0, warm_process["output"]
    assert Run(0, warm_process["directory"]).last["type"] == "finished"
    assert len(warm_process["late"]) < 40, warm_process["late"]


@pytest.mark.long
def test_a_signal_stops_a_train_like_the_stop_file(tiny, tmp_path, warm):
    directory = prepare(tmp_path / "run", tiny, max_steps=100_000)
    process = warm.program(["engine", str(directory), "--in-place"])
    run = Run(0, directory)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not run.of("metrics") and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    log = process.communicate()
    assert process.wait(PATIENCE_SECONDS) == 3, log
    assert run.last["type"] == "stopped"
    assert (directory / "model" / "adapter_model.safetensors").is_file()


@pytest.mark.long
def test_the_log_is_for_people(tiny, tmp_path):
    directory = prepare(tmp_path / "run", tiny, max_steps=2, evaluation_split=0.2)
    result = subprocess.run(
        [sys.executable, "-m", "engine", str(directory)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert result.returncode == 0, result.stderr
    assert "it/s" not in result.stdout + result.stderr
    assert "Warning" not in result.stdout + result.stderr
    assert re.search(r"step 1/2 +epoch 0\.\d+ +loss \d", result.stdout)


def test_the_devices_are_told_as_one_json_line():
    result = subprocess.run(
        [sys.executable, "-m", "engine.run.hardware"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    device, *_ = json.loads(result.stdout)
    assert set(device) == {"kind", "name", "memory_gb", "threads", "bf16", "identity"}
    assert device["threads"] >= 1


@pytest.mark.parametrize(
    ("wanted", "kind", "bf16", "adapter", "expected"),
    [
        ("auto", "cpu", True, True, ("bf16", "bfloat16", "")),
        ("auto", "cpu", False, True, ("fp32", "float32", "")),
        ("auto", "cpu", True, False, ("bf16", "float32", "bf16")),
        ("auto", "cuda", True, True, ("bf16", "bfloat16", "bf16")),
        ("auto", "cuda", False, True, ("fp16", "float16", "fp16")),
        ("auto", "cuda", True, False, ("bf16", "float32", "bf16")),
        ("fp32", "cuda", True, True, ("fp32", "float32", "")),
    ],
)
def test_precision_is_what_the_device_does_well_and_what_is_trained_stays_in_fp32(
    wanted, kind, bf16, adapter, expected
):
    chosen = precision_choose(wanted, Device(kind, "a device", 8, 2, bf16), adapter=adapter)
    assert (chosen.name, chosen.weights, chosen.autocast) == expected


def test_threads_are_set_by_hand_where_somebody_did(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert thread_count() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert 1 <= thread_count() <= os.cpu_count()


def test_rows_are_grouped_by_length_in_an_order_of_seed_and_epoch_alone():
    lengths = [length % 37 for length in range(1, 1000)]
    sampler = GroupedByLength(lengths, effective_batch=8, seed=1)
    first = list(sampler)
    assert sorted(first) == list(range(999))
    assert first == list(GroupedByLength(lengths, effective_batch=8, seed=1))
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(GroupedByLength(lengths, effective_batch=8, seed=2)) != first
    batches = [first[start : start + 8] for start in range(0, 992, 8)]
    padding = sum(
        max(lengths[row] for row in batch) * 8 - sum(lengths[row] for row in batch)
        for batch in batches
    )
    assert padding < 0.1 * sum(lengths), (
        "in any order it would be nearly as much as the rows themselves"
    )
    means = [sum(lengths[row] for row in batch) / 8 for batch in batches]
    assert means != sorted(means)


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_the_list_of_other_options_is_fresh(recipe):
    assert (CATALOGUES / f"{recipe}.json").read_text() == catalogue_text(RECIPES[recipe]), (
        "run python -m engine.programs.option_catalogues"
    )
    assert set(more_options(recipe)) == set(RECIPES[recipe].options)


def test_no_option_is_offered_that_runs_code_or_writes_elsewhere():
    words = (
        "output",
        "hub",
        "report",
        "trust",
        "deepspeed",
        "fsdp",
        "resume",
        "path",
        "init_kwargs",
        "save",
        "log",
    )
    assert [name for name in more_options("sft") if any(word in name for word in words)] == []
