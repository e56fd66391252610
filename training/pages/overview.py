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
from training.train.launching import launcher_title
from training.train.merging import PRECISIONS, merge_obstacle, merge_steps, models_of

# Copies and branches that are named.
MOST_DESCENDANTS = 20


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
        "continue_adapter": run.continue_adapter,
        "dataset": run.dataset.slug,
        "evaluation_dataset": run.evaluation_dataset.slug if run.evaluation_dataset else None,
        "system_prompt": run.system_prompt,
        "parameters": run.parameters,
    }
    if run.launcher:
        body["launcher"] = run.launcher

    return json.dumps(body, indent=2, ensure_ascii=False)


def overview(run: TrainRun, reader: AbstractBaseUser | AnonymousUser) -> dict[str, Any]:
    """Everything that the tab Overview shows besides the header."""
    return {
        **parameters_context(run),
        **lineage_context(run, reader),
        **checkpoints_context(run),
        "command": command_of(run),
        "as_json": as_json(run),
        "waited": seconds_waited(run),
        "versions": run.facts.get("versions") or {},
        "device": run.facts.get("device") or {},
        "nodes": nodes_of(run),
        "launcher_title": launcher_title(run.launcher),
        **use_context(run, reader),
    }


def nodes_of(run: TrainRun) -> list[str]:
    """Names of the cluster's nodes that it ran on; none on a machine of this platform."""
    device = run.facts.get("device") or {}
    nodes = device.get("nodes") if run.cluster else None
    return [str(node) for node in nodes] if isinstance(nodes, list) else []


def parameters_context(run: TrainRun) -> dict[str, Any]:
    """The parameters by group; the advanced ones of all groups stand together, folded."""
    data: list[Parameter] = []
    groups: list[Group] = []
    more: list[Parameter] = []
    count = 0
    changed_count = 0

    for group in groups_of(run):
        count += len(group.parameters)
        changed_count += sum(parameter.changed for parameter in group.parameters)
        more += [parameter for parameter in group.parameters if parameter.advanced]
        plain = [parameter for parameter in group.parameters if not parameter.advanced]

        if group.title == "Data":
            data += plain
        elif plain:
            groups.append(Group(group.title, plain))

    return {
        "data_parameters": data,
        "groups": groups,
        "more": more,
        "more_changed": [parameter for parameter in more if parameter.changed],
        "count": count,
        "changed_count": changed_count,
    }


def lineage_context(run: TrainRun, reader: AbstractBaseUser | AnonymousUser) -> dict[str, Any]:
    """Where the train comes from and what came of it, as far as the reader may see it."""
    visible = TrainRun.objects.visible_to(reader)
    origin = None
    if run.copied_from_id and visible.filter(pk=run.copied_from_id).exists():
        origin = run.copied_from

    branches = visible.filter(branched_from=run).order_by("pk")
    copies = visible.filter(copied_from=run).exclude(branched_from=run).order_by("pk")

    return {
        "origin": origin,
        "differences": differences(run) if origin is not None else [],
        "branch_origin": visible.filter(pk=run.branched_from_id or 0).first(),
        "branches": list(branches[:MOST_DESCENDANTS]),
        "copies": list(copies[:MOST_DESCENDANTS]),
    }


def checkpoints_context(run: TrainRun) -> dict[str, Any]:
    checkpoints = list(run.checkpoints.all())
    kept = [checkpoint for checkpoint in checkpoints if checkpoint.kept]

    return {
        "checkpoints": checkpoints,
        "kept_count": len(kept),
        "kept_bytes": sum(checkpoint.size_bytes for checkpoint in kept),
    }


def seconds_waited(run: TrainRun) -> float | None:
    """How long the train was queued; None for a later attempt, whose start says nothing about
    it."""
    if run.started_at is None or run.attempt != 1:
        return None

    return (run.started_at - run.created_at).total_seconds()


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
    """When the train should be done, by the pace so far; None where that is not known."""
    seconds = run.seconds_left
    if not seconds:
        return None

    return timezone.now() + timedelta(seconds=seconds)
