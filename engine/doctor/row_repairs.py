"""What each repair of engine.doctor.repairs does to one row. No training library."""

from __future__ import annotations

import bisect
import contextlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from engine.doctor.examine import EMAIL, MEDIA_MARK, ROWS_REMEMBERED, TEMPLATE
from engine.doctor.secret_patterns import secrets_replaced
from engine.rows.chat_turns import CALL_KEYS, CALL_ROLES, CONTENT_KEYS, ROLE_KEYS, ROLES
from engine.rows.column_map import columns_read
from engine.rows.examples import Example, RowProblem, to_example
from engine.rows.hash_set import HashSet, example_hash
from engine.rows.row_reader import is_media
from engine.rows.transcripts import COMPLETION_END, PROMPT_END, turns_of_text
from engine.rows.values import MISSING, parsed, value_at

Row = dict[str, Any]
Fits = Callable[[Example], bool]


class RowRepairer:
    """Makes of one row the rows that it becomes; none where it is left out.

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
        self.slug, self.format, self.column_map, self.fits, self.makes = (
            slug,
            format,
            column_map,
            fits,
            makes,
        )

        self.seen = HashSet()
        # What the rows say, in the columns that are read.
        self.names = columns_read(format, column_map)
        self.columns = set(self.names.values())
        # The column of a format that holds little else.
        self.main = next(iter(self.names.values()), "")

    def rows(self, values: Row) -> list[Row]:
        if self.makes:
            return self._made(values)

        changed = self.changed(values)
        if changed is None or (
            changed != values and self._example(values) is not None and self._spoilt(changed)
        ):
            return []

        return [changed]

    def changed(self, values: Row) -> Row | None:
        """The row as this repair writes it, None where it is left out."""
        match self.slug:
            case "drop_bad":
                return values if self._example(values) else None
            case "drop_duplicates":
                return None if self.is_again(values) else values
            case "drop_lost":
                return (
                    None
                    if "\ufffd" in json.dumps(values, ensure_ascii=False, default=str)
                    else values
                )
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
                said = {
                    name: strings(value, stripped)
                    for name, value in values.items()
                    if name in self.columns
                }

                return values | said
            case "mask_secrets":
                return {name: strings(value, without_secrets) for name, value in values.items()}
            case "mask_addresses":
                return {name: strings(value, without_addresses) for name, value in values.items()}
            case "mend_encoding":
                return {name: strings(value, mended) for name, value in values.items()}

        return values

    def can_read(self, values: Row) -> bool:
        """Whether something can be learned from the row."""
        return self._example(values) is not None

    def _example(self, values: Row) -> Example | None:
        try:
            return to_example(values, self.format, self.column_map)
        except RowProblem:
            return None

    def _spoilt(self, changed: Row) -> bool:
        """Cutting may leave nothing to learn from."""
        column_map = {} if self.slug == "rename_columns" else self.column_map
        try:
            to_example(changed, self.format, column_map)
        except RowProblem:
            return True

        return False

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

        ends = range(1, len(whole)) if isinstance(whole, str) else [*_answers_end(whole)][:-1]
        # The longest part that keeps to the limit, found by halves.
        count = bisect.bisect_left(
            ends, True, key=lambda end: not self._keeps(put(values, self.main, whole[:end]))
        )
        return put(values, self.main, whole[: ends[count - 1]]) if count else None

    def _with_turns(self, values: Row, change: Callable[[list[Row]], list[Row]]) -> Row:
        """The row with its turns changed, where it holds turns; also where they stand as JSON
        text."""
        turns = value_at(values, self.main)
        if isinstance(turns, str):
            try:
                turns, _ = parsed(turns, self.main, "")
            except RowProblem:
                return values

        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            return values

        changed = change(turns)
        return values if changed == turns else put(values, self.main, changed)

    def _text_alone(self, values: Row) -> Row:
        kept = {
            name: value
            for name, value in values.items()
            if name in self.columns or not is_media(name)
        }

        said = {
            name: _without_media(_opened(value))
            for name, value in kept.items()
            if name in self.columns
        }

        return kept | {name: value for name, value in said.items() if value != _opened(kept[name])}

    def _without_separators(self, values: Row) -> Row:
        for name, end in (("prompt", PROMPT_END), ("completion", COMPLETION_END)):
            column = self.names.get(name, name)
            text = value_at(values, column)
            if isinstance(text, str) and end.search(text):
                values = put(values, column, end.sub("", text).strip())

        return values

    def _renamed(self, values: Row) -> Row:
        names = {source: name for name, source in self.column_map.items() if source}
        found = {name: value_at(values, source) for source, name in names.items()}
        renamed = {name: value for name, value in found.items() if value is not MISSING}
        # A column that bears a name of the format and is another one must not be taken for it.
        others = {
            name if name not in self.column_map else f"{name}_before": value
            for name, value in values.items()
            if name not in names
        }

        return renamed | others

    def _made(self, values: Row) -> list[Row]:
        """Rows of another format; what columns the old one did not read stay beside."""
        example = self._example(values)
        if example is None:
            return []

        rest = {name: value for name, value in values.items() if name not in self.columns}
        asked, chosen, rejected = example.asked, example.chosen or [], example.rejected or []
        tools = {"tools": example.tools} if example.tools else {}
        made: list[Row]
        match self.slug:
            case "text_to_chats":
                made = [{"messages": turns_of_text(example.text or "")}]
            case "pairs_to_examples":
                made = [{"messages": [*asked, *chosen]}]
            case "pairs_to_ratings":
                made = [
                    {"prompt": asked, "completion": chosen, "label": True},
                    {"prompt": asked, "completion": rejected, "label": False},
                ]
            case _:
                made = [{"prompt": asked}]

        made = [rest | tools | row for row in made]
        try:
            for row in made:
                to_example(row, self.makes, {})
        except RowProblem:
            return []

        return made


def role_of(turn: Row) -> str:
    """Who speaks, in the words of a chat template; "" for nobody."""
    named = next(
        (str(turn[key]).strip().lower() for key in ROLE_KEYS if turn.get(key) is not None), ""
    )
    return ROLES.get(named, "")


def calls_tools(turn: Row) -> bool:
    named = {str(turn.get(key)).strip().lower() for key in ROLE_KEYS}
    return bool(named & CALL_ROLES) or any(turn.get(key) for key in CALL_KEYS)


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
        last = merged[-1] if merged else {}
        key, role = _text_key(turn), role_of(turn)
        same = role in ("user", "assistant", "system") and role == role_of(last)
        if (
            same
            and key
            and isinstance(last.get(key), str)
            and not calls_tools(turn)
            and not calls_tools(last)
        ):
            merged[-1] = last | {key: f"{last[key]}\n\n{turn[key]}"}
        else:
            merged.append(turn)

    return merged


def _system_in_front(turns: list[Row]) -> list[Row]:
    prompts = [turn for turn in turns if role_of(turn) == "system"]
    rest = [turn for turn in turns if role_of(turn) != "system"]
    # Turns that stood around one may now be two of one speaker.
    return (
        [*_merged(prompts), *_merged(rest)]
        if prompts and turns[: len(prompts)] != prompts
        else turns
    )


def _without_last_questions(turns: list[Row]) -> list[Row]:
    end = len(turns)
    while end and role_of(turns[end - 1]) in ("user", "system"):
        end -= 1

    return turns[:end] if end else turns


def _without_opening_answers(turns: list[Row]) -> list[Row]:
    """Without what the assistant says before the first question; system prompts stay."""
    first = next((index for index, turn in enumerate(turns) if role_of(turn) == "user"), None)
    if first is None:
        return turns

    return [turn for turn in turns[:first] if role_of(turn) == "system"] + turns[first:]


def _without_media(value: Any) -> Any:
    """Texts without marks where a picture stood, contents without parts that are no text."""
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
    kind = str(item.get("type", "")) if isinstance(item, dict) else ""
    return any(medium in kind for medium in ("image", "video", "audio"))


# The mark, and the line that it has to itself.
MEDIA_LINE = re.compile(rf"{MEDIA_MARK.pattern}[ \t]*\n?")


def put(values: Row, column: str, value: Any) -> Row:
    """The row with another value in a column, or in a field within one, see
    engine.rows.values.value_at."""
    if column in values or "." not in column:
        return values | {column: value}

    parent, _, rest = column.partition(".")
    return values | {parent: put(values[parent], rest, value)}


def strings(value: Any, change: Callable[[str], str]) -> Any:
    """`value` with every text in it changed; names of fields stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [strings(item, change) for item in value]

    return (
        {name: strings(item, change) for name, item in value.items()}
        if isinstance(value, dict)
        else value
    )


def stripped(text: str) -> str:
    return TEMPLATE.sub("", text).strip() if TEMPLATE.search(text) else text


def without_secrets(text: str) -> str:
    return secrets_replaced(text, lambda secret, value: secret.replacement)


def without_addresses(text: str) -> str:
    return EMAIL.sub("[e-mail]", text)


def mended(text: str) -> str:
    """UTF-8 that was read as Latin-1 or Windows-1252, read rightly; text that is not that stays as
    it is."""
    import ftfy

    return str(ftfy.fix_encoding(text))
