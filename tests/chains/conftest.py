"""Chains of real rows and folders, whose trains and merges are ended by hand; what runs for real
stands in tests/e2e."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from chains.advancing import chain_advance
from chains.models import Chain, Stage
from chains.services import chain_create, chain_order
from datasets_app.models import Dataset
from engine.contract.rundir import MODEL
from jobs.devices import presence
from methods.models import TrainingMethod
from methods.services import methods_install
from models_app.models import BaseModel
from tests.training.test_carrying_on import ADAPTER
from tests.training.test_carrying_on import model_of as model_of_parent
from training.models import MetricRow, TrainRun


@pytest.fixture(autouse=True)
def home(tmp_path, settings):
    """Numbers begin at 1 in every test, and so would the folders of trains."""
    folder = tmp_path / "home"
    (folder / "tmp").mkdir(parents=True)
    settings.HOME = folder
    settings.DISK_RESERVE_BYTES = 0


WORKER = {"name": "w", "host": "far", "process": "", "device": {"kind": "cpu", "name": "CPU"}}


@pytest.fixture(autouse=True)
def workers(monkeypatch) -> list[dict[str, Any]]:
    """Those that are there, without a queue: one, on the CPU. A test may take it away."""
    present = [WORKER]
    monkeypatch.setattr(presence, "workers_present", lambda: present)
    return present


@pytest.fixture
def model(db) -> BaseModel:
    methods_install()
    made = BaseModel.objects.create(
        name="Tiny",
        slug="tiny",
        source="gguf",
        reference="tiny.gguf",
        status="ready",
        context_length=2048,
        linear_modules=["q_proj", "v_proj"],
        tokenizer_sha256="1" * 64,
        shared=True,
    )
    made.path.mkdir(parents=True)
    return made


def dataset_make(owner: Any, name: str, row_format: str) -> Dataset:
    dataset = Dataset.objects.create(
        owner=owner,
        name=name,
        slug=name.lower(),
        file_name="x.jsonl",
        file_type="jsonl",
        size_bytes=3,
        sha256=name.ljust(64, "0"),
        status="ready",
        format=row_format,
        row_count=40,
    )
    dataset.path.parent.mkdir(parents=True)
    dataset.path.write_text("{}\n")
    return dataset


@pytest.fixture
def toys(alice) -> Dataset:
    return dataset_make(alice, "Toys", "messages")


@pytest.fixture
def pairs(alice) -> Dataset:
    return dataset_make(alice, "Pairs", "preference")


@pytest.fixture
def tuned(model) -> BaseModel:
    """A model that was trained from `model` and keeps its adapter, of rank 8."""
    return model_of_parent(model, "Tuned", ADAPTER)


@pytest.fixture
def draft(alice, model, toys, pairs) -> Callable[..., Chain]:
    """A draft of Alice's: supervised, then by preferences; `changes` of the first stage."""

    def make(**changes: Any) -> Chain:
        first = {
            "name": "first",
            "method": TrainingMethod.objects.get(slug="lora"),
            "base_model": model,
            "dataset": toys,
        }
        second = Stage(name="second", method=TrainingMethod.objects.get(slug="dpo"), dataset=pairs)
        return chain_create(owner=alice, name="Support", stages=[Stage(**first | changes), second])

    return make


@pytest.fixture
def make_chain(draft, alice) -> Callable[..., Chain]:
    """The same, ordered."""

    def make(**changes: Any) -> Chain:
        return chain_order(chain=draft(**changes), by=alice)

    return make


def stages(chain: Chain) -> list[Stage]:
    return list(chain.stages.select_related("run__method", "model"))


def run_of(chain: Chain, position: int = 1) -> TrainRun:
    run = stages(chain)[position - 1].run
    assert run is not None
    return run


def model_of(chain: Chain) -> BaseModel:
    model = stages(chain)[0].model
    assert model is not None
    return model


def train_end(run: TrainRun, status: str = "finished", **values: Any) -> None:
    """As a worker would have ended it."""
    if status == "finished":
        (run.directory / MODEL).mkdir(parents=True, exist_ok=True)
    TrainRun.objects.filter(pk=run.pk).update(
        status=status, started_at=timezone.now(), finished_at=timezone.now(), **values
    )


def measure(run: TrainRun, *values: float | None, metric: str = "eval_loss") -> None:
    """Evaluations before the first step and after others."""
    for number, value in enumerate(values):
        MetricRow.objects.create(
            run=run, seq=number + 1, step=10 * number, split="eval", time=0, values={metric: value}
        )
    TrainRun.objects.filter(pk=run.pk).update(last_evaluation={metric: values[-1]})


def merged(chain: Chain, **values: Any) -> None:
    """As a background worker would have made the model."""
    model = model_of(chain)
    model.path.mkdir(parents=True, exist_ok=True)
    usual = {"status": "ready", "proof": {"passed": True, "checks": []}}
    BaseModel.objects.filter(pk=model.pk).update(**usual | values)


def advance(chain: Chain) -> Chain:
    """Twice: the second time must change nothing."""
    chain_advance(chain.pk)
    before = snapshot(chain)
    chain_advance(chain.pk)
    assert snapshot(chain) == before
    chain.refresh_from_db()
    return chain


def snapshot(chain: Chain) -> list[Any]:
    return [
        list(Chain.objects.filter(pk=chain.pk).values_list()),
        list(Stage.objects.filter(chain=chain).values_list()),
        list(TrainRun.objects.order_by("pk").values_list("pk", "status")),
        list(BaseModel.objects.order_by("pk").values_list("pk", "status")),
    ]
