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

Validator = jsonschema.Draft202012Validator

NAME = re.compile(r"[a-z][a-z0-9_]{0,60}")
SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")
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
        Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        message = f"This is no JSON Schema: {error.message[:300]}."
        raise UserError({"parameters": [message]}) from error

    properties = schema.get("properties", {}) if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        raise UserError({"parameters": ["The schema must be an object with properties."]})

    problems = []
    for name, spec in properties.items():
        problems += _property_problems(name, spec)

    if problems:
        raise UserError({"parameters": problems})


def _property_problems(name: str, spec: Any) -> list[str]:
    """A sentence for each reason why the form cannot show this property."""
    if not NAME.fullmatch(name):
        return [f"{name[:60]!r} is no name of a parameter: small letters, digits and _ only."]
    if not isinstance(spec, dict) or "$ref" in spec:
        return [f"{name}: only plain properties can be drawn as a form, and no references."]

    has_enum = "enum" in spec
    kind = spec.get("type", "string" if has_enum else None)
    if kind not in TYPES:
        return [f"{name}: its type must be one of {', '.join(TYPES)}."]

    unknown = [key for key in spec if key not in KEYS]
    problems = [f"the form does not know {key!r}." for key in unknown]
    if "default" not in spec:
        problems.append("give a default, so that the form can be filled.")
    elif not Validator(spec).is_valid(spec["default"]):
        problems.append("its default does not fit its own rules.")

    if spec.get("group", "Method") not in GROUPS:
        groups = ", ".join(GROUPS)
        problems.append(f"the group must be one of {groups}.")

    if has_enum and not all(isinstance(value, str) for value in spec["enum"]):
        problems.append("the values of enum must be texts.")

    return [f"{name}: {problem}" for problem in problems]


def schema_completed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with a type, a title and a group for each property, as the form needs them."""
    properties = {}
    for name, spec in schema.get("properties", {}).items():
        usual = {
            "type": "string",
            "title": name.replace("_", " ").capitalize(),
            "group": "Method",
        }
        properties[name] = usual | spec

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

    name: of the uploaded file. Raises UserError for what cannot be a script.
    """
    if not content.strip() or len(content) > SCRIPT_BYTES:
        message = f"The script must hold something, and at most {SCRIPT_BYTES // 1000:,} KB."
        raise UserError({"script": [message]})

    folder = methods_folder() / slug / str(version)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o755)

    # The name that was uploaded is never a path.
    suffix = Path(name).suffix
    if not SUFFIX.fullmatch(suffix):
        suffix = ""

    path = folder / f"program{suffix}"
    path.write_bytes(content)

    return stored_path(path), hashlib.sha256(content).hexdigest()


def parameters_check(schema: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """All parameters: those in `values`, and defaults for the rest. Raises UserError {parameter:
    [message]}."""
    properties = schema_completed(schema)["properties"]
    resolved = {name: spec["default"] for name, spec in properties.items()}
    resolved |= values
    errors: dict[str, list[str]] = {}

    for name, value in resolved.items():
        if name not in properties:
            label = str(name)[:80]
            errors[label] = [f"Unknown parameter {label!r}."]
            continue

        spec = properties[name]
        first_error = next(Validator(spec).iter_errors(value), None)
        if first_error is not None:
            errors[name] = [f"{spec['title']} {_sentence(first_error)}"]

    if errors:
        raise UserError(errors)

    return resolved


def _sentence(error: jsonschema.ValidationError) -> str:
    """One of jsonschema's errors for somebody who sees a form; it goes on behind the field's
    title."""
    limit = error.validator_value
    value = str(error.instance)[:60]

    match error.validator:
        case "type":
            kind = "whole number" if limit == "integer" else limit
            return f"must be a {kind}; {value!r} is not."
        case "minimum":
            return f"must be at least {limit}; {value} is not."
        case "maximum":
            return f"must be at most {limit}; {value} is not."
        case "exclusiveMinimum":
            return f"must be above {limit}; {value} is not."
        case "enum":
            return f"must be one of {', '.join(map(str, limit))}."
        case "maxLength":
            return f"may have at most {limit} characters."
        case "minLength":
            return f"must have at least {limit} characters."
        case "pattern":
            return f"must match {limit}."
        case _:
            return f"is refused: {error.message[:200]}."
