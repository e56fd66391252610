"""What is loaded and answers now, for operators, and how models and trains share the device."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied, ValidationError

from core.errors import UserError
from exports.models import Export
from jobs.devices.sharing import Rule, device_policy, rule_on
from jobs.models import DevicePolicy
from models_app.models import BaseModel
from serving.gateway_client import gateway_ask, gateway_state
from serving.targets import Target
from training.models import TrainRun
from training.work.queue import workers_notify

VIEW, CHANGE = "jobs.view_devicepolicy", "jobs.change_devicepolicy"
IN_WORDS = {
    Rule.SHARE: "Trains and models share the device; models write in the time that trains leave.",
    Rule.TRAINS: "Trains go first: models are unloaded when a train starts.",
    Rule.CHAT: "Answers go first: a train waits until the models are idle.",
}


def may_see(user: Any) -> bool:
    return bool(user.has_perm(VIEW) or user.has_perm(CHANGE))


def see_check(user: User) -> None:
    """Raises PermissionDenied."""
    if not may_see(user):
        raise PermissionDenied


def change_check(user: User) -> None:
    """Raises PermissionDenied."""
    if not user.has_perm(CHANGE):
        raise PermissionDenied


def overview(reader: User) -> dict[str, Any]:
    """For the page and the API. `running`: whether the gateway is there."""
    see_check(reader)
    state = gateway_state()
    policy = device_policy()
    found = state or {"models": [], "preparing": [], "device": {}, "train": "", "refusal": ""}
    kind = found["device"].get("kind", "cpu")
    keys = {key for row in found["models"] for key in (row["base_key"], *row["adapters"])}
    keys |= {row[name] for row in found["preparing"] for name in ("base_key", "adapter_key")}
    titles = titles_of(keys, reader)

    return {
        "running": state is not None,
        "device": found["device"].get("name", ""),
        "train": found["train"],
        "refusal": found["refusal"],
        "rule": policy.rule or "automatic",
        "rule_now": str(rule_on(policy, kind)),
        "rule_words": IN_WORDS[Rule(rule_on(policy, kind))],
        "idle_minutes": policy.idle_minutes,
        "models_at_once": policy.models_at_once,
        "models": [_model(row, titles) for row in found["models"]],
        "preparing": [_preparing(row, titles) for row in found["preparing"]],
    }


def _model(row: dict[str, Any], titles: dict[str, tuple[str, str]]) -> dict[str, Any]:
    title, address = _title(row["base_key"], titles)
    adapters = [_title(key, titles)[0] for key in row["adapters"]]
    return row | {"title": title, "address": address, "adapter_titles": adapters}


def _preparing(row: dict[str, Any], titles: dict[str, tuple[str, str]]) -> dict[str, Any]:
    title, _ = _title(row["adapter_key"] or row["base_key"], titles)
    return {"title": title, "words": row["words"], "progress": row["progress"]}


def _title(key: str, titles: dict[str, tuple[str, str]]) -> tuple[str, str]:
    return titles.get(key, ("Somebody else's model", ""))


def titles_of(keys: Iterable[str], reader: User) -> dict[str, tuple[str, str]]:
    """{key: (title, address)} of the targets that `reader` may see: one query a kind."""
    targets = []
    for key in keys:
        with suppress(UserError):
            targets.append(Target.parse(key))

    def pks(kind: str) -> set[int]:
        return {target.pk for target in targets if target.kind == kind}

    rows: dict[str, dict[int, Any]] = {
        "model": BaseModel.objects.visible_to(reader).in_bulk(pks("model")),
        "train": TrainRun.objects.visible_to(reader).in_bulk(pks("train")),
        "export": Export.objects.visible_to(reader).select_related("model").in_bulk(pks("export")),
    }
    titles = {}
    for target in targets:
        row = rows[target.kind].get(target.pk)
        if row is not None:
            title = row.title if target.kind == "model" else str(row)
            step = f", step {target.step:,}" if target.step is not None else ""
            titles[target.key] = (f"{title}{step}", row.get_absolute_url())

    return titles


def model_unload(*, base_key: str, by: User) -> bool:
    """Whether something was loaded. Raises PermissionDenied, and UserError where the gateway is
    not there."""
    change_check(by)
    try:
        return bool(gateway_ask("POST", "/unload", {"base_key": base_key})["unloaded"])
    except OSError as error:
        raise UserError(
            "The gateway of the model servers is not running.", code="unavailable", status=503
        ) from error


def policy_change(*, by: User, **values: Any) -> DevicePolicy:
    """values: rule ("" or "automatic" for the default of the device), idle_minutes,
    models_at_once. Raises PermissionDenied, and UserError by field."""
    change_check(by)
    policy = device_policy()
    for name, value in values.items():
        setattr(policy, name, value)

    if policy.rule == "automatic":
        policy.rule = Rule.AUTOMATIC

    try:
        policy.clean_fields()
    except ValidationError as error:
        raise UserError(error.message_dict) from error

    policy.save()
    # Trains that waited for answers may start now.
    workers_notify()
    return policy
