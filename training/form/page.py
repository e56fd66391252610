"""What the new-train page shows: controls with their errors and fixes, the choices of model and
data, and why some cannot be chosen."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.urls import reverse

from datasets_app.models import Dataset
from engine.rows.formats import FORMATS
from jobs.devices.launchers import RAY, cluster_name
from jobs.devices.machines import most_devices
from methods.services import method_options
from models_app.models import BaseModel
from training.form.controls import Control, controls_make, groups_make, reward_templates
from training.form.draft import Draft, base_models_of, unfinished_of
from training.form.forecast_bar import forecast_context
from training.models import TrainRun
from training.train.carrying_on import GIVEN_PARAMETERS, adapter_text, can_carry_on
from training.train.dataset_choice import DatasetChoice, choices_make, datasets_visible
from training.train.labels import label_suggestions
from training.train.launching import launchers_offered
from training.train.reward_resources import reward_models
from training.train.services import dataset_obstacle
from training.work.queue import may_manage_queue

INGREDIENTS = {
    "name": "Train name",
    "base_model": "Base model",
    "continue_adapter": "Adapter",
    "dataset": "Dataset",
    "evaluation_dataset": "Evaluation dataset",
    "system_prompt": "System prompt",
    "labels": "Labels",
    "after": "Starts",
    "branch_step": "Weights to begin with",
    "priority": "Priority",
    "launcher": "Run on",
    "memory": "Memory",
}


def with_missing(preview: dict[str, Any], draft: Draft) -> dict[str, Any]:
    """The preview with what the draft could not find."""
    if not draft.missing:
        return preview

    return preview | {"ok": False, "errors": preview["errors"] | draft.missing}


def form_context(draft: Draft, preview: dict[str, Any], *, posted: bool = False) -> dict[str, Any]:
    origin = draft.origin
    controls = controls_make(
        draft.fields,
        draft.parameters,
        original=origin.parameters if origin else None,
        modules=draft.base_model.linear_modules if draft.base_model else [],
        device=(preview["worker"]["device"] or {}).get("kind", "cpu"),
        devices=most_devices(launcher=draft.launcher),
        others=draft.others,
    )

    errors = preview["errors"]
    models = base_models_of(draft.reader)
    adapters = adapters_of(draft, models)

    for name, control in controls.items():
        # What the adapter gives is not asked for.
        if draft.continue_adapter and name in GIVEN_PARAMETERS:
            control.active = False

        control.errors = errors.get(name, [])
        control.warning = preview["warnings"].get(name, "")
        control.fixes = preview["fixes"].get(name, [])

    options = method_options(draft.method)
    datasets = datasets_visible(draft.reader)
    choices, unfit = choices_make(datasets, draft.method, draft.dataset)
    evaluation_choices, _ = choices_make(datasets, draft.method, draft.evaluation_dataset)

    return {
        "draft": draft,
        "method": draft.method,
        **groups_context(controls),
        "preview": preview,
        "errors": errors,
        "posted": posted,
        "elsewhere": errors_elsewhere(errors, controls),
        "problems": _problems(controls, preview),
        "models": models,
        "choices": choices,
        "choice": choice_of(choices, draft.dataset),
        "carrying_offered": can_carry_on(draft.method, draft.fields),
        "adapter_text": adapters.get(draft.base_model.pk, "") if draft.base_model else "",
        "evaluation_choices": evaluation_choices,
        "evaluation_choice": choice_of(evaluation_choices, draft.evaluation_dataset),
        "unfit": unfit,
        "explained": explanations(draft),
        **rewards_context(draft, controls),
        "own_labels": [name for name, _ in label_suggestions(draft.reader)],
        "unfinished": unfinished_of(draft.reader),
        "priorities": priorities_of(draft.reader),
        "launchers": launchers_offered(draft.method),
        "cluster_name": cluster_name(),
        "known_options": [{"name": name, "hint": spec["help"]} for name, spec in options.items()],
        "page": page_data(models, choices, preview, controls, adapters) | {"options": options},
        "form_url": reverse("training:form", args=[draft.method.slug]),
        "plan_url": reverse("training:plan", args=[draft.method.slug]),
        "forecast": forecast_context(preview),
        "try_url": reverse("training:try_step", args=[draft.method.slug]),
    }


def adapters_of(draft: Draft, models: list[BaseModel]) -> dict[int, str]:
    """{id of a base model: what its adapter is, "" where none can be carried on}."""
    fields = draft.fields if can_carry_on(draft.method, draft.fields) else {}
    return {model.pk: adapter_text(model, fields, draft.reader) for model in models}


def groups_context(controls: dict[str, Control]) -> dict[str, Any]:
    """The groups; that of the data stands beside the ingredients."""
    groups = groups_make(controls)
    return {
        "groups": groups,
        "data_group": next((group for group in groups if group.title == "Data"), None),
        "other_groups": [group for group in groups if group.title != "Data"],
    }


def rewards_context(draft: Draft, controls: dict[str, Control]) -> dict[str, Any]:
    if "rewards" not in controls:
        return {"reward_templates": [], "reward_models": []}

    return {
        "reward_templates": reward_templates(),
        "reward_models": list(reward_models(draft.reader)),
    }


def priorities_of(reader: User) -> list[tuple[int, str]]:
    """(value, label) of the priorities that this reader may give, the highest first."""
    choices = list(reversed(TrainRun.Priority.choices))
    if may_manage_queue(reader):
        return choices

    return [(value, label) for value, label in choices if value != TrainRun.Priority.HIGH]


def errors_elsewhere(
    errors: dict[str, list[str]], controls: dict[str, Control]
) -> dict[str, list[str]]:
    """Errors of no control on the page. The method's and those of the train as a whole have their
    place even while there are none: they can come while somebody types."""
    without_control = {
        name: texts
        for name, texts in errors.items()
        if name not in controls and name not in INGREDIENTS
    }
    return {"": [], "method": []} | without_control


def choice_of(choices: list[DatasetChoice], dataset: Dataset | None) -> DatasetChoice | None:
    """The choice of that very version, None for one that cannot be chosen."""
    return next((choice for choice in choices if choice.dataset == dataset), None)


def _problems(controls: dict[str, Control], preview: dict[str, Any]) -> list[dict[str, str]]:
    """The list in the summary: errors first, each a link to its field."""
    titles = titles_of(controls)
    problems = []

    for kind in ("error", "warning"):
        for name in preview[f"{kind}s"]:
            title = titles.get(name, "This train")
            problems.append({"kind": kind, "name": name, "title": title})

    return problems


def titles_of(controls: dict[str, Control]) -> dict[str, str]:
    """{field: its title} of all that stands in the form."""
    return INGREDIENTS | {name: control.field.title for name, control in controls.items()}


def explanations(draft: Draft) -> list[str]:
    """Why a copy cannot be run just as it was: what became of its method, model and data since."""
    origin = draft.origin
    method = draft.method
    texts = []

    if method.retired_at is not None:
        texts.append(f"{method.name} is no longer offered, so a new train needs another method.")

    if origin is None:
        return texts

    model = origin.base_model
    if model.archived_at is not None:
        texts.append(f"The base model of train #{origin.pk}, {model.name}, is archived.")
    elif model.status != BaseModel.Status.READY or not model.path.is_dir():
        texts.append(f"The files of {model.name}, the base model of train #{origin.pk}, are gone.")

    for data in (origin.dataset, origin.evaluation_dataset):
        reason = dataset_obstacle(data, method) if data is not None else ""
        if data is not None and reason:
            texts.append(f"Train #{origin.pk} used {data.name}. {reason}")

    if origin.launcher == RAY and not launchers_offered(method):
        texts.append(
            f"Train #{origin.pk} asked for a Ray cluster, and none can be chosen here now."
        )

    dropped = sorted(name for name in origin.parameters if name not in draft.fields)
    if dropped:
        texts.append(f"{method.name} no longer has {', '.join(dropped)}.")

    if origin.method_id == method.pk and origin.method_version != method.version:
        texts.append(
            f"{method.name} was changed since train #{origin.pk}; values that it had are kept."
        )

    return texts


def model_facts(model: BaseModel, adapter: str) -> dict[str, Any]:
    """What stands beside the choice: weights, context, chat template; the layers that LoRA can
    target; and what its own `adapter` is, where that can be carried on."""
    return {
        "name": model.title,
        "parameters": model.parameter_count,
        "context": model.context_length,
        "template": bool(model.chat_template),
        "modules": model.linear_modules,
        "adapter": adapter,
    }


def dataset_facts(dataset: Dataset) -> dict[str, Any]:
    """The same of a dataset: its rows, and where to read more."""
    shape = FORMATS.get(dataset.format)
    return {
        "name": dataset.name,
        "family": dataset.family,
        "slug": dataset.slug,
        "rows": dataset.good_row_count,
        "problems": dataset.problem_count,
        "format": shape.title if shape else dataset.format,
        "url": dataset.get_absolute_url(),
    }


def page_data(
    models: list[BaseModel],
    choices: list[DatasetChoice],
    preview: dict[str, Any],
    controls: dict[str, Control],
    adapters: dict[int, str],
) -> dict[str, Any]:
    """What the script needs to answer while somebody types. adapters: see adapters_of."""
    datasets = {}
    for choice in choices:
        for version in choice.versions:
            facts = dataset_facts(version.dataset)
            facts["version"] = version.label
            datasets[str(version.dataset.pk)] = facts

    active_when = {}
    for name, control in controls.items():
        conditions = dict(control.field.active_when)
        if name in GIVEN_PARAMETERS:
            conditions["continue_adapter"] = ""
        if conditions:
            active_when[name] = conditions

    return {
        "models": {str(model.pk): model_facts(model, adapters[model.pk]) for model in models},
        "datasets": datasets,
        "activeWhen": active_when,
        "titles": titles_of(controls),
        "preview": preview,
    }
