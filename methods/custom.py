"""Custom methods: a program of a superuser's and a JSON Schema of its parameters, checked before
anybody trains."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import jsonschema

from core.errors import UserError
from core.store import methods_folder, stored_path
from engine.rows.formats import FORMATS
from engine.schema.fields import GROUPS

NAME = re.compile(r"[a-z][a-z0-9_]{0,60}")
SCRIPT_BYTES = 1_000_000
# What the form can draw of a property, by its type.
KEYS = {
    "type",
    "title",
    "description",
    "default",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "enum",
    "group",
    "typical",
    "unit",
    "percent",
    "advanced",
    "multiline",
    "maxLength",
    "minLength",
    "pattern",
    "choice_titles",
    "active_when",
}
TYPES = ("integer", "number", "boolean", "string")


def schema_check(schema: Any) -> None:
    """Raises UserError {"parameters": [one sentence a mistake]} for what is no JSON Schema, or
    cannot be a form."""
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise UserError(
            {"parameters": [f"This is no JSON Schema: {error.message[:300]}."]}
        ) from error

    if not isinstance(schema, dict) or not isinstance(schema.get("properties", {}), dict):
        raise UserError({"parameters": ["The schema must be an object with properties."]})

    problems = [
        text
        for name, spec in schema.get("properties", {}).items()
        for text in _property_problems(name, spec)
    ]

    if problems:
        raise UserError({"parameters": problems})


def _property_problems(name: str, spec: Any) -> list[str]:
    if not NAME.fullmatch(name):
        return [f"{name[:60]!r} is no name of a parameter: small letters, digits and _ only."]
    if not isinstance(spec, dict) or "$ref" in spec:
        return [f"{name}: only plain properties can be drawn as a form, and no references."]

    kind = "string" if "enum" in spec and "type" not in spec else spec.get("type")
    if kind not in TYPES:
        return [f"{name}: its type must be one of {', '.join(TYPES)}."]

    problems = [f"{name}: the form does not know {key!r}." for key in spec if key not in KEYS]
    if "default" not in spec:
        problems.append(f"{name}: give a default, so that the form can be filled.")
    elif not jsonschema.Draft202012Validator(spec).is_valid(spec["default"]):
        problems.append(f"{name}: its default does not fit its own rules.")

    if spec.get("group", "Method") not in GROUPS:
        problems.append(f"{name}: the group must be one of {', '.join(GROUPS)}.")
    if "enum" in spec and not all(isinstance(value, str) for value in spec["enum"]):
        problems.append(f"{name}: the values of enum must be texts.")

    return problems


def schema_completed(schema: dict[str, Any]) -> dict[str, Any]:
    """With what the form wants to see of each property."""
    properties = {
        name: {"type": "string", "title": name.replace("_", " ").capitalize(), "group": "Method"}
        | spec
        for name, spec in schema.get("properties", {}).items()
    }

    return {"type": "object", "properties": properties, "additionalProperties": False}


def program_check(interpreter: str, formats: list[str]) -> None:
    """Raises UserError by field."""
    errors: dict[str, list[str]] = {}
    path = Path(interpreter)
    if not path.is_absolute() or not path.is_file():
        errors["interpreter"] = [
            "Give the whole path of a program that is there, such as /usr/bin/python3."
        ]

    if not formats or any(slug not in FORMATS for slug in formats):
        errors["formats"] = [f"Choose which formats it reads: {', '.join(FORMATS)}."]
    if errors:
        raise UserError(errors)


def script_store(slug: str, version: int, name: str, content: bytes) -> tuple[str, str]:
    """(path as core.store keeps it, sha256) of the script of this version.

    Raises UserError for one that cannot be a script.
    """
    if not content.strip() or len(content) > SCRIPT_BYTES:
        raise UserError(
            {
                "script": [
                    f"The script must hold something, and at most {SCRIPT_BYTES // 1000:,} KB."
                ]
            }
        )

    folder = methods_folder() / slug / str(version)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o755)
    # The name that was uploaded is never a path.
    suffix = Path(name).suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,8}", Path(name).suffix) else ""
    path = folder / f"program{suffix}"
    path.write_bytes(content)

    return stored_path(path), hashlib.sha256(content).hexdigest()


def parameters_check(schema: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Every parameter: what was given, and defaults for the rest. Raises UserError {parameter:
    [message]}."""
    properties = schema_completed(schema)["properties"]
    resolved = {name: spec["default"] for name, spec in properties.items()} | values
    errors: dict[str, list[str]] = {}

    for name, value in resolved.items():
        if name not in properties:
            errors[str(name)[:80]] = [f"Unknown parameter {str(name)[:80]!r}."]
            continue

        found = next(
            iter(jsonschema.Draft202012Validator(properties[name]).iter_errors(value)), None
        )
        if found is not None:
            errors[name] = [f"{properties[name]['title']} {_sentence(found)}"]

    if errors:
        raise UserError(errors)

    return resolved


def _sentence(error: jsonschema.ValidationError) -> str:
    """One of jsonschema's errors for somebody who sees a form."""
    limit, value = error.validator_value, str(error.instance)[:60]
    sentences = {
        "type": f"must be {'a whole number' if limit == 'integer' else f'a {limit}'}; {value!r} is "
        "not.",
        "minimum": f"must be at least {limit}; {value} is not.",
        "maximum": f"must be at most {limit}; {value} is not.",
        "exclusiveMinimum": f"must be above {limit}; {value} is not.",
        "enum": "must be one of "
        f"{', '.join(map(str, limit)) if isinstance(limit, list) else limit}.",
        "maxLength": f"may have at most {limit} characters.",
        "minLength": f"must have at least {limit} characters.",
        "pattern": f"must match {limit}.",
    }

    return sentences.get(str(error.validator), f"is refused: {error.message[:200]}.")
