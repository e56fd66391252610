"""A parameter's value reads the same wherever it is shown."""

from __future__ import annotations

from typing import Any

import pytest

from methods.builtin import BUILTIN
from methods.management.commands.docs import row as documented
from methods.models import TrainingMethod
from methods.schema import Field, method_fields
from methods.services import methods_install
from training.form.controls import controls_make
from training.models import TrainRun
from training.pages.compare import setting_rows
from training.pages.overview import differences, groups_of

METHODS = [values["slug"] for values in BUILTIN]


def values_of(field: Field) -> list[Any]:
    """Values of each kind that the field can have."""
    values = [field.default]
    if field.nullable:
        values.append(None)

    if field.kind == "bool":
        values += [True, False]
    elif field.kind == "choice":
        values += [value for value, _ in field.choices]
    elif field.kind == "int":
        values += [1, 4096]
    elif field.kind == "float":
        values += [1.0, 0.5, 0.05, 2e-4]
    elif field.kind == "modules":
        values += ["all-linear", ["q_proj", "v_proj"]]
    elif field.kind == "options":
        values += [{}, {"optim": "adamw_torch", "max_grad_norm": 0.5}]
    elif field.kind == "rewards":
        values += [[], [{"function": "tags", "weight": 0.5, "parameters": {}}]]

    return values


@pytest.fixture
def pair(make_train) -> tuple[TrainRun, TrainRun]:
    """A train and the one that it was copied from."""
    methods_install()
    origin = make_train(name="origin")
    return make_train(name="copy", copied_from=origin), origin


@pytest.mark.parametrize("slug", METHODS)
def test_every_parameter_reads_the_same_on_every_page(pair, slug):
    method = TrainingMethod.objects.get(slug=slug)
    for field in method_fields(method).values():
        for value in values_of(field):
            texts = texts_of(field, value, method, *pair)
            assert set(texts.values()) == {field.shown(value)}, (field.name, value, texts)


def value_for(wanted: Any) -> Any:
    """A value that fulfils one of Field.active_when."""
    if isinstance(wanted, dict):
        return wanted["above"] + 1

    return wanted[0] if isinstance(wanted, list) else wanted


def texts_of(
    field: Field, value: Any, method: TrainingMethod, run: TrainRun, origin: TrainRun
) -> dict[str, str]:
    """{page: how it writes the value}, for the pages that show this field."""
    # With the values under which the field has an effect.
    needed = {name: value_for(wanted) for name, wanted in field.active_when.items()}
    for train, own in ((run, value), (origin, "another")):
        train.method = method
        train.parameters = needed | {field.name: own}
        train.defaults = {field.name: own}

    run.copied_from = origin
    texts = {}

    for group in groups_of(run):
        for parameter in group.parameters:
            if parameter.title == field.title:
                texts["overview"] = parameter.value
                texts["overview, default"] = parameter.default

    for title, _, after in differences(run):
        if title == field.title.lower() and not after.endswith("…"):
            texts["overview, changes"] = after

    for setting in setting_rows([run, origin], run):
        if setting.title == field.title:
            texts["compare"] = setting.cells[0].text

    controls = controls_make(
        {field.name: field}, {}, original={field.name: value}, modules=[], device="cuda"
    )
    if field.name in controls:
        texts["form"] = controls[field.name].original

    if value == field.default:
        texts["methods"] = field.default_text
        cell = documented(field, field).split(" | ")[2]
        texts["documentation"] = cell.removesuffix(f" {field.unit_of(value)}")

    return texts


def test_values_are_written_as_people_read_them(pair):
    fields = method_fields(TrainingMethod.objects.get(slug="lora"))

    assert fields["target_modules"].shown("all-linear") == "All linear layers"
    assert fields["packing"].shown(True) == "On"
    assert fields["warmup_ratio"].shown(0.05) == "5%"
    assert fields["learning_rate"].shown(2e-4) == "2e-4"
    assert fields["max_tokens"].shown(4096) == "4,096"
    assert fields["seed"].shown(4096) == "4096"
    assert fields["scheduler"].shown("cosine") == "Cosine"
    assert fields["lora_alpha"].shown(None) == "twice the rank"
    assert fields["more"].shown({}) == "none"
