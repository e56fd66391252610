"""Names of models and ids of objects, as OpenAI's API writes them.

    smollm2-135m-instruct                        a base model, by its slug; its hub id finds it, too
    ft:smollm2-135m-instruct:anna:help-desk:train-12                    what a train ended with
    ft:smollm2-135m-instruct:anna:help-desk:train-12:ckpt-step-200      a checkpoint of it
    ft:smollm2-135m-instruct:anna:help-desk:model-5                     a trained model
    ft:smollm2-135m-instruct:anna:help-desk:export-3                    an export of a model

The last part finds the row. Owner and suffix may change when a train is handed over or renamed, and
the old name still works.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from django.contrib.auth.models import User
from django.db.models import Q, QuerySet
from django.utils.text import slugify

from core.errors import UserError
from core.ownership import may_see
from exports.models import Export
from models_app.models import BaseModel
from openai_api.errors import ApiProblem
from serving.targets import Served, Target, target_find, targets_choices
from training.models import TrainRun

MODEL_NOT_FOUND = "model_not_found"
NAME_LIMIT = 400
SUFFIX_LIMIT = 64
# So many names are suggested to somebody who asks for a model that is not here.
SUGGESTED = 8
_TUNED = re.compile(r"ft:([^:]+):([^:]*):([^:]*):((?:model|train|export)-\d{1,18})")
_STEP = re.compile(r"(.+):ckpt-step-(\d{1,18})")


def new_id(prefix: str) -> str:
    """ "file-…": as long as OpenAI's, and nobody guesses it."""
    return prefix + secrets.token_hex(12)


@dataclass(frozen=True)
class NamedModel:
    """A model as the API lists it. created: Unix seconds."""

    name: str
    created: int
    owner: str

    def body(self) -> dict[str, object]:
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": self.owner or "platform",
        }


def name_of(target: Target) -> str:
    """The name of a model that is there; "" for one that is gone."""
    named = models_named([target]).get(target.key)
    return named.name if named is not None else ""


def models_named(targets: Iterable[Target]) -> dict[str, NamedModel]:
    """{key of the target: how the API names it}, with as many queries for any number. Those that
    are gone are left out."""
    targets = list(targets)
    rows = _rows_of(targets)
    named = {}

    for target in targets:
        row = rows.get((target.kind, target.pk))
        if row is None:
            continue

        name = name_of_row(target, row)
        owner = _owner_of(row)
        named[target.key] = NamedModel(name, int(row.created_at.timestamp()), owner)

    return named


def _rows_of(targets: list[Target]) -> dict[tuple[str, int], BaseModel | TrainRun | Export]:
    queries: dict[str, QuerySet[BaseModel] | QuerySet[TrainRun] | QuerySet[Export]] = {
        "model": BaseModel.objects.select_related("owner", "parent"),
        "train": TrainRun.objects.select_related("owner", "base_model", "fine_tuning_job"),
        "export": Export.objects.select_related("model__owner", "model__parent"),
    }

    rows: dict[tuple[str, int], BaseModel | TrainRun | Export] = {}
    for kind, query in queries.items():
        ids = {target.pk for target in targets if target.kind == kind}
        if ids:
            rows |= {(kind, row.pk): row for row in query.filter(pk__in=ids)}

    return rows


def name_of_row(target: Target, row: BaseModel | TrainRun | Export) -> str:
    if isinstance(row, BaseModel) and not row.is_trained:
        return row.slug

    base, suffix = _base_and_suffix(row)
    owner = slugify(_owner_of(row))
    name = f"ft:{base}:{owner}:{suffix}:{target.kind}-{target.pk}"

    return name if target.step is None else f"{name}:ckpt-step-{target.step}"


def _owner_of(row: BaseModel | TrainRun | Export) -> str:
    owner = row.model.owner if isinstance(row, Export) else row.owner
    return owner.get_username() if owner is not None else ""


def _base_and_suffix(row: BaseModel | TrainRun | Export) -> tuple[str, str]:
    if isinstance(row, TrainRun):
        job = getattr(row, "fine_tuning_job", None)
        suffix = job.suffix if job is not None else row.name
        return row.base_model.slug, suffix_clean(suffix)

    model = row.model if isinstance(row, Export) else row
    base = model.parent.slug if model.parent is not None else model.slug
    suffix = row.slug if isinstance(row, BaseModel) else f"{model.slug}-{row.format}"
    return base, suffix_clean(suffix)


def suffix_clean(text: str) -> str:
    """Letters, digits and strokes alone: a name is parted by colons."""
    return slugify(text)[:SUFFIX_LIMIT].strip("-_")


def target_of(name: str, reader: User) -> Target:
    """What a name means. Raises ApiProblem (404) where there is no such model that `reader` may
    see."""
    target = _target_of(name, reader)
    if target is None:
        raise model_missing(name, reader)

    return target


def _target_of(name: str, reader: User) -> Target | None:
    if len(name) > NAME_LIMIT or "\x00" in name:
        return None
    if not name.startswith("ft:"):
        model = base_model_of(name, reader)
        return Target("model", model.pk) if model is not None else None

    step = None
    if at_step := _STEP.fullmatch(name):
        name, step = at_step[1], int(at_step[2])

    tuned = _TUNED.fullmatch(name)
    if tuned is None or (step is not None and not tuned[4].startswith("train-")):
        return None

    kind, _, pk = tuned[4].partition("-")
    target = Target(kind, int(pk), step)
    row = _rows_of([target]).get((kind, target.pk))
    if row is None or not _may_see(row, reader) or _base_and_suffix(row)[0] != tuned[1]:
        return None

    return target


def _may_see(row: BaseModel | TrainRun | Export, reader: User) -> bool:
    return may_see(row.model if isinstance(row, Export) else row, reader)


def base_model_of(name: str, reader: User) -> BaseModel | None:
    """The base model of that slug or hub id that `reader` may see; of several with the same hub id
    the newest."""
    rows = BaseModel.objects.visible_to(reader).filter(archived_at=None)
    rows = rows.exclude(source=BaseModel.Source.TRAIN)
    model = rows.filter(slug=name).first()
    if model is not None:
        return model

    is_hub_id = Q(reference=name) | Q(reference__startswith=f"{name}@")
    hub = rows.filter(is_hub_id, source=BaseModel.Source.HUB, status=BaseModel.Status.READY)
    return hub.order_by("-pk").first()


def model_find(name: str, reader: User) -> Served:
    """The model of that name, to be asked. Raises ApiProblem: 404 where there is none that `reader`
    may see, 400 with the reason where it cannot answer."""
    if not isinstance(name, str) or not name:
        raise ApiProblem("Say which model is meant.", param="model")

    target = target_of(name, reader)
    try:
        return target_find(target.key, reader)
    except UserError as error:
        if error.status == 404:
            raise model_missing(name, reader) from error

        raise ApiProblem(error.message, param="model", code=error.code) from error


def model_missing(name: str, reader: User) -> ApiProblem:
    here = [model.name for model in models_listed(reader)[:SUGGESTED]]
    there_are = f" There are here: {', '.join(here)}." if here else " There is none here yet."
    return ApiProblem(
        f"The model `{name[:200]}` does not exist or you do not have access to it.{there_are}",
        status=404,
        param="model",
        code=MODEL_NOT_FOUND,
    )


def models_listed(reader: User) -> list[NamedModel]:
    """All that `reader` may ask, base models first."""
    targets = [Target.parse(choice.key) for choice in targets_choices(reader)]
    named = models_named(targets)
    return [named[target.key] for target in targets if target.key in named]
