"""A train that is being filled in: from the method's defaults, from a train that is copied, or from
what was posted."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from django.contrib.auth.models import User
from django.http import QueryDict

from core.api import by_id_or_slug
from core.requests import integer_of
from core.text import clean_label
from datasets_app.models import Dataset
from jobs.devices.launchers import ANYWHERE, RAY, cluster_is_set
from methods.models import TrainingMethod
from methods.schema import Field, method_fields
from models_app.adapters import ancestors_load
from models_app.models import BaseModel
from training.form.controls import Others, parameters_read
from training.models import TrainRun
from training.train import starter_train as sample
from training.train.branching import Origin
from training.train.carrying_on import GIVEN_PARAMETERS, can_carry_on
from training.train.dataset_choice import choices_make, datasets_visible
from training.train.remedies import changes_read
from training.train.reward_resources import reward_models

# Trains that another can be told to wait for.
MOST_OFFERED = 100


@dataclass
class Draft:
    """`parameters` holds what is in the controls, `others` what a sweep tries beside it; a key that
    is sent twice starts one train."""

    reader: User
    method: TrainingMethod
    fields: dict[str, Field]
    parameters: dict[str, Any] = field(default_factory=dict)
    others: Others = field(default_factory=dict)
    name: str = ""
    base_model: BaseModel | None = None
    dataset: Dataset | None = None
    evaluation_dataset: Dataset | None = None
    system_prompt: str = ""
    labels: str = ""
    branch: Origin | None = None
    continue_adapter: bool = False
    start_anyway: bool = False
    launcher: str = ANYWHERE
    after: TrainRun | None = None
    priority: int = TrainRun.Priority.NORMAL
    origin: TrainRun | None = None
    key: str = field(default_factory=lambda: str(uuid.uuid4()))
    missing: dict[str, list[str]] = field(default_factory=dict)

    @property
    def proposed_name(self) -> str:
        if self.origin is not None:
            return f"{self.origin.name[:115]}-copy"
        if self.dataset is None:
            return ""

        return f"{self.dataset.slug}-{self.method.slug}"[:120]

    def kept(self) -> dict[str, Any]:
        """What a copied train has in fields that this method does not show but lets be."""
        if self.origin is None:
            return {}

        kept = {}
        for name, item in self.fields.items():
            if item.hidden and not item.fixed and name in self.origin.parameters:
                kept[name] = self.origin.parameters[name]

        return kept


def train_find(reader: User, text: str) -> TrainRun | None:
    """The train of that id, if this reader may see it."""
    pk = integer_of(text)
    if pk is None:
        return None

    visible = TrainRun.objects.visible_to(reader).with_related()
    return visible.filter(pk=pk).first()


def base_models_of(reader: User) -> list[BaseModel]:
    """With what trained models were trained from, to which their adapters belong."""
    models = list(BaseModel.objects.visible_to(reader).offered().select_related("parent"))
    ancestors_load(models)
    return models


def unfinished_of(reader: User) -> list[TrainRun]:
    """Trains that another can wait for, the newest first."""
    unfinished = (*TrainRun.ACTIVE, TrainRun.Status.QUEUED)
    visible = TrainRun.objects.visible_to(reader)
    return list(visible.filter(status__in=unfinished)[:MOST_OFFERED])


def _reward_model(reader: User, text: str) -> TrainRun | None:
    pk = integer_of(text)
    return reward_models(reader).filter(pk=pk).first() if pk is not None else None


def branch_of(reader: User, origin: TrainRun, step: str) -> Origin | None:
    """`?step=`: the copy begins with that checkpoint's weights; a copy of a branch branches from
    the same place, unless the reader may not see that train any more."""
    if step:
        return Origin(origin, integer_of(step) or 0)
    if origin.branched_from_id is None or origin.branch_step is None:
        return None

    branched = train_find(reader, str(origin.branched_from_id))
    if branched is None:
        return None

    return Origin(branched, origin.branch_step)


def draft_new(reader: User, method: TrainingMethod, query: QueryDict, device: str) -> Draft:
    """The form as it opens: `?copy=`, `?dataset=` and `?base_model=` are filled in, and the only
    choice there is."""
    draft = Draft(reader, method, method_fields(method, device=device))
    origin = train_find(reader, query.get("copy", ""))
    if origin is not None:
        _take_origin(draft, origin, query)

    _take_query(draft, query)
    _take_only_choices(draft)
    draft.name = draft.proposed_name

    if query.get("sample") and draft.origin is None and method.slug == sample.METHOD:
        draft.name = sample.TRAIN_NAME
        for name, value in sample.PARAMETERS.items():
            if name in draft.fields:
                draft.parameters[name] = value

    return draft


def _take_origin(draft: Draft, origin: TrainRun, query: QueryDict) -> None:
    """The values of the copied train, with the changes of `?with=`."""
    draft.origin = origin
    draft.system_prompt = origin.system_prompt
    draft.branch = branch_of(draft.reader, origin, query.get("step", ""))
    draft.continue_adapter = origin.continue_adapter and can_carry_on(draft.method, draft.fields)
    draft.labels = ", ".join(label.name for label in origin.labels.all())
    draft.launcher = launcher_kept(origin.launcher)

    for name, item in draft.fields.items():
        if name in origin.parameters and not item.fixed:
            draft.parameters[name] = origin.parameters[name]

    changes = changes_read(draft.method, query.get("with", ""))
    draft.parameters |= {name: value for name, value in changes.items() if name in draft.fields}
    ingredients_take(draft, origin, "copied train")


def launcher_kept(launcher: str) -> str:
    """Of what is copied: a cluster that is not set up any more can be chosen no more."""
    return launcher if launcher != RAY or cluster_is_set() else ANYWHERE


def _take_query(draft: Draft, query: QueryDict) -> None:
    """What the address names, as far as the reader may see it."""
    models = BaseModel.objects.visible_to(draft.reader)
    model = by_id_or_slug(models, query.get("base_model", ""))
    if model is not None:
        draft.base_model = model

    datasets = Dataset.objects.visible_to(draft.reader)
    dataset = by_id_or_slug(datasets, query.get("dataset", ""))
    if dataset is not None:
        draft.dataset = dataset

    scorer = _reward_model(draft.reader, query.get("reward_model", ""))
    if scorer is not None and "rewards" in draft.fields:
        draft.parameters["rewards"] = [
            {"function": "reward_model", "weight": 1.0, "parameters": {"model": scorer.pk}}
        ]


def _take_only_choices(draft: Draft) -> None:
    """The base model and the dataset, where there is only one to choose."""
    if draft.base_model is None:
        models = base_models_of(draft.reader)
        if len(models) == 1:
            draft.base_model = models[0]

    if draft.dataset is None:
        choices, _ = choices_make(datasets_visible(draft.reader), draft.method)
        if len(choices) == 1:
            draft.dataset = choices[0].dataset


INGREDIENTS = {
    "base_model": "base model",
    "dataset": "dataset",
    "evaluation_dataset": "dataset",
}


def ingredients_take(
    draft: Draft, origin: Any, what: str, names: Iterable[str] = tuple(INGREDIENTS)
) -> None:
    """Model and data of a copied train or a stage, where the reader may use them: it can be shared
    without its dataset. what: the word for `origin`."""
    for name in names:
        row = getattr(origin, name)
        if row is None:
            continue

        visible = type(row).objects.visible_to(draft.reader)
        usable = visible.filter(pk=row.pk).first()
        setattr(draft, name, usable)

        if usable is None:
            word = INGREDIENTS[name]
            draft.missing[name] = [f"You cannot see the {word} of the {what}. Choose another."]


def draft_read(
    reader: User,
    method: TrainingMethod,
    data: QueryDict,
    device: str,
    others: Others | None = None,
) -> Draft:
    """What was posted. Ids that this reader cannot see are named in `missing`, like those that do
    not exist. others: as parameters_read takes them."""
    fields = method_fields(method, device=device)
    draft = Draft(
        reader=reader,
        method=method,
        fields=fields,
        parameters=parameters_read(fields, data, others),
        others=others or {},
        name=clean_label(data.get("name", ""), limit=120),
        system_prompt=data.get("system_prompt", ""),
        labels=str(data.get("labels", ""))[:2000],
        origin=train_find(reader, data.get("copied_from", "")),
        key=data.get("key", "")[:200] or str(uuid.uuid4()),
        start_anyway=bool(data.get("start_anyway")),
        launcher=str(data.get("launcher", ""))[:40],
    )

    draft.parameters = draft.kept() | draft.parameters
    if data.get("continue_adapter") and can_carry_on(method, fields):
        draft.continue_adapter = True
        # The adapter gives these, and the form does not ask for them.
        for name in GIVEN_PARAMETERS:
            draft.parameters.pop(name, None)

    branched = train_find(reader, data.get("branched_from", ""))
    if branched is not None:
        draft.branch = Origin(branched, integer_of(data.get("branch_step", "")) or 0)

    priority = integer_of(data.get("priority", ""), least=TrainRun.Priority.LOW)
    if priority in TrainRun.Priority.values:
        draft.priority = TrainRun.Priority(priority)

    after = data.get("after", "")
    if after:
        draft.after = train_find(reader, after)
        if draft.after is None:
            draft.missing["after"] = ["This train does not exist any more. Choose another."]

    draft.base_model = _chosen(draft, data, "base_model", BaseModel, "base model")
    draft.dataset = _version_chosen(draft, data, "dataset")
    draft.evaluation_dataset = _version_chosen(draft, data, "evaluation_dataset")

    return draft


def _chosen(draft: Draft, data: QueryDict, name: str, model: Any, word: str) -> Any:
    key = data.get(name, "")
    if not key:
        return None

    chosen = by_id_or_slug(model.objects.visible_to(draft.reader), key)
    if chosen is None:
        draft.missing[name] = [f"This {word} does not exist any more. Choose another."]

    return chosen


def _version_chosen(draft: Draft, data: QueryDict, name: str) -> Dataset | None:
    """The chosen dataset in the version that stands beside it. Without a script that menu may still
    show the versions of another dataset; then the newest is meant."""
    dataset: Dataset | None = _chosen(draft, data, name, Dataset, "dataset")
    visible = Dataset.objects.visible_to(draft.reader)
    version = by_id_or_slug(visible, data.get(f"{name}_version", ""))

    if dataset is not None and version is not None and version.family == dataset.family:
        return version

    return dataset
