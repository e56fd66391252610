"""What is wrong with rows that can be read: duplicates, damage, things that should not be learned;
and what of them is read in another way than it is written, or not used at all.

No training library. One pass beside the check; what is remembered of each row is a mark of eight
bytes. Rows are seen one by one, or a block of them at once: what is found is the same.
"""

from __future__ import annotations

import functools
import operator
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.doctor.finding_kinds import (
    REPAIRABLE,
    SEVERAL_LISTS,
    TITLES,
    TOOL_CALLS,
    UNUSED,
)
from engine.doctor.secret_patterns import secrets_in, secrets_replaced
from engine.doctor.signs import SCRIPT_CHARACTERS, SIGNS
from engine.rows.examples import Example
from engine.rows.hash_set import HashSet, example_hash, turns_hash
from engine.rows.transcripts import SPEAKER_BEGINNING, turns_of_text
from engine.rows.values import RowProblem

if TYPE_CHECKING:
    from engine.vectorised.row_blocks import Block

EXAMPLES_KEPT = 5
# So many rows of a finding are named, so that a page can walk through them.
LINES_KEPT = 100
# Beyond this many rows duplicates are no longer looked for, nor left out: memory is bounded.
ROWS_REMEMBERED = 2_000_000
SHOWN_CHARACTERS = 160
# So many different unused fields are counted, and so many are shown: files exist in which every row
# has names of its own.
FIELDS_COUNTED, FIELDS_SHOWN = 1000, 50

TEMPLATE = re.compile(
    r"<\|(?:im_start|im_end|endoftext|eot_id|begin_of_text|start_header_id|end_header_id|user|assistant|system)\|>"
    r"|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|</s>|<s>"
)
# Where LLaVA's files, and those of others since, have a picture stand.
MEDIA_MARK = re.compile(r"<(?:image|video|audio)>")
EMAIL = re.compile(
    r"\b[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,3}\.[A-Za-z]{2,10}\b"
)
# UTF-8 that was read as Latin-1 or Windows-1252: "Ã©", "â€™". And what stands for a character that
# could not be read.
LOST = "\ufffd"
DAMAGED = re.compile(r"Ã[\u0080-\u00bf]|â€[\u0098-\u009d™œ\u201c\u201d]")
SCRIPT = re.compile(
    r"(?P<Latin>[A-Za-z\u00c0-\u024f]+)|(?P<Chinese>[\u4e00-\u9fff]+)|(?P<Japanese>[\u3040-\u30ff]+)"
    r"|(?P<Korean>[\uac00-\ud7af]+)|(?P<Cyrillic>[\u0400-\u04ff]+)|(?P<Arabic>[\u0600-\u06ff]+)"
    r"|(?P<Devanagari>[\u0900-\u097f]+)"
)
LETTER = re.compile(r"[A-Za-z]")
# A second script in fewer rows than this share is a loan word or two.
RARE_SCRIPT, RARE_LABEL = 0.02, 0.1


@dataclass
class Finding:
    """`examples`: [{"line", "text"}], at most EXAMPLES_KEPT. `lines`: of the first LINES_KEPT rows.
    `fields`: {name: rows}, where it is about several."""

    kind: str
    count: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)
    fields: Counter[str] = field(default_factory=Counter)
    lines: list[int] = field(default_factory=list)

    def line_add(self, line: int) -> None:
        # A row may have the same fault twice.
        if len(self.lines) < LINES_KEPT and (not self.lines or self.lines[-1] != line):
            self.lines.append(line)

    def as_dict(self) -> dict[str, Any]:
        found = {
            "kind": self.kind,
            "title": TITLES[self.kind],
            "count": self.count,
            "examples": self.examples,
            "lines": self.lines,
        }

        if self.fields:
            ranked = sorted(self.fields.items(), key=lambda item: (-item[1], item[0]))
            found["fields"] = [{"name": name, "rows": rows} for name, rows in ranked[:FIELDS_SHOWN]]

        return found


class Doctor:
    """Sees every good row once, in file order."""

    def __init__(self) -> None:
        self.found: dict[str, Finding] = {}
        self.rows = HashSet()
        self.prompts = HashSet()
        self.scripts: Counter[str] = Counter()
        self.labels: Counter[bool] = Counter()

    def see(self, line: int, example: Example) -> None:
        is_new = is_asked_first = True
        if len(self.rows) < ROWS_REMEMBERED:
            is_new = self.rows.add(example_hash(example))
            if is_new and example.messages is not None:
                is_asked_first = self.prompts.add(turns_hash(example.asked))

        self._look(line, example, is_new, is_asked_first)

    def see_block(self, block: Block, others: Mapping[int, Example]) -> None:
        """The rows of a block that are known, and `others` that are good too, by their place in
        it."""
        # Not above: the web server has this module for its titles.
        import numpy as np

        self._unused_add_all(block)

        marks, prompts, good, notable = (
            block.marks.copy(),
            block.prompts.copy(),
            block.known.copy(),
            block.notable.copy(),
        )

        for index, example in others.items():
            marks[index], prompts[index] = example_hash(example), turns_hash(example.asked)
            good[index] = notable[index] = True

        rows = np.flatnonzero(good)
        is_new, is_asked_first = np.ones((2, len(block)), bool)

        if len(self.rows) + len(rows) <= ROWS_REMEMBERED:
            is_new[rows] = self.rows.add_all(marks[rows])
            asked = rows[is_new[rows] & block.is_answered]
            is_asked_first[asked] = self.prompts.add_all(prompts[asked])
        elif len(self.rows) < ROWS_REMEMBERED:
            # Somewhere among these the remembering ends.
            for index in rows.tolist():
                self.see(block.line(index), others.get(index) or block.example(index))

            return

        looked = good & (notable | ~is_new | ~is_asked_first)
        for index in np.flatnonzero(looked).tolist():
            example = others.get(index) or block.example(index)
            self._look(block.line(index), example, bool(is_new[index]), bool(is_asked_first[index]))

        if count := int((block.worded & good & ~looked).sum()):
            self.scripts["Latin"] += count

    def see_problem(self, line: int, problem: RowProblem) -> None:
        """A bad row; remembered where a repair may make it good."""
        if problem.kind in REPAIRABLE:
            self._add(problem.kind, line, problem.value)

    def see_lists(self, rows: Mapping[str, int]) -> None:
        """The rows in each of a file's lists."""
        if len(rows) > 1:
            text = ", ".join(
                f"{name}: {count:,} rows" for name, count in list(rows.items())[:FIELDS_SHOWN]
            )
            finding = Finding(
                SEVERAL_LISTS, sum(rows.values()), [{"line": 0, "text": text}], Counter(rows)
            )
            self.found[SEVERAL_LISTS] = finding

    def _unused_add(self, line: int, fields: Iterable[str]) -> None:
        finding = self.found.setdefault(UNUSED, Finding(UNUSED))
        finding.count += 1
        for name in fields:
            self._field_add(finding, name, 1)

    def _field_add(self, finding: Finding, name: str, rows: int) -> None:
        if name in finding.fields or len(finding.fields) < FIELDS_COUNTED:
            finding.fields[name] += rows

    def _unused_add_all(self, block: Block) -> None:
        """The same of a block's rows that are known."""
        counts = {name: int((rows & block.known).sum()) for name, rows in block.unused.items()}
        if not any(counts.values()):
            return

        finding = self.found.setdefault(UNUSED, Finding(UNUSED))
        finding.count += int(
            (functools.reduce(operator.or_, block.unused.values()) & block.known).sum()
        )
        for name, rows in counts.items():
            if rows:
                self._field_add(finding, name, rows)

    def _look(self, line: int, example: Example, is_new: bool, is_asked_first: bool) -> None:
        """is_new: whether no row before said the same. is_asked_first: whether none before had the
        prompt."""
        if not is_new:
            self._add(
                "duplicate",
                line,
                (example.asked or [{"content": example.text or ""}])[-1]["content"],
            )
        elif not is_asked_first and example.label is None and example.answer:
            self._add("other_answer", line, example.asked[-1]["content"])

        if example.label is not None:
            self.labels[example.label] += 1

        self._notice(line, example)
        texts = list(_texts(example))
        whole = "\n".join(texts)
        self._script(whole[:SCRIPT_CHARACTERS])

        # Searches are skipped where a sign that each needs is not there: most rows have none.
        if not whole.isascii() or any(map(whole.lower().__contains__, SIGNS)):
            for text in texts:
                self._text(line, text)

    def _notice(self, line: int, example: Example) -> None:
        """What the row holds besides plain turns, and how it was read."""
        if example.unused:
            self._unused_add(line, example.unused)

        if example.text is not None:
            shown = example.text
            if SPEAKER_BEGINNING.match(shown) and turns_of_text(shown):
                self._add("transcript_text", line, shown)
        else:
            shown = (example.asked or [{"content": ""}])[-1]["content"]

        for kind in example.notes:
            self._add(kind, line, shown)

        if example.calls_tools:
            self._add(TOOL_CALLS, line, shown)

        thoughts, passed_over = [], []
        for turns in (example.messages, example.chosen):
            for turn in turns or ():
                # Most turns have a role and a content alone.
                if len(turn) > 2:
                    thoughts += [turn["reasoning_content"]] if "reasoning_content" in turn else []
                    passed_over += [turn["content"]] if "learned" in turn else []

        if thoughts:
            self._add("reasoning", line, thoughts[0])
        if passed_over:
            self._add("not_learned", line, passed_over[0])

    def _text(self, line: int, text: str) -> None:
        if TEMPLATE.search(text):
            self._add("template_tokens", line, text, TEMPLATE)

        if found_secrets := secrets_in(text):
            first = found_secrets[0]
            self._add("secret", line, masked(text[first.start : first.end]), shown=True)

        if "@" in text and (found := EMAIL.search(text)):
            self._add("email", line, found.group(0))
        if DAMAGED.search(text):
            self._add("damaged", line, text, DAMAGED)
        if MEDIA_MARK.search(text):
            self._add("media_marks", line, text, MEDIA_MARK)
        if LOST in text:
            self._add("lost", line, text, re.compile(LOST))

    def _script(self, text: str) -> None:
        if text.isascii():
            if LETTER.search(text):
                self.scripts["Latin"] += 1

            return

        counts: Counter[str] = Counter()
        for found in SCRIPT.finditer(text):
            counts[str(found.lastgroup)] += len(found.group(0))

        if counts:
            self.scripts[counts.most_common(1)[0][0]] += 1

    def _add(
        self,
        kind: str,
        line: int,
        text: str,
        mark: re.Pattern[str] | None = None,
        *,
        shown: bool = False,
    ) -> None:
        """`mark`: what to show the surroundings of, in a text. `shown`: whether the text holds no
        secret any more."""
        finding = self.found.setdefault(kind, Finding(kind))
        finding.count += 1
        finding.line_add(line)

        if len(finding.examples) < EXAMPLES_KEPT:
            text = text if shown else concealed(text)
            if mark is not None and (found := mark.search(text)):
                text = _around(text, found)

            finding.examples.append({"line": line, "text": text[:SHOWN_CHARACTERS]})

    def findings(self) -> list[dict[str, Any]]:
        """What was found, the most frequent first."""
        found = list(self.found.values())
        total = sum(self.scripts.values())
        scripts = sorted(self.scripts.items(), key=lambda item: (-item[1], item[0]))
        others = [f"{count:,} {name}" for name, count in scripts if count > total * RARE_SCRIPT]
        if len(others) > 1:
            rest = total - scripts[0][1]
            found.append(Finding("mixed_scripts", rest, [{"line": 0, "text": ", ".join(others)}]))

        if total := sum(self.labels.values()):
            rare = min(self.labels[True], self.labels[False])
            text = f"{self.labels[True]:,} good, {self.labels[False]:,} bad"

            if not rare:
                found.append(Finding("one_label", total, [{"line": 0, "text": text}]))
            elif rare < total * RARE_LABEL:
                found.append(Finding("imbalance", rare, [{"line": 0, "text": text}]))

        order = {kind: place for place, kind in enumerate(TITLES)}
        return [
            finding.as_dict()
            for finding in sorted(found, key=lambda finding: (-finding.count, order[finding.kind]))
        ]


def concealed(text: str) -> str:
    """The text as a page may show it: of secrets and addresses enough to find them again, and no
    more."""
    hidden = secrets_replaced(text, lambda secret, value: masked(value))
    return EMAIL.sub(lambda found: masked(found.group(0)), hidden)


def masked(text: str) -> str:
    return f"{text[:4]}…{text[-2:]}" if len(text) > 10 else f"{text[:1]}…"


def _texts(example: Example) -> Iterator[str]:
    if example.text is not None:
        yield example.text

    for turns in (example.messages, example.chosen, example.rejected):
        for turn in turns or ():
            yield turn["content"]
            if "reasoning_content" in turn:
                yield turn["reasoning_content"]


def _around(text: str, found: re.Match[str]) -> str:
    start = max(0, found.start() - 30)
    return f"{'…' if start else ''}{text[start : found.end() + 30]}"
