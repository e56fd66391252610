"""Values of a row: when one is blank or empty, how one is read as text, and how text is read as a
value.

Standard library only.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

VALUE_CHARACTERS = 300

# White space of any script, control characters, and characters that take part in no visible text:
# joiners, direction marks, variation selectors, byte order marks, fillers. A regular expression
# that gives up at the first visible character is faster than asking unicodedata for each.
INVISIBLE = re.compile(
    r"[\s\x00-\x20\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202f"
    r"\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]*"
)

# Text as Python prints a list or a dictionary, and as numpy prints an array of them.
_PYTHON_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>[rRbBuU]?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"))
      | (?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
      | (?P<word>True|False|None|nan|inf|-inf)\b
      | (?P<array>(?:array|OrderedDict)\()
      | (?P<option>,\s*dtype\s*=\s*[\w.<>'"]+)
      | (?P<punctuation>[][(){},:])
    )""",
    re.VERBOSE | re.DOTALL,
)
_PYTHON_WORDS = {"True": "true", "False": "false"}
_VALUE_ENDS = ("}", "]")
MISSING = object()
# What a value is that is no text, for people.
KIND_NAMES = {bool: "true or false", list: "a list", dict: "an object", type(None): "null"}


class RowProblem(ValueError):
    """Why a row cannot be learned from.

    field: the column; for a turn as messages[2].content, from 1.
    kind: a kind of finding where a repair can mend it, see engine.doctor.examine; "" for most.
    """

    def __init__(self, field: str, value: Any, reason: str, kind: str = "") -> None:
        text = value if isinstance(value, str) else as_json(value)
        self.field = field
        self.value = text[:VALUE_CHARACTERS]
        self.reason = reason
        self.kind = kind
        super().__init__(f"{field}: {reason}" if field else reason)


def is_blank(text: str) -> bool:
    """Whether nothing of the text can be seen."""
    # Of nearly every text the first character tells.
    if text and "!" <= text[0] <= "~":
        return False

    return INVISIBLE.fullmatch(text) is not None


def has_content(value: Any) -> bool:
    """Whether a value holds anything: not null, not an empty text, and not a list or an object of
    such values alone.

    engine.vectorised.columns has the same rule for whole columns.
    """
    if value is None or type(value) is str:
        return bool(value)

    # No recursion: a row may be nested more deeply than Python calls.
    inside = [value]
    for each in inside:
        if isinstance(each, dict):
            inside += each.values()
        elif isinstance(each, list):
            inside += each
        elif each is not None and each != "":
            return True

    return False


def value_at(values: dict[str, Any], column: str) -> Any:
    """The value of a column, or of a field within one, written column.field; MISSING where there is
    none."""
    if column in values:
        return values[column]

    parent, dot, rest = column.partition(".")
    inner = values.get(parent)
    if not dot or not isinstance(inner, dict):
        return MISSING

    return value_at(inner, rest)


def first_key(item: Mapping[str, Any], keys: Iterable[str]) -> str:
    """The first of `keys` whose value in `item` is not null; "" for none."""
    for key in keys:
        if item.get(key) is not None:
            return key

    return ""


def first_value(item: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """The value of the first of `keys` that is not null in `item`; None for none."""
    key = first_key(item, keys)
    return item[key] if key else None


def required_text(value: Any, where: str) -> str:
    if value is None:
        raise RowProblem(where, None, "Is null; a text is needed.")

    text = text_of(value, where)
    if is_blank(text):
        raise RowProblem(where, text, "Is blank; a text is needed.")

    return text


def text_of(value: Any, where: str) -> str:
    """Text as it is, a number as JSON writes it, the text parts of a list of parts joined. Raises
    RowProblem."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number(value, where)
    if isinstance(value, dict) and is_text_part(value):
        return part_text(value)

    if isinstance(value, list) and value:
        if all(isinstance(part, dict) for part in value):
            return "".join(_part(part, where) for part in value)
        if len(value) == 1 and isinstance(value[0], str):
            return value[0]

    kind = KIND_NAMES.get(type(value), "no text")
    raise RowProblem(where, value, f"Is {kind}; a text is needed.")


def _number(value: float, where: str) -> str:
    try:
        if math.isfinite(value):
            return json.dumps(value)
    except (OverflowError, ValueError):
        pass

    raise RowProblem(
        where, "a number", "Is not a number that can be written down; a text is needed."
    )


PART_TYPES = ("text", "input_text", "output_text")
PART_KEYS = ("text", "value", "content")


def is_text_part(part: dict[str, Any]) -> bool:
    """Whether this is {"type": "text", "text": …}, under any of the names that files use for it."""
    if part.get("type", "text") not in PART_TYPES:
        return False

    return any(isinstance(part.get(key), str) for key in PART_KEYS)


def part_text(part: dict[str, Any]) -> str:
    return next(str(part[key]) for key in PART_KEYS if isinstance(part.get(key), str))


def _part(part: dict[str, Any], where: str) -> str:
    if is_text_part(part):
        return part_text(part)

    reason = "Holds something other than text, such as an image; only text can be learned from."
    raise RowProblem(where, part, reason, "media")


def parsed(text: str, where: str, reason: str) -> tuple[Any, bool]:
    """(what a text holds as JSON or as Python prints it, whether it was Python's). Raises
    RowProblem with `reason`."""
    try:
        return json.loads(text), False
    except (ValueError, RecursionError):
        pass

    try:
        return _python_value(text), True
    except (ValueError, RecursionError, SyntaxError, MemoryError):
        raise RowProblem(where, text, reason) from None


def _python_value(text: str) -> Any:
    """The value of a text that str() made of lists, dictionaries, texts and numbers.

    Token by token into JSON, in one pass: ast.literal_eval would build a tree first, whose depth a
    stranger's text decides, and knows no arrays of numpy, between whose elements there are no
    commas.
    """
    pieces: list[str] = []
    brackets: list[str] = []
    position = 0
    text = text.rstrip()

    while position < len(text):
        token = _PYTHON_TOKEN.match(text, position)
        if token is None:
            raise ValueError(f"unexpected text at {position}")

        position = token.end()
        piece = _json_token(token, brackets)
        if not piece:
            continue

        last = pieces[-1] if pieces else ""
        if piece in _VALUE_ENDS and last == ",":
            pieces.pop()
        elif piece in ("[", "{") and last in _VALUE_ENDS:
            pieces.append(",")

        pieces.append(piece)

    return json.loads("".join(pieces))


def _json_token(token: re.Match[str], brackets: list[str]) -> str:
    """`brackets`: what closes each round bracket that is open; "" for those of array(…), which say
    nothing."""
    kind, piece = str(token.lastgroup), token[0].strip()
    match kind:
        case "string":
            value = ast.literal_eval(piece)
            return json.dumps(
                value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            )
        case "word":
            return _PYTHON_WORDS.get(piece, "null")
        case "number":
            return json.dumps(ast.literal_eval(piece))
        case "array":
            brackets.append("")
        case "punctuation" if piece == "(":
            brackets.append("]")
            return "["
        case "punctuation" if piece == ")":
            return brackets.pop() if brackets else piece
        case "punctuation":
            return piece

    return ""


def as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError, TypeError):
        return f"({type(value).__name__})"
