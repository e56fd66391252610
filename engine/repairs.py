"""Repairs of a dataset: each reads rows and writes new ones, and counts what it did.

    python -m engine.repairs --data FILE --file-type T --format F --column-map JSON --repair SLUG --out FILE
                             [--model DIR --max-tokens N] [--list NAME]

writes JSON lines and reports by JSON lines on its output: {"rows": read so far}, last {"done":
{...}} or {"error": text}. Rows keep all their columns, apart from repairs that make another format
of them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.doctor import SEVERAL_LISTS, concealed
from engine.examples import Example
from engine.mending import Fits, Mender, Row
from engine.rows import FileProblem, read_rows

EXAMPLES_KEPT = 5
SHOWN_CHARACTERS = 300
NEWS_EVERY_SECONDS = 0.5
NOTHING_LEFT = "No row is left after this repair."
# Of a split both parts are made, each a dataset: the rows to train on, and every EVERYth to measure
# with.
SPLIT, TRAIN_PART, EVALUATION_PART = "split", "split_train", "split_evaluation"
EVERY = 10
# A dataset is made of each list of a file.
SPLIT_LISTS = "split_lists"
CHATS = ("messages", "conversations")


@dataclass(frozen=True)
class Repair:
    """`mends`: kinds of findings that it is for (engine.doctor), or "problems" for rows that cannot
    be read, "names" for columns of other names, "long" for rows over a limit. `formats`: those it
    takes, none for all; `makes`: the one that comes of it, where it is another."""

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
            SPLIT_LISTS, "Make a dataset of each list",
            "Such as one to train on and one to measure with; each is then read by its own columns.", (SEVERAL_LISTS,),
        ),
        Repair(
            "merge_turns", "Merge turns of one speaker",
            "Two turns of one role in a row become one, with a blank line between them.", ("two_turns",), CHATS,
        ),
        Repair(
            "move_system", "Move system turns to the front",
            "What stands in them later is added to the system prompt, with a blank line between.", ("system_later",),
            CHATS,
        ),
        Repair(
            "drop_last_question", "Leave out a last question without an answer",
            "Conversations then end with the last answer; one that has no answer stays as it is.", ("ends_with_user",),
            CHATS,
        ),
        Repair(
            "drop_opening_answer", "Leave out an answer that nobody asked for",
            "Conversations then begin with the first question; what the assistant said before it is gone.",
            ("begins_with_assistant",), CHATS,
        ),
        Repair(
            "keep_text", "Keep the text alone",
            "Columns and parts of pictures, sound or video are gone, and marks such as <image> where they stood.",
            ("media", "media_marks"),
        ),
        Repair(
            "text_to_chats", "Make conversations of texts",
            "Texts of Human: and Assistant:, or of similar names, become turns; other texts are left out.",
            ("transcript_text",), ("text",), "messages",
        ),
        Repair(
            "strip_separators", "Take out separators",
            "Marks such as ### or -> behind prompts, and ### or END behind completions, are cut off.",
            ("separators",), ("prompt-completion",),
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
            "is left out.", ("long",), (*CHATS, "text"),
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
    """`counts`: rows read, written, changed and left out; `examples`: [{"line", "before", "after"}]
    of the first."""

    counts: dict[str, int] = field(default_factory=lambda: {"read": 0, "written": 0, "changed": 0, "left_out": 0})
    examples: list[dict[str, Any]] = field(default_factory=list)

    def note(self, line: int, before: Any, after: Any) -> None:
        if len(self.examples) < EXAMPLES_KEPT:
            self.examples.append({"line": line, "before": _shown(before), "after": _shown(after)})


def _shown(values: Any) -> str:
    text = "" if values is None else json.dumps(values, ensure_ascii=False, default=str)
    return concealed(text)[:SHOWN_CHARACTERS]


def repaired(
    rows: Iterable[tuple[int, Row | None]],
    slug: str,
    format: str,
    column_map: dict[str, str],
    done: Done,
    fits: Fits | None = None,
) -> Iterator[Row]:
    """The rows of the new file. `rows`: (line, values), None for a line that is no row. Fills
    `done`."""
    mender = Mender(slug, format, column_map, fits, makes=REPAIRS[slug].makes if slug in REPAIRS else "")
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
        and (
            any(kind in kinds for kind in repair.mends) or (not repair.mends and (repair.makes or repair.slug == SPLIT))
        )
    ]


def limit_of(folder: Path, max_tokens: int) -> Fits:
    """Whether all that is trained on for a row has at most `max_tokens` tokens under that model's
    chat template."""
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


def _rows(path: Path, file_type: str, part: str | None) -> Iterator[tuple[int, Row | None]]:
    """All rows, or those of one list of the file."""
    told = time.monotonic()
    for number, row in enumerate(read_rows(path, file_type), 1):
        if time.monotonic() - told > NEWS_EVERY_SECONDS:
            told = time.monotonic()
            _say(rows=number)
        if part is None or row.part == part:
            yield row.line, row.values


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.repairs", description="Write a repaired copy of a dataset.")
    for name in ("data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("file-type", "format", "repair"):
        # A file whose format nobody knows can still be taken apart.
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--column-map", type=json.loads, default={})
    parser.add_argument("--model", type=Path)
    parser.add_argument("--max-tokens", type=int, default=0)
    parser.add_argument("--list", help="the name of the list to read, of a file that is an object of lists")
    given = parser.parse_args(arguments)
    from engine.failures import explain

    done, digest, size = Done(), hashlib.sha256(), 0
    try:
        fits = limit_of(given.model, given.max_tokens) if given.model else None
        rows = _rows(given.data, given.file_type, given.list)
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
