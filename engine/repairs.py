"""Repairs of a dataset: each reads rows and writes new ones, and counts what it did.

    python -m engine.repairs --data FILE --file-type T --format F --column-map JSON --repair SLUG --out FILE
                             [--model DIR --max-tokens N]

writes JSON lines and reports by JSON lines on its output: {"rows": read so far}, last {"done": {...}} or {"error":
text}. Rows keep all their columns, apart from repairs that make another format of them.
"""

from __future__ import annotations

import argparse
import bisect
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.doctor import EMAIL, ROWS_REMEMBERED, SECRET, TEMPLATE, concealed
from engine.examples import Example, RowProblem, to_example
from engine.formats import FORMATS
from engine.marks import Marks, mark_of
from engine.rows import FileProblem, read_rows
from engine.turns import CALL, CONTENT_KEYS, ROLE_KEYS, ROLES

EXAMPLES_KEPT = 5
SHOWN_CHARACTERS = 300
NEWS_EVERY_SECONDS = 0.5
NOTHING_LEFT = "No row is left after this repair."
# Of a split both parts are made, each a dataset: the rows to train on, and every EVERYth to measure with.
SPLIT, TRAIN_PART, EVALUATION_PART = "split", "split_train", "split_evaluation"
EVERY = 10


@dataclass(frozen=True)
class Repair:
    """`mends`: kinds of findings that it is for, or "problems" for rows that cannot be read, "names" for columns of
    other names, "long" for rows over a limit. `formats`: those it takes, none for all; `makes`: the one that comes of
    it, where it is another."""

    slug: str
    title: str
    help: str
    mends: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    makes: str = ""


REPAIRS = {
    repair.slug: repair
    for repair in (
        Repair("drop_bad", "Leave out bad rows", "Rows that cannot be read are gone; the others stay.", ("problems",)),
        Repair(
            "merge_turns", "Merge turns of one speaker",
            "Two turns of one role in a row become one, with a blank line between them.", ("problems",),
            ("messages", "conversations"),
        ),
        Repair(
            "drop_duplicates", "Leave out duplicates", "Of rows that are the same the first one stays.", ("duplicate",)
        ),
        Repair(
            "strip_template", "Take out template marks", "Marks such as <|im_start|> or [INST] are cut out.",
            ("template_tokens",),
        ),
        Repair(
            "mask_secrets", "Mask keys and addresses", "Keys become [key], e-mail addresses [e-mail].",
            ("secret", "email"),
        ),
        Repair(
            "mend_encoding", "Mend the encoding", "Text that was read in the wrong encoding is read rightly.",
            ("damaged",),
        ),
        Repair("drop_lost", "Leave out rows that lost characters", "What was lost cannot be got back.", ("lost",)),
        Repair(
            "rename_columns", "Rename the columns", "Columns get the names that the format gives them.", ("names",)
        ),
        Repair("drop_long", "Leave out long rows", "Rows over the limit are gone; the others stay.", ("long",)),
        Repair(
            "cut_long", "Cut long rows",
            "Conversations lose their last exchanges, texts their end, until they keep to the limit; a row that cannot "
            "is left out.", ("long",), ("messages", "conversations", "text"),
        ),
        Repair(SPLIT, "Split off an evaluation set", "Every tenth row becomes a dataset of its own, to measure with."),
        Repair(
            "pairs_to_examples", "Use the better answers as examples", "For SFT and LoRA: the worse answers are gone.",
            (), ("preference",), "messages",
        ),
        Repair(
            "pairs_to_ratings", "Make rated answers of the pairs", "For KTO: a pair becomes a good and a bad answer.",
            (), ("preference",), "kto",
        ),
        Repair(
            "answers_to_prompts", "Keep the prompts alone", "For PPO with a reward model: answers are gone.", (),
            ("messages", "conversations", "prompt-completion", "alpaca", "question-answer", "preference"),
            "prompt-only",
        ),
    )
}  # fmt: skip
LONG = tuple(repair.slug for repair in REPAIRS.values() if "long" in repair.mends)


@dataclass
class Done:
    """`counts`: rows read, written, changed and left out; `examples`: [{"line", "before", "after"}] of the first."""

    counts: dict[str, int] = field(default_factory=lambda: {"read": 0, "written": 0, "changed": 0, "left_out": 0})
    examples: list[dict[str, Any]] = field(default_factory=list)

    def note(self, line: int, before: Any, after: Any) -> None:
        if len(self.examples) < EXAMPLES_KEPT:
            self.examples.append({"line": line, "before": _shown(before), "after": _shown(after)})


def _shown(values: Any) -> str:
    text = "" if values is None else json.dumps(values, ensure_ascii=False, default=str)
    return concealed(text)[:SHOWN_CHARACTERS]


Row = dict[str, Any]
Fits = Callable[[Example], bool]


class Mender:
    """Makes of one row the rows that it becomes; none where it is left out.

    `fits`: whether a row keeps to a limit, for repairs of long rows.
    """

    def __init__(self, slug: str, format: str, column_map: dict[str, str], fits: Fits | None = None) -> None:
        self.slug, self.format, self.column_map, self.fits = slug, format, column_map, fits
        self.makes = REPAIRS[slug].makes if slug in REPAIRS else ""
        self.seen = Marks()
        # What the rows say, in the columns that are read.
        self.columns = {column_map.get(name, name) for name in (*FORMATS[format].columns, *FORMATS[format].optional)}

    def rows(self, values: Row) -> list[Row]:
        if self.makes:
            return self._made(values)
        changed = self._changed(values)
        if changed is None or (changed != values and self._example(values) is not None and self._spoilt(changed)):
            return []
        return [changed]

    def _changed(self, values: Row) -> Row | None:
        match self.slug:
            case "drop_bad":
                return values if self._example(values) else None
            case "drop_duplicates":
                return None if self._is_again(values) else values
            case "drop_lost":
                return None if "\ufffd" in json.dumps(values, ensure_ascii=False, default=str) else values
            case "drop_long":
                return values if self._keeps(values) else None
            case "cut_long":
                return self._cut(values)
            case "merge_turns":
                return self._merged(values)
            case "rename_columns":
                return self._renamed(values)
            case "strip_template":
                said = {name: strings(value, stripped) for name, value in values.items() if name in self.columns}
                return values | said
            case "mask_secrets":
                return {name: strings(value, hidden) for name, value in values.items()}
            case "mend_encoding":
                return {name: strings(value, mended) for name, value in values.items()}
        return values

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

    def _is_again(self, values: Row) -> bool:
        example = self._example(values)
        if example is None or len(self.seen) >= ROWS_REMEMBERED:
            return False
        return not self.seen.add(mark_of(example))

    def _keeps(self, values: Row) -> bool:
        example = self._example(values)
        return example is None or self.fits is None or self.fits(example)

    def _cut(self, values: Row) -> Row | None:
        if self.fits is None or self._keeps(values):
            return values
        column = self.column_map.get(FORMATS[self.format].columns[0], FORMATS[self.format].columns[0])
        whole = values[column]
        if isinstance(whole, str) and self.format != "text":
            whole = json.loads(whole)
        ends = range(1, len(whole)) if isinstance(whole, str) else [*_answers_end(whole)][:-1]
        # The longest part that keeps to the limit, found by halves.
        count = bisect.bisect_left(ends, True, key=lambda end: not self._keeps(values | {column: whole[:end]}))
        return values | {column: whole[: ends[count - 1]]} if count else None

    def _merged(self, values: Row) -> Row:
        """Turns of one role in a row as one, where the file holds turns."""
        column = self.column_map.get(FORMATS[self.format].columns[0], FORMATS[self.format].columns[0])
        turns = values.get(column)
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            return values
        merged: list[Row] = []
        for turn in turns:
            role = next((turn[key] for key in ROLE_KEYS if key in turn), None)
            text = next((key for key in CONTENT_KEYS if isinstance(turn.get(key), str)), None)
            last = merged[-1] if merged else {}
            same = role is not None and role == next((last[key] for key in ROLE_KEYS if key in last), None)
            calls = "tool_calls" in turn or "tool_calls" in last or role in ("tool", "observation", "function_call")
            if same and text is not None and not calls and isinstance(last.get(text), str):
                merged[-1] = last | {text: f"{last[text]}\n\n{turn[text]}"}
            else:
                merged.append(turn)
        return values | {column: merged}

    def _renamed(self, values: Row) -> Row:
        names = {source: name for name, source in self.column_map.items()}
        renamed = {names[source]: value for source, value in values.items() if source in names}
        # A column that bears a name of the format and is another one must not be taken for it.
        others = {name if name not in self.column_map else f"{name}_before": value
                  for name, value in values.items() if name not in names}  # fmt: skip
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


def _answers_end(turns: list[Row]) -> Iterator[int]:
    """Behind which turns a conversation may end: answers that call no tool."""
    for index, turn in enumerate(turns, 1):
        named = next((str(turn[key]).strip().lower() for key in ROLE_KEYS if turn.get(key) is not None), "")
        if ROLES.get(named) == "assistant" and named != CALL and not turn.get("tool_calls"):
            yield index


def strings(value: Any, change: Callable[[str], str]) -> Any:
    """`value` with every text in it changed; names of fields stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [strings(item, change) for item in value]
    return {name: strings(item, change) for name, item in value.items()} if isinstance(value, dict) else value


def stripped(text: str) -> str:
    return TEMPLATE.sub("", text).strip() if TEMPLATE.search(text) else text


def hidden(text: str) -> str:
    return EMAIL.sub("[e-mail]", SECRET.sub("[key]", text))


def mended(text: str) -> str:
    """UTF-8 that was read as Latin-1 or Windows-1252, read rightly; text that is not that stays as it is."""
    import ftfy

    return str(ftfy.fix_encoding(text))


def repaired(
    rows: Iterable[tuple[int, Row | None]],
    slug: str,
    format: str,
    column_map: dict[str, str],
    done: Done,
    fits: Fits | None = None,
) -> Iterator[Row]:
    """The rows of the new file. `rows`: (line, values), None for a line that is no row. Fills `done`."""
    mender = Mender(slug, format, column_map, fits)
    for line, values in rows:
        done.counts["read"] += 1
        measured = done.counts["read"] % EVERY == 0
        elsewhere = (slug == TRAIN_PART and measured) or (slug == EVALUATION_PART and not measured)
        made = mender.rows(values) if values is not None and not elsewhere else []
        if not made:
            done.counts["left_out"] += 1
            if not elsewhere:
                done.note(line, values, None)
        elif made != [values]:
            done.counts["changed"] += 1
            done.note(line, values, made[0])
        done.counts["written"] += len(made)
        yield from made


def offered(format: str, kinds: set[str]) -> list[Repair]:
    """Repairs that make sense for a dataset of this format in which these kinds were found."""
    return [
        repair
        for repair in REPAIRS.values()
        if (not repair.formats or format in repair.formats)
        and (repair.makes or repair.slug == SPLIT or any(kind in kinds for kind in repair.mends))
    ]


def limit_of(folder: Path, max_tokens: int) -> Fits:
    """Whether all that is trained on for a row has at most `max_tokens` tokens under that model's chat template."""
    from engine.chat.template import TemplateProblem
    from engine.lengths import variants
    from engine.render import Renderer, tokenizer_load

    renderer = Renderer(tokenizer_load(folder), warn=lambda code, message: None)

    def fits(example: Example) -> bool:
        try:
            return all(len(renderer.tokens(variant).ids) <= max_tokens for variant in variants(example))
        except TemplateProblem:
            # Not a matter of length: what this model cannot write, another one can.
            return True

    return fits


def _say(**news: Any) -> None:
    print(json.dumps(news), flush=True)


def _rows(path: Path, file_type: str) -> Iterator[tuple[int, Row | None]]:
    told = time.monotonic()
    for number, row in enumerate(read_rows(path, file_type), 1):
        if time.monotonic() - told > NEWS_EVERY_SECONDS:
            told = time.monotonic()
            _say(rows=number)
        yield row.line, row.values


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.repairs", description="Write a repaired copy of a dataset.")
    for name in ("data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("file-type", "format", "repair"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--column-map", type=json.loads, default={})
    parser.add_argument("--model", type=Path)
    parser.add_argument("--max-tokens", type=int, default=0)
    given = parser.parse_args(arguments)
    from engine.failures import explain

    done, digest, size = Done(), hashlib.sha256(), 0
    try:
        fits = limit_of(given.model, given.max_tokens) if given.model else None
        rows = _rows(given.data, given.file_type)
        with given.out.open("wb") as stream:
            for row in repaired(rows, given.repair, given.format, given.column_map, done, fits):
                line = json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n"
                digest.update(line)
                size += stream.write(line)
    except Exception as error:
        _say(error=str(error) if isinstance(error, FileProblem) else explain(error).message)
        return 1
    if not size:
        _say(error=NOTHING_LEFT)
        return 1
    _say(done=asdict(done) | {"size_bytes": size, "sha256": digest.hexdigest()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
