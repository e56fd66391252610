"""Whether a train fits, as the form, the API and the start say it, and what corrects it."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from core.errors import UserError
from datasets_app.models import Dataset, TokenLengths
from engine.forecast.batches import Batch
from engine.forecast.shape import shape_read
from jobs.devices.locks import DeviceLocks
from jobs.kinds import NotNow
from jobs.models import Job, Machine
from methods.models import TrainingMethod
from methods.services import methods_install, parameters_validate
from models_app.models import BaseModel
from tests.training.claims import machine_of
from tests.training.conftest import file_make
from training.forecast import devices as forecast_devices
from training.forecast.corrections import Configuration, Past, pasts_of
from training.forecast.devices import devices_present
from training.forecast.fixes import _allowed
from training.forecast.inputs import deciding_of, lengths_ready
from training.forecast.making import forecast_make
from training.forecast.step_time import seconds_by_step
from training.forecast.verdicts import (
    DOES_NOT_FIT,
    FITS,
    TIGHT,
    DeviceForecast,
    Forecast,
    size_words,
)
from training.form.preview import train_preview
from training.models import StepMeasurement, TrainRun
from training.train import step_trial, trial
from training.train.services import train_create
from training.train.step_trial import step_cancel, step_read, step_run, step_try

TOKENIZER = "1" * 64
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}
VOCABULARY = 32_000


def model_files(folder: Path) -> None:
    """A model of 6.2 billion weights: config.json, and a weight file with a header and holes."""
    hidden, width = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    keys = 8 * 128
    shapes = {
        "model.embed_tokens.weight": [VOCABULARY, hidden],
        "lm_head.weight": [VOCABULARY, hidden],
    }
    for layer in range(int(CONFIG["num_hidden_layers"])):
        name = f"model.layers.{layer}"
        shapes |= {
            f"{name}.self_attn.q_proj.weight": [hidden, hidden],
            f"{name}.self_attn.k_proj.weight": [keys, hidden],
            f"{name}.self_attn.v_proj.weight": [keys, hidden],
            f"{name}.self_attn.o_proj.weight": [hidden, hidden],
            f"{name}.mlp.gate_proj.weight": [width, hidden],
            f"{name}.mlp.up_proj.weight": [width, hidden],
            f"{name}.mlp.down_proj.weight": [hidden, width],
        }

    header, place = {}, 0
    for name, (rows, columns) in shapes.items():
        end = place + 2 * rows * columns
        header[name] = {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [place, end]}
        place = end

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + place)


@pytest.fixture
def choices(alice, make_train) -> Iterator[dict[str, Any]]:
    """What Alice chose for a train of a large model."""
    methods_install()
    model = BaseModel.objects.get(slug="tiny")
    BaseModel.objects.filter(pk=model.pk).update(
        context_length=8192, linear_modules=["q_proj", "v_proj"], tokenizer_sha256=TOKENIZER
    )
    model.refresh_from_db()
    model_files(model.path)
    dataset = Dataset.objects.get(slug="toys")
    Dataset.objects.update(row_count=400)
    dataset.refresh_from_db()
    file_make(dataset)
    TokenLengths.objects.create(
        dataset=dataset,
        tokenizer=TOKENIZER,
        model_path="models/1",
        rows={"700": 300, "1024": 100},
        prompts={"100": 400},
        ready=True,
    )

    yield {
        "owner": alice,
        "method": TrainingMethod.objects.get(slug="lora"),
        "base_model": model,
        "dataset": dataset,
        "parameters": {"batch_size": 8, "gradient_accumulation_steps": 2},
    }
    # Another test's model has the same id, and would be taken for as large.
    shutil.rmtree(model.path)


@pytest.fixture
def have(monkeypatch):
    """Workers with devices of so many GB."""

    def make(*sizes: float, kind: str = "cuda") -> list[dict[str, Any]]:
        devices = [
            {
                "kind": kind,
                "name": f"{kind} of {size}",
                "memory_gb": size,
                "threads": 8,
                "bf16": True,
            }
            for size in sizes
        ]
        present = [
            {"name": f"worker-{number}", "host": f"host-{number}", "device": device, "devices": 2}
            for number, device in enumerate(devices)
        ]
        monkeypatch.setattr(forecast_devices, "workers_present", lambda: present)
        return devices

    return make


def forecast_of(choices: dict[str, Any], **changes: Any) -> dict[str, Any]:
    preview = train_preview(**choices | changes)
    assert preview["plan"] is not None, preview["errors"]
    found: dict[str, Any] = preview["forecast"]
    return found


def test_the_verdict_is_that_of_the_device_and_its_error(choices, have):
    have(200)
    device = forecast_of(choices)["devices"][0]
    needed = device["total"] / 2**30

    for size, verdict in (
        (needed * 1.6, FITS),
        (needed * 1.05, TIGHT),
        (needed * 0.5, DOES_NOT_FIT),
    ):
        have(size)
        assert forecast_of(choices)["verdict"] == verdict

    assert device["low"] < device["total"] < device["high"]
    assert sum(part["bytes"] for part in device["parts"]) == device["total"]
    assert {"weights", "adapter", "optimizer", "activations", "logits"} <= {
        part["name"] for part in device["parts"]
    }


def test_each_kind_of_device_is_told_and_the_best_counts(choices, have):
    have(1, 200, 1)
    found = forecast_of(choices)

    assert [(device["verdict"], device["workers"]) for device in found["devices"]] == [
        (FITS, 1),
        (DOES_NOT_FIT, 2),
    ]
    assert train_preview(**choices)["ok"]


def test_what_cannot_fit_does_not_start_and_the_nearest_is_named(choices, have):
    have(20)
    preview = train_preview(**choices)

    with pytest.raises(UserError) as refusal:
        train_create(name="refused", **choices)

    assert refusal.value.code == "does_not_fit"
    assert preview["errors"] == refusal.value.fields
    fix = preview["forecast"]["fixes"][0]
    assert f"{fix['label']}: {fix['effect']}" in refusal.value.message
    # What the GPU has is more than a train can have of it.
    assert "a train can have 19.4 GB on the GPU" in refusal.value.message
    assert not TrainRun.objects.exists()
    # And the nearest that fits does start.
    changed = choices["parameters"] | fix["set"]
    assert train_preview(**choices | {"parameters": changed})["ok"]


def test_each_fix_says_what_the_changed_form_would_say(choices, have):
    have(20)
    found = forecast_of(choices)
    assert found["fixes"]

    for fix in found["fixes"]:
        after = forecast_of(choices, parameters=choices["parameters"] | fix["set"])
        device = after["devices"][0]
        assert (after["verdict"], device["total"]) == (fix["verdict"], fix["total"])
        assert fix["effect"].split(", cuts")[0] == size_words(device["total"])


def test_operators_may_start_it_anyway_and_that_is_recorded(choices, have, olga):
    have(20)
    own = choices | {"owner": olga, "start_anyway": True}

    for hopeful in (choices | {"start_anyway": True}, own | {"start_anyway": False}):
        with pytest.raises(UserError, match="takes about"):
            train_create(name="refused", **hopeful)

    run, _ = train_create(name="risked", **own)

    assert run.started_anyway
    assert run.forecast["verdict"] == DOES_NOT_FIT
    assert forecast_of(choices)["may_start_anyway"] is False
    assert forecast_of(choices, owner=olga)["may_start_anyway"] is True


def test_what_fits_is_not_called_risked(choices, have, olga):
    have(200)
    run, _ = train_create(name="fine", **choices | {"owner": olga, "start_anyway": True})

    assert not run.started_anyway
    assert run.forecast["total"] > run.forecast["computed"] * 0.9


def uncounted(choices: dict[str, Any]) -> None:
    TokenLengths.objects.update(ready=False)


def count_failed(choices: dict[str, Any]) -> None:
    TokenLengths.objects.update(ready=False, error="It loops.")


def other_layers(choices: dict[str, Any]) -> None:
    path = choices["base_model"].path / "model.safetensors"
    header = json.dumps(
        {"layers.0.mixer.A_log": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    ).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    config = choices["base_model"].path / "config.json"
    config.write_text(json.dumps(CONFIG | {"changed": True}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (uncounted, "being counted"),
        (count_failed, "It loops."),
        (other_layers, "other than attention"),
        (lambda choices: None, "No running worker"),
    ],
)
def test_there_is_no_verdict_where_it_would_be_a_guess(choices, have, change, said):
    have(*([] if said == "No running worker" else [20]))
    change(choices)
    found = forecast_of(choices)

    assert found["verdict"] == ""
    assert said in found["missing"]
    # No step is offered that cannot be tried.
    assert "one step" not in found["missing"]
    assert not found["may_try"]
    assert train_preview(**choices)["ok"]


def finished(
    make_train, choices, peak_gb: float, device: dict[str, Any], **changes: Any
) -> TrainRun:
    parameters = train_preview(**choices)
    assert parameters["plan"]
    resolved = parameters_validate(
        choices["method"], choices["parameters"] | changes, device=device["kind"]
    )
    return make_train(
        method=choices["method"],
        status="finished",
        step=25,
        parameters=resolved,
        last_metrics={"peak_memory_gb": peak_gb},
        facts={"device": device},
    )


def test_earlier_trains_correct_it_with_their_spread(choices, have, make_train):
    (device,) = have(200)
    before = forecast_of(choices)["devices"][0]
    assert before["basis"].startswith("estimated")
    computed = before["total"] - next(
        part["bytes"] for part in before["parts"] if part["name"] == "libraries"
    )

    for share in (1.2, 1.3, 1.25):
        finished(make_train, choices, share * computed / 2**30, device)

    # Of another kind, and on another device: they say nothing of this one.
    finished(make_train, choices, 9.0, device, gradient_checkpointing=True)
    finished(make_train, choices, 9.0, device | {"name": "another"})
    after = forecast_of(choices)["devices"][0]

    assert after["total"] == pytest.approx(before["total"] + 0.25 * computed, rel=0.01)
    assert after["basis"] == "corrected by 3 earlier trains"
    assert after["error"] < before["error"]


def test_trains_with_and_without_accumulation_are_not_alike():
    """Where all weights are trained; gradients of an adapter are small."""

    def past(adapter: str) -> Past:
        deciding = {"adapter": adapter, "gradient_accumulation_steps": 1}
        configuration = Configuration(deciding, Batch(1, 8, 8), is_half=True)
        return Past(1.0, configuration, is_step=False, is_own=True, at=timezone.now())

    summed = {"gradient_accumulation_steps": 4}
    assert past("none").is_alike({"adapter": "none", "gradient_accumulation_steps": 1})
    assert not past("none").is_alike({"adapter": "none"} | summed)
    assert past("lora").is_alike({"adapter": "lora"} | summed)


def test_the_very_configuration_counts_most(choices, have, make_train):
    (device,) = have(200)
    for _ in range(3):
        finished(make_train, choices, 40.0, device)

    measurement = tried(choices, device, peak_bytes=30 * 2**30)
    found = forecast_of(choices)["devices"][0]
    counted = found["total"] - next(
        part["bytes"] for part in found["parts"] if part["name"] == "libraries"
    )

    assert counted == pytest.approx(measurement.peak_bytes, rel=0.01)
    assert found["basis"] == "measured by one step"
    # Of a changed configuration it is one of several.
    changed = choices["parameters"] | {"lora_rank": 32}
    assert "tried step" in forecast_of(choices, parameters=changed)["devices"][0]["basis"]


def tried(choices: dict[str, Any], device: dict[str, Any], **result: Any) -> StepMeasurement:
    """A trial of one step, as a worker would end it."""
    measurement = step_try(by=choices["owner"], **{k: choices[k] for k in ASKED})
    found = {"step_seconds": 2.0, "device": device, "batch": measurement.batch} | result
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_trial, "program_run", lambda *arguments, **options: found)
        assert step_run(measurement.pk) == ""

    measurement.refresh_from_db()
    return measurement


ASKED = ("method", "base_model", "dataset", "parameters")


def test_a_step_is_a_job_of_its_own_and_no_train(choices, have):
    (device,) = have(200)
    measurement = step_try(by=choices["owner"], **{k: choices[k] for k in ASKED})
    job = Job.objects.get(kind="step-trial")

    assert (job.arguments, job.owner) == ([measurement.pk], choices["owner"])
    assert job.lane != Job.Lane.DEVICE
    assert not TrainRun.objects.exists()
    folder = step_trial.folder_of(measurement)
    assert json.loads((folder / "one_step.json").read_text())["rows"] == 16
    assert tried(choices, device, peak_bytes=1).done_at is not None


def test_a_step_that_failed_says_why_and_leaves_nothing(choices, have, monkeypatch):
    have(200)
    measurement = step_try(by=choices["owner"], **{k: choices[k] for k in ASKED})

    def fail(*arguments: Any, **options: Any) -> None:
        raise step_trial.ProgramProblem("The step needed more memory than there is.")

    monkeypatch.setattr(step_trial, "program_run", fail)

    assert "more memory" in step_run(measurement.pk)
    found = step_read(by=choices["owner"], pk=measurement.pk)
    assert found is not None
    assert found["done"]
    assert "more memory" in found["error"]
    assert not step_trial.folder_of(measurement).exists()
    # A second call, as of a worker that was killed meanwhile, changes nothing.
    assert step_run(measurement.pk) == ""


def test_only_its_owner_sees_and_cancels_a_step(choices, have, bob):
    have(200)
    alice = choices["owner"]
    measurement = step_try(by=alice, **{k: choices[k] for k in ASKED})

    assert step_read(by=bob, pk=measurement.pk) is None
    assert not step_cancel(by=bob, pk=measurement.pk)
    assert step_cancel(by=alice, pk=measurement.pk)
    found = step_read(by=alice, pk=measurement.pk)
    assert found is not None
    assert found["done"]
    assert "cancelled" in found["error"]
    assert Job.objects.get(kind="step-trial").status == "stopped"


def asked(choices: dict[str, Any], **changes: Any) -> StepMeasurement:
    return step_try(by=choices["owner"], **{k: choices[k] for k in ASKED} | changes)


def program_result(measurement: StepMeasurement, device: dict[str, Any]) -> dict[str, Any]:
    """What engine.programs.one_step reports."""
    return {
        "peak_bytes": 1,
        "step_seconds": 1.0,
        "device": device,
        "batch": measurement.batch,
    }


@pytest.mark.parametrize(("width", "taken", "waits"), [(1, 1, False), (1, 2, True), (2, 1, True)])
def test_a_step_holds_gpus_as_a_train_does(choices, have, monkeypatch, width, taken, waits):
    """Those that a train has are not its own, and a train gets none that it has."""
    have(200, 200)
    parameters = choices["parameters"] | {"devices": width}
    measurement = asked(choices, parameters=parameters)
    machine = machine_of(2, kind="cuda")
    state = step_trial.WorkerState(True, machine.devices["cuda:0"], "", 2, (machine,))
    monkeypatch.setattr(step_trial, "worker_state", lambda: state)
    seen: list[dict[str, str]] = []

    def program(*arguments: Any, **options: Any) -> dict[str, Any]:
        other = DeviceLocks()
        seen.append(options["environment"])
        assert options["memory_bytes"] is None
        assert not other.take("cuda:1")
        other.close()
        return program_result(measurement, machine.devices["cuda:1"])

    monkeypatch.setattr(step_trial, "program_run", program)
    train = DeviceLocks()
    assert all(train.take(f"cuda:{index}") for index in range(taken))

    if waits:
        with pytest.raises(NotNow, match="Waits for"):
            step_run(measurement.pk)
    else:
        assert step_run(measurement.pk) == ""
        assert seen[0]["CUDA_VISIBLE_DEVICES"] == "1"

    train.close()
    # And it holds nothing any more.
    assert all(train.take(f"cuda:{index}") for index in range(2))
    train.close()


def test_a_step_on_a_cpu_takes_what_trains_leave(choices, have, make_train, monkeypatch):
    have(8, kind="cpu")
    measurement = asked(choices)
    monkeypatch.setattr(step_trial, "memory_available", lambda: 4 * 2**30)
    limits = []

    def program(*arguments: Any, **options: Any) -> dict[str, Any]:
        limits.append(options["memory_bytes"])
        return program_result(measurement, {"kind": "cpu"})

    monkeypatch.setattr(step_trial, "program_run", program)
    run = make_train(status="running", host=socket.gethostname())
    with pytest.raises(NotNow, match="memory"):
        step_run(measurement.pk)

    TrainRun.objects.filter(pk=run.pk).update(status="finished")
    assert step_run(measurement.pk) == ""
    assert limits == [round(0.9 * 4 * 2**30)]


def test_a_step_of_several_devices_has_rows_for_all(choices, have):
    have(200)
    measurement = asked(choices, parameters=choices["parameters"] | {"devices": 2})
    order = json.loads((step_trial.folder_of(measurement) / "one_step.json").read_text())

    assert order["rows"] == 8 * 2 * 2


def test_what_steps_leave_behind_is_removed(choices, have, monkeypatch):
    have(200)
    lost, waiting = asked(choices), asked(choices)
    old = timezone.now() - timedelta(days=2)
    StepMeasurement.objects.update(created_at=old)
    Job.objects.filter(arguments=[lost.pk]).delete()
    nobodys = step_trial.trials_folder() / "step-99999"
    nobodys.mkdir()
    for folder in (nobodys, step_trial.folder_of(lost), step_trial.folder_of(waiting)):
        os.utime(folder, (old.timestamp(), old.timestamp()))

    # Trials of rewards have a day as well, and leave steps alone.
    trial._drop_old(choices["owner"])
    assert step_trial.folder_of(waiting).exists()
    asked(choices)
    lost.refresh_from_db()
    waiting.refresh_from_db()

    assert "killed" in lost.error
    assert waiting.done_at is None
    assert step_trial.folder_of(waiting).exists()
    assert not nobodys.exists()
    assert not step_trial.folder_of(lost).exists()

    # Where it cannot be queued nothing is left.
    before = StepMeasurement.objects.count()
    monkeypatch.setattr(step_trial, "job_add", lambda *given, **named: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        asked(choices)
    assert StepMeasurement.objects.count() == before


def test_nobody_queues_steps_without_end(choices, have):
    have(200)
    for _ in range(step_trial.MOST_OPEN):
        last = asked(choices)

    with pytest.raises(UserError, match="wait or run already"):
        asked(choices)

    step_cancel(by=choices["owner"], pk=last.pk)
    assert asked(choices).pk


def test_steps_that_were_lost_keep_nobody_from_trying(choices, have):
    have(200)
    for _ in range(step_trial.MOST_OPEN):
        asked(choices)

    StepMeasurement.objects.update(created_at=timezone.now() - timedelta(days=2))
    Job.objects.filter(kind="step-trial").delete()

    assert asked(choices).pk


def lacking_step(choices: dict[str, Any], device: dict[str, Any], monkeypatch, make_train) -> None:
    measurement = asked(choices)

    def fail(*arguments: Any, **options: Any) -> None:
        raise step_trial.ProgramProblem("The GPU ran out of memory.")

    machine = replace(machine_of(1, kind="cuda"), devices={"cuda:0": device})
    state = step_trial.WorkerState(True, device, "", 1, (machine,))
    monkeypatch.setattr(step_trial, "worker_state", lambda: state)
    monkeypatch.setattr(step_trial, "program_run", fail)
    assert "out of memory" in step_run(measurement.pk)


def lacking_train(choices: dict[str, Any], device: dict[str, Any], monkeypatch, make_train) -> None:
    run = finished(make_train, choices, 0.0, device)
    TrainRun.objects.filter(pk=run.pk).update(
        status="failed", error_code="out_of_memory", step=0, total_steps=50
    )


@pytest.mark.parametrize("lacking", [lacking_step, lacking_train])
def test_what_ran_out_of_memory_is_not_said_to_fit(choices, have, monkeypatch, make_train, lacking):
    (device,) = have(200)
    assert forecast_of(choices)["verdict"] == FITS
    lacking(choices, device, monkeypatch, make_train)
    (found,) = forecast_of(choices)["devices"]

    assert (found["verdict"], found["basis"]) == (TIGHT, "ran out of memory here")
    # Of another batch, or another device, it says nothing.
    smaller = choices["parameters"] | {"batch_size": 4}
    assert forecast_of(choices, parameters=smaller)["verdict"] == FITS
    have(300)
    assert forecast_of(choices)["verdict"] == FITS


@pytest.mark.parametrize("lacking", [lacking_step, lacking_train])
def test_what_has_run_since_it_ran_out_of_memory_counts(
    choices, have, monkeypatch, make_train, lacking
):
    """Something else had the memory the first time."""
    (device,) = have(200)
    lacking(choices, device, monkeypatch, make_train)
    assert forecast_of(choices)["verdict"] == TIGHT

    monkeypatch.undo()
    (device,) = have(200)
    tried(choices, device, peak_bytes=30 * 2**30)
    (found,) = forecast_of(choices)["devices"]
    assert (found["verdict"], found["basis"]) == (FITS, "measured by one step")

    # And what ran out after that counts again.
    lacking(choices, device, monkeypatch, make_train)
    assert forecast_of(choices)["verdict"] == TIGHT


def test_a_step_that_ran_out_of_memory_names_the_gpu_that_it_had(choices, have, monkeypatch):
    """The machine has a larger one too, which a train has now."""
    have(200)
    measurement = asked(choices)
    machine = machine_of(2, kind="cuda")
    names = {"cuda:0": "Large", "cuda:1": "Small"}
    devices = {key: machine.devices[key] | {"name": name} for key, name in names.items()}
    machine = replace(machine, devices=devices)
    state = step_trial.WorkerState(True, devices["cuda:0"], "", 2, (machine,))
    monkeypatch.setattr(step_trial, "worker_state", lambda: state)

    def fail(*arguments: Any, **options: Any) -> None:
        raise step_trial.ProgramProblem("The GPU ran out of memory.")

    monkeypatch.setattr(step_trial, "program_run", fail)
    train = DeviceLocks()
    assert train.take("cuda:0")
    assert "out of memory" in step_run(measurement.pk)
    train.close()

    measurement.refresh_from_db()
    assert measurement.device["name"] == "Small"


def test_long_rows_to_evaluate_count(choices, have):
    """In a large batch of their own, of a dataset whose tokens were counted."""
    have(200)
    method = TrainingMethod.objects.get(slug="grpo")
    given = {
        "batch_size": 8,
        "gradient_accumulation_steps": 1,
        "max_completion_tokens": 64,
        "max_prompt_tokens": 4096,
        "rewards": [{"function": "length_window"}],
        "more": {"per_device_eval_batch_size": 32},
        "gradient_checkpointing": True,
    }
    held_out = Dataset.objects.create(
        owner=choices["owner"], name="Long", slug="long", format="prompt-only", size_bytes=1
    )
    counts = TokenLengths.objects.create(
        dataset=held_out, tokenizer=TOKENIZER, rows={"4000": 40}, prompts={"4000": 40}, ready=True
    )

    def found() -> DeviceForecast:
        return forecast_make(
            method=method,
            base_model=choices["base_model"],
            dataset=choices["dataset"],
            evaluation_dataset=held_out,
            parameters=parameters_validate(method, given, device="cuda"),
            steps=50,
        ).devices[0]

    long = found()
    assert long.moment == "evaluating"
    assert any(part["name"] == "cache" for part in long.parts)

    TokenLengths.objects.filter(pk=counts.pk).update(ready=False)
    assert found().total < long.total


def test_earlier_trains_with_rows_to_evaluate_cost_no_query_each(choices, have, make_train):
    (device,) = have(200)
    model = choices["base_model"]

    def ran() -> None:
        run = finished(make_train, choices, 40.0, device)
        number = TrainRun.objects.count()
        held_out = Dataset.objects.create(
            owner=choices["owner"], name="Held out", slug=f"held-{number}", size_bytes=1
        )
        lengths = {"rows": {"500": 40}, "prompts": {"100": 40}, "ready": True}
        TokenLengths.objects.create(dataset=held_out, tokenizer=TOKENIZER, **lengths)
        TrainRun.objects.filter(pk=run.pk).update(evaluation_dataset=held_out)

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            found = pasts_of("sft", model, shape_read(model.path), device)
        assert len(found) == TrainRun.objects.count()
        return len(captured)

    ran()
    of_one = queries()
    ran()
    ran()
    assert queries() == of_one


def test_packed_steps_take_as_long_as_the_one_that_was_tried(choices, have):
    (device,) = have(200)
    method = TrainingMethod.objects.get(slug="sft")
    given = {"packing": True, "max_steps": 10, "max_tokens": 2048}
    own = {name: choices[name] for name in ("base_model", "dataset")} | {"method": method}
    parameters = parameters_validate(method, given, device="cuda")
    StepMeasurement.objects.create(
        **own,
        parameters=parameters,
        batch={"rows": 8, "tokens": 8 * 2048, "longest": 1024, "answer": 0},
        device=device,
        step_seconds=2.0,
        done_at=timezone.now(),
    )

    def seconds(**changes: Any) -> float | None:
        return seconds_by_step(
            **own, parameters=parameters | changes, steps=10, device=device["name"]
        )

    # Steps of an epoch are counted by its rows, of which a sequence has several.
    mean = (300 * 700 + 100 * 1024) / 400
    assert seconds() == 20.0
    assert seconds(max_steps=None) == pytest.approx(20 * mean / 2048)


def test_a_system_prompt_is_in_each_row(choices, have, make_train):
    (device,) = have(200)
    choices["parameters"] |= {"max_tokens": 4096}
    prompt = "Answer like a farmer. " * 100
    plain, prompted = forecast_of(choices), forecast_of(choices, system_prompt=prompt)
    added = prompted["batch"]["longest"] - plain["batch"]["longest"]

    assert 400 < added < 700
    assert prompted["batch"]["tokens"] == plain["batch"]["tokens"] + 8 * added
    assert asked(choices, system_prompt=prompt).batch == prompted["batch"]
    # Rows of an earlier train had its own, and texts have none.
    run = finished(make_train, choices, 40.0, device)
    corrected = [forecast_of(choices)["devices"][0]["total"]]
    TrainRun.objects.filter(pk=run.pk).update(system_prompt=prompt)
    corrected.append(forecast_of(choices)["devices"][0]["total"])
    assert corrected[1] < corrected[0]

    choices["dataset"].format = "text"
    lengths = lengths_ready(choices["base_model"], choices["dataset"], prompt)
    assert isinstance(lengths, TokenLengths)
    assert max(map(int, lengths.rows)) == 1024


def test_steps_go_with_the_person(choices, have):
    have(200)
    measurement = asked(choices)
    step_trial.steps_delete(choices["owner"])

    assert not StepMeasurement.objects.exists()
    assert not step_trial.folder_of(measurement).exists()
    assert Job.objects.get(kind="step-trial").status == "stopped"


def test_a_step_speaks_for_rows_of_its_length_alone(choices, have):
    (device,) = have(200)
    tried(choices, device, peak_bytes=30 * 2**30)
    assert forecast_of(choices)["devices"][0]["basis"] == "measured by one step"

    TokenLengths.objects.update(rows={"70": 300, "102": 100})
    basis = forecast_of(choices)["devices"][0]["basis"]
    assert basis == "corrected by 1 tried step"


def test_a_step_whose_batch_was_smaller_measured_another(choices, have):
    (device,) = have(200)
    wanted = asked(choices).batch
    smaller = wanted | {"tokens": round(0.9 * wanted["tokens"])}
    measurement = tried(choices, device, peak_bytes=30 * 2**30, batch=smaller)

    assert measurement.batch == smaller
    assert forecast_of(choices)["devices"][0]["basis"] == "corrected by 1 tried step"


def test_reward_models_are_neither_lost_nor_counted_twice(choices, have, make_train):
    """A step without one says nothing of the one that is there now, which comes on top."""
    (device,) = have(200)
    scorer = make_train(method=TrainingMethod.objects.get(recipe="reward"), status="finished")
    BaseModel.objects.update(size_bytes=8 * 2**30)
    method = TrainingMethod.objects.get(slug="grpo")
    small = {"batch_size": 8, "gradient_accumulation_steps": 1}
    plain = small | {"rewards": [{"function": "length_window"}]}
    own = choices | {"method": method, "parameters": plain}
    resolved = parameters_validate(method, plain, device="cuda")
    scored = resolved | {
        "rewards": [{"function": "reward_model", "parameters": {"model": scorer.pk}}]
    }

    def forecasts() -> list[DeviceForecast]:
        found = [
            forecast_make(
                method=method,
                base_model=choices["base_model"],
                dataset=choices["dataset"],
                parameters=parameters,
                steps=50,
                reward_bytes=size,
            )
            for parameters, size in ((resolved, 0), (scored, 8 * 2**30))
        ]
        return [one.devices[0] for one in found]

    before = forecasts()
    batch = {"rows": 8, "tokens": 3200, "longest": 400, "answer": 256}
    StepMeasurement.objects.create(
        method=method,
        base_model=own["base_model"],
        dataset=own["dataset"],
        parameters=resolved,
        batch=batch,
        device=device,
        peak_bytes=round(1.2 * before[0].total),
        done_at=timezone.now(),
    )
    after = forecasts()

    assert after[0].total > before[0].total
    # The same 8 GB as before, with the gaps around them.
    added = before[1].total - before[0].total
    assert 8 * 2**30 < added == after[1].total - after[0].total
    assert after[1].basis == "corrected by 1 tried step"


@pytest.mark.parametrize("batch", [15, 7, 3])
def test_an_odd_batch_becomes_smaller_too(choices, have, batch):
    own = choices["parameters"] | {
        "batch_size": batch,
        "gradient_accumulation_steps": 3000,
        "gradient_checkpointing": True,
    }
    have(1000)
    smallest = forecast_of(choices, parameters=own | {"batch_size": 1})["devices"][0]
    have(1.01 * smallest["high"] / 2**30 / 0.97)
    fixes = [fix["set"] for fix in forecast_of(choices, parameters=own)["fixes"]]

    # Twice the accumulation would be more than it may be.
    assert {"batch_size": 1, "gradient_accumulation_steps": 4096} in fixes


def test_what_the_form_does_not_have_hides_no_other_fix(choices, have):
    """Full fine-tuning with its adapter fixed: a LoRA adapter would fit, and is not to be had."""
    method = TrainingMethod.objects.get(slug="sft")
    own = choices | {"method": method}
    have(1000)
    resolved = parameters_validate(method, choices["parameters"], device="cuda")
    allowed = _allowed(method, resolved)

    assert not allowed({"adapter": "lora"})
    assert not allowed({"batch_size": 0})
    assert allowed({"batch_size": 2})
    assert forecast_of(own)["devices"]


def test_fewer_answers_are_offered_where_they_fill_the_memory(choices, have):
    """A smaller batch with more accumulation leaves as many of them to be written together."""
    choices |= {
        "method": TrainingMethod.objects.get(slug="grpo"),
        "parameters": {
            "batch_size": 8,
            "gradient_accumulation_steps": 64,
            "num_generations": 8,
            "max_completion_tokens": 1024,
            "gradient_checkpointing": True,
            "rewards": [{"function": "length_window"}],
            "max_steps": 2,
        },
    }
    Dataset.objects.update(row_count=4000)
    own = choices["parameters"]
    have(1000)
    many = forecast_of(choices)["devices"][0]
    few = forecast_of(choices, parameters=own | {"gradient_accumulation_steps": 16})["devices"][0]
    assert many["moment"] == "answers"
    have(1.01 * few["high"] / 2**30 / 0.97)
    found = forecast_of(choices)
    fix = next(fix for fix in found["fixes"] if fix["verdict"] == FITS)

    assert (found["verdict"], fix["label"]) == (DOES_NOT_FIT, "Use 128 answers a step")
    assert fix["set"] == {"batch_size": 8, "gradient_accumulation_steps": 16}
    # Groups of answers are whole.
    allowed = _allowed(
        choices["method"], parameters_validate(choices["method"], own, device="cuda")
    )
    assert not allowed({"batch_size": 4, "gradient_accumulation_steps": 1})


def fixes_to(choices: dict[str, Any], have: Any, **smaller: Any) -> list[dict[str, Any]]:
    """The fixes on a device on which the train fits with these changes alone."""
    own = choices["parameters"] | {"gradient_checkpointing": True, "batch_size": 1}
    have(1000)
    wanted = forecast_of(choices, parameters=own | smaller)["devices"][0]
    have(1.01 * wanted["high"] / 2**30 / 0.97)
    fixes: list[dict[str, Any]] = forecast_of(choices, parameters=own)["fixes"]
    return fixes


def test_a_shorter_limit_says_what_it_cuts_and_is_not_offered_where_answers_are_lost(choices, have):
    (fix,) = [fix for fix in fixes_to(choices, have, max_tokens=512) if "max_tokens" in fix["set"]]
    assert fix["set"] == {"max_tokens": 512}
    assert fix["effect"].endswith(" GB, cuts 400 rows")

    # Most prompts alone are that long.
    TokenLengths.objects.update(prompts={"100": 100, "600": 300})
    assert not any("max_tokens" in fix["set"] for fix in fixes_to(choices, have, max_tokens=512))


def test_no_fix_touches_what_a_sweep_varies(choices, have):
    have(20)
    given = {
        "method": choices["method"],
        "base_model": choices["base_model"],
        "dataset": choices["dataset"],
        "parameters": parameters_validate(choices["method"], choices["parameters"], device="cuda"),
        "steps": 50,
    }
    assert any("batch_size" in fix["set"] for fix in forecast_make(**given).fixes)

    left = forecast_make(**given, held=["batch_size"]).fixes
    assert left
    assert not any("batch_size" in fix["set"] for fix in left)


def wide(choices: dict[str, Any], **changes: Any) -> Forecast:
    parameters = choices["parameters"] | {"devices": 2} | changes
    return forecast_make(
        method=choices["method"],
        base_model=choices["base_model"],
        dataset=choices["dataset"],
        parameters=parameters_validate(choices["method"], parameters, device="cuda"),
        steps=50,
    )


def test_there_is_no_verdict_of_weights_in_main_memory(choices, have):
    have(1)
    assert wide(choices, strategy="shard").cannot_fit

    found = wide(choices, strategy="shard", offload=True)
    assert not found.cannot_fit
    assert "main memory" in found.missing


def test_there_is_no_verdict_of_activations_in_main_memory(choices, have):
    offloaded = choices["parameters"] | {"more": {"activation_offloading": True}}
    have(1)
    found = forecast_of(choices, parameters=offloaded)
    assert (found["verdict"], "activations in main memory" in found["missing"]) == ("", True)

    # A machine without GPUs has no other memory.
    have(1, kind="cpu")
    assert forecast_of(choices, parameters=offloaded)["verdict"] == DOES_NOT_FIT


def test_there_is_no_verdict_of_vllm(choices, have):
    have(1)
    method = TrainingMethod.objects.get(slug="grpo")
    given = {"rewards": [{"function": "length_window"}]}

    def found(**changes: Any) -> Forecast:
        return forecast_make(
            method=method,
            base_model=choices["base_model"],
            dataset=choices["dataset"],
            parameters=parameters_validate(method, given | changes, device="cuda"),
            steps=50,
        )

    assert found().cannot_fit
    assert found(use_vllm=True).verdict == ""
    assert "vLLM" in found(use_vllm=True).missing
    # Nor does its train correct others.
    assert deciding_of(given) != deciding_of(given | {"use_vllm": True})


def test_a_model_may_be_split_where_copies_do_not_fit(choices, have):
    choices["parameters"] |= {"gradient_checkpointing": True, "batch_size": 1}
    have(1000)
    copies = wide(choices).devices[0].total / 2**30
    have(0.85 * copies)
    (fix,) = [fix for fix in wide(choices).fixes if "strategy" in fix["set"]]

    assert fix["set"] == {"strategy": "shard"}
    assert fix["total"] == wide(choices, strategy="shard").devices[0].total


def presence(kind: str, memory_gb: float, **changes: Any) -> dict[str, Any]:
    device = {"kind": kind, "name": f"{kind} {memory_gb}", "memory_gb": memory_gb, "bf16": True}
    return {
        "name": f"worker-{kind}-{memory_gb}",
        "host": f"{kind}-host",
        "slot": "0",
        "device": device | {"identity": kind},
        "devices": 1,
    } | changes


def test_only_devices_that_can_run_it_are_looked_at(choices, monkeypatch):
    """A large machine without GPUs is none for 4-bit weights, nor one GPU for two."""
    present = [presence("cpu", 512), presence("cuda", 4), presence("cuda", 999, devices=2)]
    monkeypatch.setattr(forecast_devices, "workers_present", lambda: present)
    four_bits = parameters_validate(
        choices["method"], choices["parameters"] | {"quantization": "4-bit"}, device="cuda"
    )

    def names(**changes: Any) -> list[str]:
        found = forecast_make(
            method=choices["method"],
            base_model=choices["base_model"],
            dataset=choices["dataset"],
            parameters=four_bits | changes,
            steps=50,
        )
        return [device.name for device in found.devices]

    assert sorted(names(quantization="none")) == ["cpu 512", "cuda 4", "cuda 999"]
    assert sorted(names()) == ["cuda 4", "cuda 999"]
    assert names(devices=2) == ["cuda 999"]


def test_what_may_fit_a_machine_that_is_away_is_not_refused(choices, monkeypatch):
    monkeypatch.setattr(forecast_devices, "workers_present", lambda: [presence("cpu", 4)])
    here = Machine.objects.create(host="cpu-host", slot="0", kind="cpu")
    with pytest.raises(UserError, match="takes about"):
        train_create(name="refused", **choices)

    away = Machine.objects.create(host="cuda-host", slot="0", kind="cuda")
    found = forecast_of(choices)
    assert (found["verdict"], found["away"]) == (DOES_NOT_FIT, True)
    assert train_create(name="waits", **choices)[0].pk

    # It will not come back.
    Machine.objects.filter(pk=away.pk).update(seen_at=here.seen_at - timedelta(days=3))
    assert forecast_of(choices)["away"] is False


def test_workers_of_one_host_share_its_memory(monkeypatch):
    alone = devices_present([presence("cpu", 16)])
    two = devices_present([presence("cpu", 16), presence("cpu", 16, slot="1")])
    others = devices_present([presence("cpu", 16), presence("cpu", 16, host="b")])
    # Divided by DEEPEXTENSION_CPU_DEVICES each has its share already.
    shares = [presence("cpu", 8, devices=2) for _ in range(2)]
    for index, one in enumerate(shares):
        one["device"]["identity"] = f"cpu:{index}"

    memory = [
        [(device["memory_gb"], device["workers"]) for device in found]
        for found in (alone, two, others, devices_present(shares))
    ]
    assert memory == [[(16, 1)], [(8, 2)], [(16, 2)], [(8, 2)]]


def test_a_step_of_what_cannot_start_is_refused(choices, have):
    have(200)
    with pytest.raises(UserError) as refusal:
        step_try(
            by=choices["owner"],
            **{k: choices[k] for k in ASKED} | {"parameters": {"learning_rate": 0}},
        )

    assert "learning_rate" in refusal.value.fields
    assert not StepMeasurement.objects.exists()


def test_a_step_of_what_does_not_fit_may_be_tried(choices, have):
    have(20)
    assert step_try(by=choices["owner"], **{k: choices[k] for k in ASKED}).pk


def test_the_api_says_the_same(choices, have, client, olga):
    have(20)
    client.force_login(olga)
    body = {
        "method": "lora",
        "base_model": "tiny",
        "dataset": "toys",
        "parameters": choices["parameters"],
    }
    Dataset.objects.update(shared=True)
    options = {"content_type": "application/json"}

    plan = client.post("/api/v1/trains/plan/", body, **options).json()
    refused = client.post("/api/v1/trains/", body, **options)
    started = client.post("/api/v1/trains/", body | {"start_anyway": True}, **options)
    step = client.post("/api/v1/trains/try-step/", body, **options)

    assert plan["forecast"] == json.loads(json.dumps(forecast_of(choices, owner=olga)))
    assert refused.status_code == 400
    assert "memory" in refused.json()["error"]["fields"]
    assert started.status_code == 201
    assert started.json()["started_anyway"] is True
    assert step.status_code == 202
    address = f"/api/v1/trains/try-step/{step.json()['id']}/"
    assert client.get(address).json()["done"] is False
    assert client.delete(address).status_code == 204
    assert client.get("/api/v1/trains/try-step/999/").status_code == 404


def test_the_form_shows_bar_verdict_and_fixes(choices, have, client, olga):
    have(20)
    Dataset.objects.update(shared=True)
    address = (
        f"/trains/new/lora/?dataset={choices['dataset'].pk}&base_model={choices['base_model'].pk}"
    )

    def page(user: Any) -> str:
        client.force_login(user)
        return client.get(address).content.decode()

    def answer(user: Any, **posted: Any) -> dict[str, Any]:
        client.force_login(user)
        fields = {"base_model": "tiny", "dataset": "toys", "batch_size": 8, **posted}
        return client.post("/trains/new/lora/plan/", fields).json()

    assert "forecast-bar" in page(choices["owner"])
    mine = answer(choices["owner"])
    assert "Will not fit" in mine["forecast_html"]
    assert "data-fix" in mine["forecast_html"]
    assert "start_anyway" not in mine["forecast_html"]
    assert "start_anyway" in answer(olga)["forecast_html"]
    assert answer(olga, start_anyway="on")["forecast"]["verdict"] == DOES_NOT_FIT


def test_nothing_is_asked_of_a_custom_program(choices, have):
    have(20)
    choices["method"].recipe = "custom"
    found = forecast_make(
        method=choices["method"],
        base_model=choices["base_model"],
        dataset=choices["dataset"],
        parameters={},
        steps=1,
    )

    assert found.verdict == ""
    assert "custom program" in found.missing
