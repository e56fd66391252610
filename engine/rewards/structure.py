"""Rewards for the form of an answer: patterns, tags, JSON, texts that must or must not be there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Self

import jsonschema
import regex
from jsonschema.validators import extend
from pydantic import field_validator, model_validator
from pydantic_core import PydanticCustomError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from engine.rewards.base import Answer, Reward, Unscored
from engine.schema.fields import parameter

# A pattern that backtracks without end is abandoned.
SECONDS = 0.5
FENCED = regex.compile(r"```(?:json)?[^\S\n]*\n(.*?)\n?```", regex.DOTALL)


def problem(message: str) -> PydanticCustomError:
    return PydanticCustomError("rule", "{message}", {"message": message})


def _pattern_check(pattern: str) -> None:
    try:
        regex.compile(pattern)
    except regex.error as error:
        where = f" at position {error.pos + 1}" if error.pos is not None else ""
        raise problem(f"This is no regular expression: {error.msg}{where}.") from error


class Regex(Reward):
    """1 where the pattern matches."""

    slug: ClassVar[str] = "regex"
    title: ClassVar[str] = "Regular expression"
    help: ClassVar[str] = "1 where the answer matches a pattern."

    pattern: str = parameter(
        r"^\S",
        "Pattern",
        "A regular expression, such as ^Dear .",
        group="Method",
        min_length=1,
        max_length=2000,
    )
    whole: bool = parameter(
        False, "Whole answer", "The pattern must match all of it, not a part.", group="Method"
    )
    ignore_case: bool = parameter(False, "Ignore case", "A and a are the same.", group="Method")

    @field_validator("pattern")
    @classmethod
    def check_pattern(cls, pattern: str) -> str:
        _pattern_check(pattern)
        return pattern

    def score(self, answer: Answer) -> float:
        flags = regex.DOTALL
        if self.ignore_case:
            flags |= regex.IGNORECASE

        match = regex.fullmatch if self.whole else regex.search
        try:
            found = match(self.pattern, answer.text, flags=flags, timeout=SECONDS)
        except TimeoutError as error:
            raise Unscored("The pattern took too long for this answer; make it simpler.") from error

        return 0.0 if found is None else 1.0


class TagFormat(Reward):
    """The share of tags that stand once each and in order; strict: 1 only for nothing but these
    blocks."""

    slug: ClassVar[str] = "tag_format"
    title: ClassVar[str] = "Tags"
    help: ClassVar[str] = (
        "1 where the answer has the wanted tags once each and in order, such as <think> and "
        "<answer>."
    )

    tags: str = parameter(
        "think, answer",
        "Tags",
        "Names in order, with commas between them.",
        group="Method",
        min_length=1,
        max_length=500,
    )
    strict: bool = parameter(
        False,
        "Nothing else",
        "Nothing but white space may stand outside of the tags.",
        group="Method",
    )
    partial: bool = parameter(
        True,
        "Count in part",
        "Give each tag its share. Off: all of them or nothing.",
        group="Method",
    )

    @field_validator("tags")
    @classmethod
    def check_tags(cls, tags: str) -> str:
        names = [name.strip().strip("<>/") for name in tags.split(",")]
        for name in names:
            if not regex.fullmatch(r"[A-Za-z][\w-]{0,40}", name):
                raise problem(f"{name!r} is no name of a tag. Give names such as: think, answer.")

        if len(set(names)) < len(names):
            raise problem("Each tag may be named once.")

        return ", ".join(names)

    def score(self, answer: Answer) -> float:
        text = answer.text
        names = self.tags.split(", ")
        position = 0
        good = 0
        # What stands outside of the tags.
        rest = text

        for name in names:
            opening = f"<{name}>"
            closing = f"</{name}>"
            if text.count(opening) != 1 or text.count(closing) != 1:
                continue

            start = text.find(opening, position)
            end = text.find(closing, start) if start >= 0 else -1
            if end < 0:
                continue

            good += 1
            position = end + len(closing)
            rest = rest.replace(text[start:position], "", 1)

        if self.strict and rest.strip():
            return 0.0

        share = good / len(names)
        return share if self.partial else float(share == 1)


class JsonValid(Reward):
    """1 for an answer that is JSON and fits the schema; half for JSON that does not fit it."""

    slug: ClassVar[str] = "json_valid"
    title: ClassVar[str] = "Valid JSON"
    help: ClassVar[str] = (
        "1 where the answer is JSON and fits a schema; half where it is JSON but does not fit."
    )

    json_schema: str = parameter(
        "", "JSON Schema", "Blank: any JSON.", group="Method", max_length=20_000, multiline=True
    )
    fenced: bool = parameter(
        True, "Allow a code block", "```json … ``` around it is no mistake.", group="Method"
    )

    @field_validator("json_schema")
    @classmethod
    def check_schema(cls, text: str) -> str:
        if not text.strip():
            return ""

        try:
            schema = json.loads(text)
            jsonschema.Draft202012Validator.check_schema(schema)
        except (ValueError, RecursionError) as error:
            raise problem(f"This is no JSON: {error}.") from error
        except jsonschema.SchemaError as error:
            raise problem(f"This is no JSON Schema: {error.message[:200]}.") from error

        if any(True for _ in _values(schema, "patternProperties", dict)):
            raise problem("patternProperties cannot be used here; name the properties instead.")

        for pattern in _values(schema, "pattern", str):
            _pattern_check(pattern)

        _references_check(schema)
        return text

    def score(self, answer: Answer) -> float:
        text = answer.text.strip()
        if self.fenced and (block := FENCED.fullmatch(text)):
            text = block.group(1)

        try:
            value = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return 0.0

        if not self.json_schema:
            return 1.0

        validator = Validator(json.loads(self.json_schema), registry=Registry())
        try:
            return 1.0 if validator.is_valid(value) else 0.5
        except TimeoutError as error:
            raise Unscored(
                "A pattern of the schema took too long for this answer; make it simpler."
            ) from error
        except (RecursionError, OverflowError):
            # Nested too deeply, or a number too large to compare: such an answer fits no schema.
            return 0.5


def _pattern(
    validator: Any, pattern: str, value: Any, schema: Any
) -> Iterator[jsonschema.ValidationError]:
    """JSON Schema's keyword "pattern", with a time limit."""
    if isinstance(value, str) and regex.search(pattern, value, timeout=SECONDS) is None:
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")


Validator = extend(jsonschema.Draft202012Validator, {"pattern": _pattern})


def _no_constant(name: str) -> None:
    """Refuses NaN and Infinity, which Python reads though JSON does not have them."""
    raise ValueError(name)


def _references_check(schema: Any) -> None:
    """Raises a problem for references that lead out of the schema, nowhere or back to
    themselves."""
    resolver = Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver("")
    for reference in (*_values(schema, "$ref", str), *_values(schema, "$dynamicRef", str)):
        if not reference.startswith("#"):
            raise problem("A schema may only refer to parts of itself (#/…).")

        try:
            resolver.lookup(reference)
        except Unresolvable as error:
            raise problem(f"The schema has no part {reference!r}, which it refers to.") from error

    try:
        Validator(schema, registry=Registry()).is_valid({})
    except RecursionError as error:
        raise problem("A part of the schema refers to itself without end.") from error


def _values(schema: Any, keyword: str, kind: type) -> Iterator[Any]:
    """What stands under a keyword anywhere in a schema, where it is of this kind."""
    if isinstance(schema, dict):
        if isinstance(schema.get(keyword), kind):
            yield schema[keyword]

        schema = list(schema.values())

    if isinstance(schema, list):
        for part in schema:
            yield from _values(part, keyword, kind)


class Contains(Reward):
    """The share of wanted texts that are there; 0 as soon as a forbidden one is."""

    slug: ClassVar[str] = "contains"
    title: ClassVar[str] = "Contains"
    help: ClassVar[str] = (
        "The share of wanted texts that the answer contains; 0 where it contains a forbidden one."
    )

    texts: str = parameter(
        "", "Wanted texts", "One on each line.", group="Method", max_length=20_000, multiline=True
    )
    forbidden: str = parameter(
        "",
        "Forbidden texts",
        "One on each line.",
        group="Method",
        max_length=20_000,
        multiline=True,
    )
    need: Literal["all", "any"] = parameter(
        "all",
        "Wanted are",
        "All of them, each counting its share, or any one.",
        group="Method",
        choice_titles={"all": "All", "any": "Any"},
    )
    ignore_case: bool = parameter(True, "Ignore case", "A and a are the same.", group="Method")

    @model_validator(mode="after")
    def check_texts(self) -> Self:
        if not _lines(self.texts) and not _lines(self.forbidden):
            raise problem("Give at least one wanted or forbidden text.")

        return self

    def score(self, answer: Answer) -> float:
        text = self._comparable(answer.text)
        if any(line in text for line in _lines(self._comparable(self.forbidden))):
            return 0.0

        wanted = _lines(self._comparable(self.texts))
        if not wanted:
            return 1.0

        count = sum(line in text for line in wanted)
        if self.need == "any":
            return float(count > 0)

        return count / len(wanted)

    def _comparable(self, text: str) -> str:
        return text.casefold() if self.ignore_case else text


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
