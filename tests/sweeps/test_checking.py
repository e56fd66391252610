"""What is said against a sweep before it starts, and how many trains it makes: every kind of field,
dependent ones, and every number that is too much."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

import sweeps.checking
from core.errors import UserError
from methods.models import TrainingMethod
from methods.schema import method_fields
from sweeps.checking import sweep_check
from sweeps.models import Sweep
from sweeps.services import sweep_start
from sweeps.space import axes_read, space_of
from tests.chains.conftest import dataset_make
from tests.sweeps.conftest import RATES
from tests.training.test_carrying_on import ADAPTER, model_of


@pytest.fixture
def lora_fields(model) -> dict[str, Any]:
    return method_fields(TrainingMethod.objects.get(slug="lora"))


KINDS: list[tuple[str, dict[str, Any], str]] = [
    ("learning_rate", {"values": ["1e-4", 2e-4]}, "1e-4, 2e-4"),
    ("learning_rate", {"low": 1e-5, "high": 1e-3, "scale": "log"}, "1e-5 to 1e-3, logarithmic"),
    ("lora_rank", {"values": [4, 8, 16.0]}, "4, 8, 16"),
    ("lora_rank", {"low": 4, "high": 8}, "4 to 8"),
    ("lora_alpha", {"values": [None, 16]}, "twice the rank, 16"),
    ("warmup_ratio", {"values": [0.0, 0.1]}, "0%, 10%"),
    ("use_dora", {"values": [True, False]}, "On, Off"),
    ("scheduler", {"values": ["cosine", "linear"]}, "Cosine, Linear"),
    ("target_modules", {"values": ["all-linear", ["q_proj"]]}, "All linear layers, q_proj"),
]


@pytest.mark.parametrize(("name", "entry", "text"), KINDS, ids=str)
def test_every_kind_of_field_has_values(lora_fields, name, entry, text):
    (axis,) = axes_read(lora_fields, {name: entry})
    assert axis.text == text
    # What is kept is read back as the same.
    assert axes_read(lora_fields, {name: axis.as_dict()}) == [axis]


WRONG: list[tuple[str, Any, str]] = [
    ("learning_rate", {"values": [1e-4]}, "give 2 to 50 values"),
    ("learning_rate", {"values": [1e-4] * 51}, "give 2 to 50 values"),
    ("learning_rate", {"values": [2e-4, 1e-4, 0.0002]}, "2e-4 stands here twice."),
    ("lora_rank", {"values": [8, 8.0]}, "8 stands here twice."),
    ("learning_rate", {"values": [1e-4, "much"]}, "must be a number"),
    ("learning_rate", {"values": [1e-4, 7]}, "at most 1"),
    ("learning_rate", {"values": [1e-4, None]}, "a value is missing"),
    ("learning_rate", {"values": [1e-4, True]}, "must be a number"),
    ("lora_rank", {"values": [8, 8.5]}, "whole number"),
    ("use_dora", {"values": [True, 1]}, "is not one of its values"),
    ("scheduler", {"values": ["cosine", "slow"]}, "is not one of its values"),
    ("scheduler", {"values": [["cosine"], "linear"]}, "is not one of its values"),
    ("scheduler", {"values": [{"a": 1}, "linear"]}, "is not one of its values"),
    ("target_modules", {"values": ["all-linear", []]}, "is not one of its values"),
    ("learning_rate", {"low": 1e-3, "high": 1e-4}, "ends where it begins"),
    ("learning_rate", {"low": 1e-3, "high": 1e-3}, "ends where it begins"),
    ("learning_rate", {"low": 1e-3}, "give both ends"),
    ("learning_rate", {"low": 0.5, "high": 2}, "at most 1"),
    ("warmup_ratio", {"low": 0, "high": 0.1, "scale": "log"}, "begins above 0"),
    ("warmup_ratio", {"low": 0, "high": 0.1, "scale": "cubic"}, "one of linear, log"),
    ("scheduler", {"low": 1, "high": 2}, "is no number"),
    ("learning_rate", [1e-4, 2e-4], "Give an object"),
    ("learning_rate", {"values": [1e-4, 2e-4], "low": 1}, "not 'low'"),
    ("learning_rates", {"values": [1, 2]}, "Unknown parameter"),
    ("evaluation_every", {"values": [0.1, 0.2]}, "the same for all trains"),
    ("more", {"values": [{}, {"a": 1}]}, "the same for all trains"),
]


@pytest.mark.parametrize(("name", "entry", "text"), WRONG, ids=str)
def test_what_is_wrong_is_said_at_its_setting(lora_fields, name, entry, text):
    with pytest.raises(UserError) as refusal:
        axes_read(lora_fields, {name: entry, "weight_decay": {"values": [0.0, 0.1]}})
    assert list(refusal.value.fields) == [name]
    assert text in refusal.value.fields[name][0]


def test_a_fixed_or_hidden_field_is_not_offered(model):
    method = TrainingMethod.objects.get(slug="lora")
    method.overrides = {"lora_rank": {"fixed": 8}, "weight_decay": {"hidden": True}}
    fields = method_fields(method)
    for name in ("lora_rank", "weight_decay"):
        with pytest.raises(UserError, match="fixed by this method"):
            axes_read(fields, {name: {"values": [1, 2]}})


def test_a_dependent_field_is_no_part_of_what_it_has_no_effect_on(lora_fields):
    space = {"lora_rank": {"values": [4, 8]}, "adapter": {"values": ["lora", "none"]}}
    both = space_of(
        lora_fields | {"adapter": free(lora_fields)},
        space,
        {},
    )
    assert [axis.name for axis in both.axes] == ["adapter", "lora_rank"]
    assert both.count() == 3
    assert list(both.combinations()) == [
        {"adapter": "lora", "lora_rank": 4},
        {"adapter": "lora", "lora_rank": 8},
        {"adapter": "none"},
    ]

    fields = lora_fields | {"adapter": free(lora_fields)}
    with pytest.raises(UserError, match="no effect beside the other settings"):
        space_of(fields, {"lora_rank": {"values": [4, 8]}}, {"adapter": "none"})


def free(fields: dict[str, Any]) -> Any:
    """The choice between an adapter and all weights, as a method without one of them fixed has it."""
    return replace(fields["adapter"], fixed=False, hidden=False, default="lora")


def refused(request) -> dict[str, list[str]]:
    check = sweep_check(request, device="cpu")
    if check.errors:
        with pytest.raises(UserError):
            sweep_start(request)
        assert not Sweep.objects.exists()
    return check.errors


MANY = {
    "learning_rate": {"values": [n / 1e5 for n in range(1, 21)]},
    "lora_rank": {"low": 1, "high": 500},
}


@pytest.mark.parametrize(
    ("changes", "field", "text"),
    [
        ({"space": {}}, "space", "at least one setting"),
        ({"space": MANY}, "search", "10,000 combinations, and a sweep makes at most 200"),
        (
            {"space": {"learning_rate": {"low": 1e-5, "high": 1e-3}}, "search": "grid"},
            "search",
            "A range has endless values",
        ),
        ({"space": MANY, "search": "random"}, "budget_trains", "how many trains"),
        (
            {"space": MANY, "search": "tpe", "budget_trains": 201},
            "budget_trains",
            "at most 200 trains",
        ),
        ({"budget_trains": 0}, "budget_trains", "at least 1"),
        ({"budget_hours": float("nan")}, "budget_hours", "above 0"),
        ({"metric": "reward"}, "metric", "measures eval_loss, loss"),
        ({"parameters": {"evaluation_split": 0}}, "metric", "eval loss is never measured"),
        (
            {"pruner": "median", "parameters": {"evaluation_every": 0.5}},
            "pruner",
            "at least 4 evaluations",
        ),
        ({"pruner": "percentile", "percentile": 0}, "percentile", "from 1 to 99"),
        ({"space": {"seed": {"values": [1, 2]}}}, "seed", "Choose an evaluation dataset."),
        ({"space": {"max_tokens": {"values": [64, 128]}}}, "max_tokens", "measured differently"),
        (
            {"space": {"batch_size": {"values": [2, 64]}}},
            "batch_size",
            "With batch size 64: Only ",
        ),
        ({"parameters": {"learning_rat": 1}}, "learning_rat", "Unknown parameter"),
        ({"base_model": None}, "base_model", "Choose a base model."),
    ],
    ids=str,
)
def test_what_cannot_be_swept_is_said_before(request_of, changes, field, text):
    errors = refused(request_of(**changes))
    assert text in errors[field][0], errors


def test_seeds_can_differ_where_all_are_measured_on_the_same_rows(request_of, alice, model):
    held_out = dataset_make(alice, "Held", "messages")
    asked = request_of(space={"seed": {"values": [1, 2, 3]}}, evaluation_dataset=held_out)
    check = sweep_check(asked, device="cpu")
    assert (check.errors, check.trains) == ({}, 3)


@pytest.mark.parametrize(
    ("changes", "combinations", "trains"),
    [
        ({}, 3, 3),
        ({"budget_trains": 2}, 3, 2),
        ({"budget_trains": 50}, 3, 3),
        ({"budget_hours": 2.0}, 3, 3),
        ({"space": MANY, "search": "random", "budget_trains": 20}, 10_000, 20),
        ({"space": MANY, "search": "random", "budget_hours": 1.0}, 10_000, 200),
        (
            {"space": {"learning_rate": {"low": 1e-5, "high": 1e-3}}, "budget_trains": 12},
            None,
            12,
        ),
    ],
    ids=str,
)
def test_it_says_how_many_trains_there_will_be(request_of, changes, combinations, trains):
    check = sweep_check(request_of(**changes), device="cpu")
    assert (check.errors, check.combinations, check.trains) == ({}, combinations, trains)
    sweep, _ = sweep_start(request_of(**changes))
    assert sweep.budget_trains == trains
    assert sweep.search == changes.get("search", "grid" if combinations else "tpe")


def test_the_limit_is_a_setting(request_of, settings):
    settings.SWEEP_TRAINS = 2
    assert "at most 2 trains" in refused(request_of(space=RATES))["search"][0]


@pytest.mark.parametrize("is_operator", [False, True])
def test_a_value_that_does_not_fit_is_said_before(
    request_of, alice, otto, monkeypatch, is_operator
):
    asked_of: list[int] = []

    def forecast(*, parameters, **rest):
        asked_of.append(parameters["batch_size"])
        too_large = parameters["batch_size"] > 2
        return SimpleNamespace(cannot_fit=too_large, refusal=lambda: "It takes 80 GB.")

    monkeypatch.setattr(sweeps.checking, "forecast_make", forecast)
    space = {"batch_size": {"values": [1, 2, 4]}} | RATES
    asked = request_of(space=space)
    (text,) = sweep_check(asked, device="cpu").errors["batch_size"]
    assert text == "With batch size 4: It takes 80 GB."
    # The rates take the same.
    assert asked_of == [2, 4]

    type(asked.dataset).objects.update(shared=True)
    asked = replace(asked, owner=otto if is_operator else alice, start_anyway=True)
    assert bool(sweep_check(asked, device="cpu").errors) != is_operator


def test_a_percentile_is_kept_where_it_counts(request_of):
    sweep, _ = sweep_start(request_of(percentile=99_999))
    assert sweep.percentile == 25
    sweep, _ = sweep_start(request_of(percentile=30, pruner="percentile"))
    assert sweep.percentile == 30


def test_each_value_is_tried_with_the_adapter_that_is_carried_on(request_of, alice, model):
    tuned = model_of(model, "Tuned", ADAPTER)
    pairs = dataset_make(alice, "Pairs", "preference")
    asked = request_of(
        method="dpo",
        base_model=tuned,
        dataset=pairs,
        continue_adapter=True,
        space={"adapter": {"values": ["lora", "none"]}},
    )
    assert "With " in sweep_check(asked, device="cpu").errors["adapter"][0]
    fine = replace(asked, space=RATES)
    assert sweep_check(fine, device="cpu").errors == {}
