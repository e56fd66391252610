"""What the Train Overview says of a train: parameters in words, lineage, and how to repeat it by
hand."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.utils import timezone

from engine.contract.rundir import MODEL
from engine.schema.fields import GROUPS
from methods.schema import method_fields
from training.models import TrainRun
from training.pages.compare import INGREDIENTS, field_unknown, settings_of
from training.train.merging import PRECISIONS, merge_obstacle, merge_steps, models_of


@dataclass(frozen=True)
class Parameter:
    """One value in words, its unit, and its default where another value was chosen."""

    title: str
    value: str
    unit: str
    changed: bool
    default: str
    advanced: bool
    help: str


@dataclass(frozen=True)
class Group:
    title: str
    parameters: list[Parameter]


def groups_of(run: TrainRun) -> list[Group]:
    """The values that had an effect, in the order of the method's form; fixed fields are the method
    itself."""
    fields = method_fields(run.method)
    groups: dict[str, list[Parameter]] = {name: [] for name in GROUPS}

    for name, value in run.parameters.items():
        field = fields.get(name) or field_unknown(name)
        if field.fixed or not field.is_active(run.parameters):
            continue

        default = run.defaults.get(name)
        parameter = Parameter(
            title=field.title,
            value=field.shown(value),
            unit=field.unit_of(value),
            changed=name in run.defaults and value != default,
            default=field.shown(default),
            advanced=field.advanced,
            help=field.help,
        )

        groups.setdefault(field.group, []).append(parameter)

    return [Group(title, parameters) for title, parameters in groups.items() if parameters]


def differences(run: TrainRun) -> list[tuple[str, str, str]]:
    """(what, in the train that was copied, in this one) for all that was changed in the copy."""
    origin = run.copied_from
    if origin is None:
        return []

    fields = method_fields(run.method)
    before, after = settings_of(origin), settings_of(run)
    changes = []

    for name in dict.fromkeys([*before, *after]):
        if before.get(name) == after.get(name):
            continue

        field = fields.get(name)
        title = field.title.lower() if field is not None else INGREDIENTS.get(name, name).lower()
        field = field or field_unknown(name)
        changes.append(
            (title, short(field.shown(before.get(name))), short(field.shown(after.get(name))))
        )

    return changes


def short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def command_of(run: TrainRun) -> str:
    """What repeats the train by hand, without the server."""
    directory: Path = run.directory
    if directory.is_relative_to(settings.BASE_DIR):
        directory = directory.relative_to(settings.BASE_DIR)

    return f"python -m engine {shlex.quote(str(directory))}"


def as_json(run: TrainRun) -> str:
    """The train as a body for POST /api/v1/trains/."""
    body = {
        "name": run.name,
        "method": run.method.slug,
        "base_model": run.base_model.slug,
        "dataset": run.dataset.slug,
        "evaluation_dataset": run.evaluation_dataset.slug if run.evaluation_dataset else None,
        "system_prompt": run.system_prompt,
        "parameters": run.parameters,
    }

    return json.dumps(body, indent=2, ensure_ascii=False)


def overview(run: TrainRun, reader: AbstractBaseUser | AnonymousUser) -> dict[str, Any]:
    groups = groups_of(run)
    every = [parameter for group in groups for parameter in group.parameters]
    more = [parameter for parameter in every if parameter.advanced]
    kept = list(run.checkpoints.all())
    visible = TrainRun.objects.visible_to(reader)
    origin = (
        run.copied_from
        if run.copied_from_id and visible.filter(pk=run.copied_from_id).exists()
        else None
    )

    return {
        "data_parameters": [
            p
            for group in groups
            if group.title == "Data"
            for p in group.parameters
            if not p.advanced
        ],
        "groups": [
            Group(group.title, found)
            for group in groups
            if group.title != "Data" and (found := [p for p in group.parameters if not p.advanced])
        ],
        "more": more,
        "more_changed": [parameter for parameter in more if parameter.changed],
        "count": len(every),
        "changed_count": sum(parameter.changed for parameter in every),
        "origin": origin,
        "differences": differences(run) if origin else [],
        "branch_origin": visible.filter(pk=run.branched_from_id or 0).first(),
        "branches": list(visible.filter(branched_from=run).order_by("pk")[:20]),
        "copies": list(
            visible.filter(copied_from=run).exclude(branched_from=run).order_by("pk")[:20]
        ),
        "checkpoints": kept,
        "kept_count": sum(checkpoint.kept for checkpoint in kept),
        "kept_bytes": sum(checkpoint.size_bytes for checkpoint in kept if checkpoint.kept),
        "command": command_of(run),
        "as_json": as_json(run),
        "waited": (run.started_at - run.created_at).total_seconds()
        if run.started_at and run.attempt == 1
        else None,
        "versions": run.facts.get("versions") or {},
        "device": run.facts.get("device") or {},
        **use_context(run, reader),
    }


def use_context(run: TrainRun, reader: AbstractBaseUser | AnonymousUser) -> dict[str, Any]:
    """What the card Use this model needs."""
    obstacle = merge_obstacle(run)
    return {
        "made": list(models_of(run, reader)),
        "merge_obstacle": obstacle,
        "merge_steps": [] if obstacle else merge_steps(run),
        "precisions": PRECISIONS,
    }


def has_model(run: TrainRun) -> bool:
    return (run.directory / MODEL).is_dir()


def done_near(run: TrainRun) -> datetime | None:
    """When the train should be done, by the pace so far."""
    left = run.seconds_left
    return timezone.now() + timedelta(seconds=left) if left else None
