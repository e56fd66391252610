"""The repairs of engine.doctor.repair_kinds on one row. No training library."""

from __future__ import annotations

import bisect
import contextlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from engine.doctor.examine import EMAIL, LOST, MEDIA_MARK, ROWS_REMEMBERED, TEMPLATE
from engine.doctor.secret_patterns import secrets_replaced
from engine.rows.chat_turns import CALL_KEYS, CALL_ROLES, CONTENT_KEYS, ROLE_KEYS, ROLES
from engine.rows.column_map import columns_read
from engine.rows.examples import Example, RowProblem, example_or_none
from engine.rows.hash_set import HashSet, example_hash
from engine.rows.row_reader import is_media
from engine.rows.transcripts import COMPLETION_END, PROMPT_END, turns_of_text
from engine.rows.values import MISSING, first_key, parsed, value_at

Row = dict[str, Any]
Fits = Callable[[Example], bool]


class RowRepairer:
    """Turns a row into the rows that it becomes; none where it is left out.

    `fits`: whether a row keeps to a limit, for repairs of long rows.
    """

    def __init__(
        self,
        slug: str,
        format: str,
        column_map: dict[str, str],
        fits: Fits | None = None,
        makes: str = "",
    ) -> None:
        self.slug = slug
        self.format = format
        self.column_map = column_map
        self.fits = fits
        self.makes = makes

        self.seen = HashSet()
        # What the rows say, in the columns that are read.
        self.names = columns_read(format, column_map)
        self.columns = set(self.names.values())
        # The column of a format that holds little else.
        self.main = next(iter(self.names.values()), "")

    def rows(self, values: Row) -> list[Row]:
        if self.makes:
            return self._rows_of_other_format(values)

        changed = self.changed(values)
        if changed is None:
            return []

        was_good = changed != values and self.can_read(values)
        if was_good and self._is_spoilt(changed):
            return []

        return [changed]

    def changed(self, values: Row) -> Row | None:
        """The row as this repair writes it, None where it is left out."""
        match self.slug:
            case "drop_bad":
                return values if self.can_read(values) else None
            case "drop_duplicates":
                return None if self.is_again(values) else values
            case "drop_lost":
                text = json.dumps(values, ensure_ascii=False, default=str)
                return None if LOST in text else values
            case "drop_long":
                return values if self._keeps(values) else None
            case "cut_long":
                return self._cut(values)
            case "merge_turns":
                return self._with_turns(values, _merged)
            case "move_system":
                return self._with_turns(values, _system_in_front)
            case "drop_last_question":
                return self._with_turns(values, _without_last_questions)
            case "drop_opening_answer":
                return self._with_turns(values, _without_opening_answers)
            case "keep_text":
                return self._text_alone(values)
            case "strip_separators":
                return self._without_separators(values)
            case "rename_columns":
                return self._renamed(values)
            case "strip_template":
                read = {name: value for name, value in values.items() if name in self.columns}
                return values | _with_texts(read, without_template_tokens)
            case "mask_secrets":
                return _with_texts(values, without_secrets)
            case "mask_addresses":
                return _with_texts(values, without_addresses)
            case "mend_encoding":
                return _with_texts(values, with_right_encoding)

        return values

    def can_read(self, values: Row) -> bool:
        """Whether something can be learned from the row."""
        return self._example(values) is not None

    def _example(self, values: Row) -> Example | None:
        return example_or_none(values, self.format, self.column_map)

    def _is_spoilt(self, changed: Row) -> bool:
        """Whether nothing to learn from is left: cutting may do that."""
        column_map = {} if self.slug == "rename_columns" else self.column_map
        return example_or_none(changed, self.format, column_map) is None

    def is_again(self, values: Row) -> bool:
        example = self._example(values)
        if example is None or len(self.seen) >= ROWS_REMEMBERED:
            return False

        return not self.seen.add(example_hash(example))

    def _keeps(self, values: Row) -> bool:
        example = self._example(values)
        return example is None or self.fits is None or self.fits(example)

    def _cut(self, values: Row) -> Row | None:
        if self.fits is None or self._keeps(values):
            return values

        whole = value_at(values, self.main)
        if isinstance(whole, str) and self.format != "text":
            whole, _ = parsed(whole, self.main, "")

        ends = self._ends(whole)

        def is_too_long(end: int) -> bool:
            return not self._keeps(with_value(values, self.main, whole[:end]))

        # The longest part that keeps to the limit, by binary search.
        count = bisect.bisect_left(ends, True, key=is_too_long)
        if not count:
            return None

        return with_value(values, self.main, whole[: ends[count - 1]])

    def _ends(self, whole: str | list[Row]) -> list[int]:
        """Where a text or a conversation may be cut, in order."""
        if isinstance(whole, str):
            return list(range(1, len(whole)))

        return list(_answers_end(whole))[:-1]

    def _with_turns(self, values: Row, change: Callable[[list[Row]], list[Row]]) -> Row:
        """The row with its turns changed, where it holds turns; also where they stand as JSON
        text."""
        turns = value_at(values, self.main)
        if isinstance(turns, str):
            try:
                turns, _ = parsed(turns, self.main, "")
            except RowProblem:
                return values

        if not isinstance(turns, list):
            return values
        if not all(isinstance(turn, dict) for turn in turns):
            return values

        changed = change(turns)
        return values if changed == turns else with_value(values, self.main, changed)

    def _text_alone(self, values: Row) -> Row:
        kept = {}
        for name, value in values.items():
            if name not in self.columns:
                if not is_media(name):
                    kept[name] = value
                continue

            turns = _opened(value)
            without_media = _without_media(turns)
            kept[name] = value if without_media == turns else without_media

        return kept

    def _without_separators(self, values: Row) -> Row:
        for name, end in (("prompt", PROMPT_END), ("completion", COMPLETION_END)):
            column = self.names.get(name, name)
            text = value_at(values, column)
            if isinstance(text, str) and end.search(text):
                values = with_value(values, column, end.sub("", text).strip())

        return values

    def _renamed(self, values: Row) -> Row:
        names = {source: name for name, source in self.column_map.items() if source}
        renamed = {}
        for source, name in names.items():
            value = value_at(values, source)
            if value is not MISSING:
                renamed[name] = value

        for name, value in values.items():
            if name in names:
                continue

            # A column that bears a name of the format and is another one must not be taken for it.
            new_name = f"{name}_before" if name in self.column_map else name
            renamed[new_name] = value

        return renamed

    def _rows_of_other_format(self, values: Row) -> list[Row]:
        """Rows of another format; what columns the old one did not read stay beside."""
        example = self._example(values)
        if example is None:
            return []

        beside = {name: value for name, value in values.items() if name not in self.columns}
        if example.tools:
            beside["tools"] = example.tools

        rows = [beside | row for row in self._converted(example)]
        for row in rows:
            if example_or_none(row, self.makes, {}) is None:
                return []

        return rows

    def _converted(self, example: Example) -> list[Row]:
        asked = example.asked
        chosen = example.chosen or []
        rejected = example.rejected or []

        match self.slug:
            case "text_to_chats":
                return [{"messages": turns_of_text(example.text or "")}]
            case "pairs_to_examples":
                return [{"messages": [*asked, *chosen]}]
            case "pairs_to_ratings":
                return [
                    {"prompt": asked, "completion": chosen, "label": True},
                    {"prompt": asked, "completion": rejected, "label": False},
                ]
            case _:
                return [{"prompt": asked}]


def role_of(turn: Row) -> str:
    """Who speaks, in the words of a chat template; "" for nobody."""
    key = first_key(turn, ROLE_KEYS)
    return ROLES.get(str(turn[key]).strip().lower(), "") if key else ""


def calls_tools(turn: Row) -> bool:
    if any(turn.get(key) for key in CALL_KEYS):
        return True

    return any(str(turn.get(key)).strip().lower() in CALL_ROLES for key in ROLE_KEYS)


def _text_key(turn: Row) -> str:
    """Under which key a turn's text stands, "" where that is no text."""
    return next((key for key in CONTENT_KEYS if isinstance(turn.get(key), str)), "")


def _answers_end(turns: list[Row]) -> Iterator[int]:
    """Behind which turns a conversation may end: answers that call no tool."""
    for index, turn in enumerate(turns, 1):
        if role_of(turn) == "assistant" and not calls_tools(turn):
            yield index


def _merged(turns: list[Row]) -> list[Row]:
    """Turns of one role in a row as one. Calls of tools and what they gave back stay apart."""
    merged: list[Row] = []
    for turn in turns:
        key = _text_key(turn)
        last = merged[-1] if merged else {}
        if key and _continues(last, turn) and isinstance(last.get(key), str):
            merged[-1] = last | {key: f"{last[key]}\n\n{turn[key]}"}
        else:
            merged.append(turn)

    return merged


def _continues(last: Row, turn: Row) -> bool:
    """Whether the same speaker continues, and neither turn calls tools."""
    role = role_of(turn)
    if role not in ("user", "assistant", "system") or role != role_of(last):
        return False

    return not calls_tools(turn) and not calls_tools(last)


def _system_in_front(turns: list[Row]) -> list[Row]:
    prompts = [turn for turn in turns if role_of(turn) == "system"]
    if turns[: len(prompts)] == prompts:
        return turns

    # Turns that stood around one may now be two of one speaker.
    rest = [turn for turn in turns if role_of(turn) != "system"]
    return [*_merged(prompts), *_merged(rest)]


def _without_last_questions(turns: list[Row]) -> list[Row]:
    end = len(turns)
    while end and role_of(turns[end - 1]) in ("user", "system"):
        end -= 1

    return turns[:end] if end else turns


def _without_opening_answers(turns: list[Row]) -> list[Row]:
    """Without what the assistant says before the first question; system prompts stay."""
    roles = [role_of(turn) for turn in turns]
    if "user" not in roles:
        return turns

    first = roles.index("user")
    prompts = [turn for turn in turns[:first] if role_of(turn) == "system"]
    return prompts + turns[first:]


def _without_media(value: Any) -> Any:
    """Texts without placeholders of pictures, contents without parts that are no text."""
    if isinstance(value, str):
        return MEDIA_LINE.sub("", value) if MEDIA_MARK.search(value) else value
    if isinstance(value, dict):
        return {name: _without_media(item) for name, item in value.items()}
    if not isinstance(value, list):
        return value

    return [_without_media(item) for item in value if not _is_media_part(item)]


def _opened(value: Any) -> Any:
    """A list of turns that stands as text, as the list."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        with contextlib.suppress(RowProblem):
            return parsed(value, "", "")[0]

    return value


def _is_media_part(item: Any) -> bool:
    """Whether this is a part of a content such as {"type": "image_url", …}."""
    if not isinstance(item, dict):
        return False

    kind = str(item.get("type", ""))
    return "image" in kind or "video" in kind or "audio" in kind


# The placeholder, and the line that it has to itself.
MEDIA_LINE = re.compile(rf"{MEDIA_MARK.pattern}[ \t]*\n?")


def with_value(values: Row, column: str, value: Any) -> Row:
    """The row with another value in a column, or in a field within one, see
    engine.rows.values.value_at."""
    if column in values or "." not in column:
        return values | {column: value}

    parent, _, rest = column.partition(".")
    return values | {parent: with_value(values[parent], rest, value)}


def _with_texts(values: Row, change: Callable[[str], str]) -> Row:
    """The row with every text in it changed; names of fields stay."""
    return {name: _changed_texts(value, change) for name, value in values.items()}


def _changed_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_changed_texts(item, change) for item in value]
    if isinstance(value, dict):
        return _with_texts(value, change)

    return value


def without_template_tokens(text: str) -> str:
    return TEMPLATE.sub("", text).strip() if TEMPLATE.search(text) else text


def without_secrets(text: str) -> str:
    return secrets_replaced(text, lambda secret, value: secret.replacement)


def without_addresses(text: str) -> str:
    return EMAIL.sub("[e-mail]", text)


def with_right_encoding(text: str) -> str:
    """UTF-8 that was read as Latin-1 or Windows-1252, read rightly; text that is not that stays as
    it is."""
    import ftfy

    return str(ftfy.fix_encoding(text))
