"""Custom reward functions: registered by a superuser, chosen in forms as custom:<slug>."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from django.utils import timezone

from core.errors import UserError
from core.store import methods_folder, stored_path
from core.text import clean_label
from engine.contract.rundir import Resource
from engine.rewards.custom import check_source
from engine.rewards.registry import CUSTOM_PREFIX, REWARDS, reward_title
from methods.custom import parameters_check, schema_check
from methods.models import RewardFunction

# A key of the metrics, too.
SLUG = re.compile(r"[a-z][a-z0-9_]{0,50}")
FOLDER = "rewards"


def reward_function_save(
    function: RewardFunction,
    *,
    by: Any,
    name: str,
    description: str = "",
    slug: str = "",
    source: bytes | None = None,
    parameters: dict[str, Any] | None = None,
) -> RewardFunction:
    """Register a function, or change one. `source`: the new file; without it the old one stays.

    Only for superusers: the file runs within trains, as the platform's user. Raises UserError by
    field."""
    if not getattr(by, "is_superuser", False):
        raise UserError(
            "Only a superuser may register a reward function.", code="forbidden", status=403
        )

    slug = function.slug or slug
    name = clean_label(name, limit=80)
    parameters = parameters or {}
    reward_function_check(function, slug=slug, name=name, source=source, parameters=parameters)

    if source is not None:
        function.sha256 = hashlib.sha256(source).hexdigest()
        path = methods_folder() / FOLDER / slug / f"{function.sha256}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source)
        function.file = stored_path(path)

    function.slug = slug
    function.name = name
    function.description = clean_label(description, limit=300)
    function.parameters = parameters
    function.registered_by = by
    function.save()

    return function


def reward_function_check(
    function: RewardFunction,
    *,
    slug: str,
    name: str,
    source: bytes | None,
    parameters: dict[str, Any],
) -> None:
    """Whether it may be registered like this. Raises UserError by field. The file is read, not
    run."""
    errors: dict[str, list[str]] = {}

    if not SLUG.fullmatch(slug) or slug in REWARDS:
        errors["slug"] = [
            "Small letters, digits and _, and not the name of a reward that comes with the "
            "platform."
        ]
    elif RewardFunction.objects.filter(slug=slug).exclude(pk=function.pk).exists():
        errors["slug"] = ["There is a function of that name already."]

    if not name:
        errors["name"] = ["Give it a name."]

    if source is None and not function.file:
        errors["source"] = ["Upload the file."]
    elif source is not None and (problems := source_problems(source)):
        errors["source"] = problems

    try:
        schema_check(parameters)
    except UserError as error:
        errors |= error.fields

    if errors:
        raise UserError(errors)


def source_problems(source: bytes) -> list[str]:
    try:
        return check_source(source.decode())
    except UnicodeDecodeError:
        return ["The file is not UTF-8 text."]


def reward_function_retire(function: RewardFunction, *, retired: bool = True) -> None:
    """Offer it no longer, or again. Trains that use it keep its file."""
    RewardFunction.objects.filter(pk=function.pk).update(
        retired_at=timezone.now() if retired else None
    )


def function_of(name: str) -> RewardFunction | None:
    """The function that custom:<slug> names, retired or not."""
    if not name.startswith(CUSTOM_PREFIX):
        return None

    return RewardFunction.objects.filter(slug=name.removeprefix(CUSTOM_PREFIX)).first()


def title_of(name: str) -> str:
    """The title of a reward, built in or custom."""
    function = function_of(name)
    return function.name if function is not None else reward_title(name)


def choices_resolved(choices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The chosen rewards, with all parameters of custom ones. Raises UserError {"rewards":
    [text]}."""
    return [_resolved(number, choice) for number, choice in enumerate(choices, 1)]


def _resolved(number: int, choice: dict[str, Any]) -> dict[str, Any]:
    if not choice["function"].startswith(CUSTOM_PREFIX):
        return choice

    function = function_of(choice["function"])
    if function is None:
        raise UserError(
            {"rewards": [f"Reward {number}: there is no function {choice['function']!r} here."]}
        )

    if function.retired_at is not None:
        raise UserError({"rewards": [f"{function.name} is no longer offered as a reward."]})

    try:
        parameters = parameters_check(function.parameters, choice["parameters"])
    except UserError as error:
        texts = [text for texts in error.fields.values() for text in texts]
        raise UserError({"rewards": [f"{function.name}: {texts[0]}"]}) from error

    return choice | {"parameters": parameters}


def function_resource(name: str) -> dict[str, Resource]:
    """What the engine needs to know of a custom function: its file as it is now."""
    function = function_of(name)
    if function is None:
        return {}

    resource = Resource(str(function.path), sha256=function.sha256, name=function.name)
    return {f"reward_function:{function.slug}": resource}
