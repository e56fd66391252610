"""Whether a train fits, as the form, the API and the start say it, and what corrects it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from datasets_app.models import Dataset, TokenLengths
from jobs.kinds import NotNow
from jobs.models import Job
from methods.models import TrainingMethod
from methods.services import methods_install
from models_app.models import BaseModel
from tests.training.test_train_check import file_make
from training.form.preview import train_preview
from training.models import StepMeasurement, TrainRun
from training.train import forecast, step_trial
from training.train.forecast import DOES_NOT_FIT, FITS, TIGHT, forecast_make, size_words
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
def choices(alice, make_train) -> dict[str, Any]:
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

    return {
        "owner": alice,
        "method": TrainingMethod.objects.get(slug="lora"),
        "base_model": model,
        "dataset": dataset,
        "parameters": {"batch_size": 8, "gradient_accumulation_steps": 2},
    }


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
        present = [{"device": device} for device in devices]
        monkeypatch.setattr(forecast, "workers_present", lambda: present)
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
        assert fix["effect"] == size_words(device["total"])


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
        (lambda choices: None, "No worker"),
    ],
)
def test_there_is_no_verdict_where_it_would_be_a_guess(choices, have, change, said):
    have(*([] if said == "No worker" else [20]))
    change(choices)
    found = forecast_of(choices)

    assert found["verdict"] == ""
    assert said in found["missing"]
    assert train_preview(**choices)["ok"]


def finished(
    make_train, choices, peak_gb: float, device: dict[str, Any], **changes: Any
) -> TrainRun:
    parameters = train_preview(**choices)
    assert parameters["plan"]
    from methods.services import parameters_validate

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
    assert before["basis"].startswith("computed")
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
    found = {"step_seconds": 2.0, "device": device} | result
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


def test_a_step_waits_while_a_train_has_the_gpu(choices, have, make_train, monkeypatch):
    have(200)
    measurement = step_try(by=choices["owner"], **{k: choices[k] for k in ASKED})
    make_train(status="running")
    state = step_trial.WorkerState(True, {"kind": "cuda", "memory_gb": 80}, "")
    monkeypatch.setattr(step_trial, "worker_state", lambda: state)

    with pytest.raises(NotNow):
        step_run(measurement.pk)


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
