"""What the new-train page shows: controls with their errors and fixes, choices, and why others are
none."""

from __future__ import annotations

from typing import Any

from datasets_app.models import Dataset
from engine.rows.formats import FORMATS
from methods.services import method_options
from models_app.models import BaseModel
from training.form.controls import Control, controls_make, groups_make, reward_templates
from training.form.draft import Draft, base_models_of, unfinished_of
from training.models import TrainRun
from training.train.dataset_choice import DatasetChoice, choices_make, datasets_visible
from training.train.labels import label_suggestions
from training.train.resources import reward_models
from training.train.services import dataset_obstacle
from training.work.queue import may_manage_queue

INGREDIENTS = {
    "name": "Train name",
    "base_model": "Base model",
    "dataset": "Dataset",
    "evaluation_dataset": "Evaluation dataset",
    "system_prompt": "System prompt",
    "labels": "Labels",
    "after": "Starts",
    "branch_step": "Weights to begin with",
    "priority": "Priority",
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
    )

    errors = preview["errors"]

    for name, control in controls.items():
        control.errors = errors.get(name, [])
        control.warning = preview["warnings"].get(name, "")
        control.fixes = preview["fixes"].get(name, [])

    groups = groups_make(controls)
    options = method_options(draft.method)
    models, datasets = base_models_of(draft.reader), datasets_visible(draft.reader)
    choices, unfit = choices_make(datasets, draft.method, draft.dataset)
    evaluation_choices, _ = choices_make(datasets, draft.method, draft.evaluation_dataset)

    return {
        "draft": draft,
        "method": draft.method,
        "groups": groups,
        "data_group": next((group for group in groups if group.title == "Data"), None),
        "other_groups": [group for group in groups if group.title != "Data"],
        "preview": preview,
        "errors": errors,
        "posted": posted,
        "elsewhere": errors_elsewhere(errors, controls),
        "problems": _problems(controls, preview),
        "models": models,
        "choices": choices,
        "choice": choice_of(choices, draft.dataset),
        "evaluation_choices": evaluation_choices,
        "evaluation_choice": choice_of(evaluation_choices, draft.evaluation_dataset),
        "unfit": unfit,
        "explained": explanations(draft),
        "reward_templates": reward_templates() if "rewards" in controls else [],
        "reward_models": list(reward_models(draft.reader)) if "rewards" in controls else [],
        "own_labels": [name for name, _ in label_suggestions(draft.reader)],
        "unfinished": unfinished_of(draft.reader),
        "priorities": [
            (value, label)
            for value, label in reversed(TrainRun.Priority.choices)
            if may_manage_queue(draft.reader) or value != TrainRun.Priority.HIGH
        ],
        "known_options": [{"name": name, "hint": spec["help"]} for name, spec in options.items()],
        "page": page_data(models, choices, preview, controls) | {"options": options},
    }


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
    titles = INGREDIENTS | {name: control.field.title for name, control in controls.items()}
    found = [
        {"kind": kind, "name": name} for kind in ("errors", "warnings") for name in preview[kind]
    ]

    return [
        {
            "kind": item["kind"].removesuffix("s"),
            "name": item["name"],
            "title": titles.get(item["name"], "This train"),
        }
        for item in found
    ]


def explanations(draft: Draft) -> list[str]:
    """Why a copy cannot be run just as it was: what became of its method, model and data since."""
    origin = draft.origin
    texts = []

    if draft.method.retired_at is not None:
        texts.append(
            f"{draft.method.name} is no longer offered, so a new train needs another method."
        )

    if origin is None:
        return texts

    if origin.base_model.archived_at is not None:
        texts.append(
            f"The base model of train #{origin.pk}, {origin.base_model.name}, is archived."
        )
    elif origin.base_model.status != BaseModel.Status.READY or not origin.base_model.path.is_dir():
        texts.append(
            f"The files of {origin.base_model.name}, the base model of train #{origin.pk}, are "
            "gone."
        )

    used = [data for data in (origin.dataset, origin.evaluation_dataset) if data is not None]
    obstacles = [(data, dataset_obstacle(data, draft.method)) for data in used]
    texts += [
        f"Train #{origin.pk} used {data.name}. {reason}" for data, reason in obstacles if reason
    ]

    if dropped := sorted(name for name in origin.parameters if name not in draft.fields):
        texts.append(f"{draft.method.name} no longer has {', '.join(dropped)}.")

    if origin.method_id == draft.method.pk and origin.method_version != draft.method.version:
        texts.append(
            f"{draft.method.name} was changed since train #{origin.pk}; values that it had are "
            "kept."
        )

    return texts


def model_facts(model: BaseModel) -> dict[str, Any]:
    """What stands beside the choice: weights, context, chat template; and the layers that LoRA can
    target."""
    return {
        "name": model.name,
        "parameters": model.parameter_count,
        "context": model.context_length,
        "template": bool(model.chat_template),
        "modules": model.linear_modules,
    }


def dataset_facts(dataset: Dataset) -> dict[str, Any]:
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
) -> dict[str, Any]:
    """What the script needs to answer while somebody types."""
    return {
        "models": {str(model.pk): model_facts(model) for model in models},
        "datasets": {
            str(version.dataset.pk): dataset_facts(version.dataset) | {"version": version.label}
            for choice in choices
            for version in choice.versions
        },
        "activeWhen": {
            name: control.field.active_when
            for name, control in controls.items()
            if control.field.active_when
        },
        "titles": INGREDIENTS | {name: control.field.title for name, control in controls.items()},
        "preview": preview,
    }
