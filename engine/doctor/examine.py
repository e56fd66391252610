"""Examines rows that can be read: duplicates, damage, text that should not be learned; and fields
that are read in another way than they are written, or not used at all.

No training library. One pass beside the check; what is remembered of each row is a hash of eight
bytes. Rows come one by one, or a block of them at once: the findings are the same.
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
# Characters shown on both sides of a match.
SURROUNDINGS = 30
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
LOST_CHARACTER = re.compile(LOST)
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
    """One kind of thing that was noticed in the rows.

    examples: [{"line", "text"}], at most EXAMPLES_KEPT.
    fields: {name: rows}, where it is about several.
    lines: of the first LINES_KEPT rows.
    """

    kind: str
    count: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)
    fields: Counter[str] = field(default_factory=Counter)
    lines: list[int] = field(default_factory=list)

    def line_add(self, line: int) -> None:
        # A row may have the same fault twice.
        is_again = bool(self.lines) and self.lines[-1] == line
        if len(self.lines) < LINES_KEPT and not is_again:
            self.lines.append(line)

    def field_add(self, name: str, rows: int) -> None:
        if name in self.fields or len(self.fields) < FIELDS_COUNTED:
            self.fields[name] += rows

    def as_dict(self) -> dict[str, Any]:
        values = {
            "kind": self.kind,
            "title": TITLES[self.kind],
            "count": self.count,
            "examples": self.examples,
            "lines": self.lines,
        }

        if self.fields:
            shown = _most_first(self.fields)[:FIELDS_SHOWN]
            values["fields"] = [{"name": name, "rows": rows} for name, rows in shown]

        return values


def _most_first(counts: Counter[str]) -> list[tuple[str, int]]:
    """By count, the same count by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


class Doctor:
    """Sees every good row once, in file order."""

    def __init__(self) -> None:
        self.by_kind: dict[str, Finding] = {}
        self.rows = HashSet()
        self.prompts = HashSet()
        self.scripts: Counter[str] = Counter()
        self.labels: Counter[bool] = Counter()

    def see(self, line: int, example: Example) -> None:
        is_new = True
        is_asked_first = True

        if len(self.rows) < ROWS_REMEMBERED:
            is_new = self.rows.add(example_hash(example))
            if is_new and example.messages is not None:
                is_asked_first = self.prompts.add(turns_hash(example.asked))

        self._examine(line, example, is_new=is_new, is_asked_first=is_asked_first)

    def see_block(self, block: Block, others: Mapping[int, Example]) -> None:
        """The rows of a block that are known, and `others` that are good too, by their place in
        it."""
        # Not above: the web server has this module for its titles.
        import numpy as np

        self._unused_add_block(block)

        row_hashes = block.row_hashes.copy()
        prompt_hashes = block.prompt_hashes.copy()
        is_good = block.known.copy()
        is_notable = block.notable.copy()

        for index, example in others.items():
            row_hashes[index] = example_hash(example)
            prompt_hashes[index] = turns_hash(example.asked)
            is_good[index] = True
            is_notable[index] = True

        rows = np.flatnonzero(is_good)
        is_new = np.ones(len(block), bool)
        is_asked_first = np.ones(len(block), bool)

        if len(self.rows) + len(rows) <= ROWS_REMEMBERED:
            is_new[rows] = self.rows.add_all(row_hashes[rows])
            asked = rows[is_new[rows] & block.is_answered]
            is_asked_first[asked] = self.prompts.add_all(prompt_hashes[asked])
        elif len(self.rows) < ROWS_REMEMBERED:
            # Somewhere among these the remembering ends.
            for index in rows.tolist():
                self.see(block.line(index), others.get(index) or block.example(index))

            return

        needs_look = is_good & (is_notable | ~is_new | ~is_asked_first)
        for index in np.flatnonzero(needs_look).tolist():
            example = others.get(index) or block.example(index)
            self._examine(
                block.line(index),
                example,
                is_new=bool(is_new[index]),
                is_asked_first=bool(is_asked_first[index]),
            )

        # All the other rows are of ASCII.
        latin = int((block.has_letter & is_good & ~needs_look).sum())
        if latin:
            self.scripts["Latin"] += latin

    def see_problem(self, line: int, problem: RowProblem) -> None:
        """A bad row; remembered where a repair may make it good."""
        if problem.kind in REPAIRABLE:
            self._add(problem.kind, line, problem.value)

    def see_lists(self, rows: Mapping[str, int]) -> None:
        """The rows in each of a file's lists."""
        if len(rows) <= 1:
            return

        parts = [f"{name}: {count:,} rows" for name, count in list(rows.items())[:FIELDS_SHOWN]]
        examples = [{"line": 0, "text": ", ".join(parts)}]
        total = sum(rows.values())
        self.by_kind[SEVERAL_LISTS] = Finding(SEVERAL_LISTS, total, examples, Counter(rows))

    def _finding(self, kind: str) -> Finding:
        return self.by_kind.setdefault(kind, Finding(kind))

    def _unused_add(self, line: int, fields: Iterable[str]) -> None:
        finding = self._finding(UNUSED)
        finding.count += 1
        for name in fields:
            finding.field_add(name, 1)

    def _unused_add_block(self, block: Block) -> None:
        """The unused fields of a block's rows that are known."""
        counts = {}
        for name, rows in block.unused.items():
            count = int((rows & block.known).sum())
            if count:
                counts[name] = count

        if not counts:
            return

        any_field = functools.reduce(operator.or_, block.unused.values())
        finding = self._finding(UNUSED)
        finding.count += int((any_field & block.known).sum())
        for name, count in counts.items():
            finding.field_add(name, count)

    def _examine(self, line: int, example: Example, *, is_new: bool, is_asked_first: bool) -> None:
        """is_new: whether no row before said the same. is_asked_first: whether none before had the
        prompt."""
        if not is_new:
            asked = example.asked
            text = asked[-1]["content"] if asked else example.text or ""
            self._add("duplicate", line, text)
        elif not is_asked_first and example.label is None and example.answer:
            self._add("other_answer", line, example.asked[-1]["content"])

        if example.label is not None:
            self.labels[example.label] += 1

        self._notices_add(line, example)
        texts = list(_texts(example))
        whole = "\n".join(texts)
        self._script_count(whole[:SCRIPT_CHARACTERS])

        # Searches are skipped where a sign that each needs is not there: most rows have none.
        if not whole.isascii() or any(map(whole.lower().__contains__, SIGNS)):
            for text in texts:
                self._examine_text(line, text)

    def _notices_add(self, line: int, example: Example) -> None:
        """Notices about what the row holds besides plain turns, and about how it was read."""
        if example.unused:
            self._unused_add(line, example.unused)

        if example.text is not None:
            shown = example.text
            if SPEAKER_BEGINNING.match(shown) and turns_of_text(shown):
                self._add("transcript_text", line, shown)
        else:
            asked = example.asked
            shown = asked[-1]["content"] if asked else ""

        for kind in example.notes:
            self._add(kind, line, shown)

        if example.calls_tools:
            self._add(TOOL_CALLS, line, shown)

        thoughts = []
        not_learned = []
        for turns in (example.messages, example.chosen):
            for turn in turns or ():
                # Most turns have a role and a content alone.
                if len(turn) > 2:
                    if "reasoning_content" in turn:
                        thoughts.append(turn["reasoning_content"])
                    if "learned" in turn:
                        not_learned.append(turn["content"])

        if thoughts:
            self._add("reasoning", line, thoughts[0])
        if not_learned:
            self._add("not_learned", line, not_learned[0])

    def _examine_text(self, line: int, text: str) -> None:
        self._add_matching("template_tokens", line, text, TEMPLATE)

        secrets = secrets_in(text)
        if secrets:
            first = secrets[0]
            self._add("secret", line, masked(text[first.start : first.end]), is_masked=True)

        address = EMAIL.search(text) if "@" in text else None
        if address is not None:
            self._add("email", line, address.group(0))

        self._add_matching("damaged", line, text, DAMAGED)
        self._add_matching("media_marks", line, text, MEDIA_MARK)
        self._add_matching("lost", line, text, LOST_CHARACTER)

    def _add_matching(self, kind: str, line: int, text: str, pattern: re.Pattern[str]) -> None:
        if pattern.search(text):
            self._add(kind, line, text, pattern)

    def _script_count(self, text: str) -> None:
        if text.isascii():
            if LETTER.search(text):
                self.scripts["Latin"] += 1

            return

        counts: Counter[str] = Counter()
        for match in SCRIPT.finditer(text):
            counts[str(match.lastgroup)] += len(match.group(0))

        if counts:
            [(script, _)] = counts.most_common(1)
            self.scripts[script] += 1

    def _add(
        self,
        kind: str,
        line: int,
        text: str,
        pattern: re.Pattern[str] | None = None,
        *,
        is_masked: bool = False,
    ) -> None:
        """pattern: what to show the surroundings of, in a text. is_masked: whether the text holds
        no secret any more."""
        finding = self._finding(kind)
        finding.count += 1
        finding.line_add(line)

        if len(finding.examples) >= EXAMPLES_KEPT:
            return

        shown = text if is_masked else concealed(text)
        match = pattern.search(shown) if pattern is not None else None
        if match is not None:
            shown = _around(shown, match)

        finding.examples.append({"line": line, "text": shown[:SHOWN_CHARACTERS]})

    def findings(self) -> list[dict[str, Any]]:
        """All findings, the most frequent first."""
        order = {kind: place for place, kind in enumerate(TITLES)}
        findings = [*self.by_kind.values(), *self._script_findings(), *self._label_findings()]
        findings.sort(key=lambda finding: (-finding.count, order[finding.kind]))

        return [finding.as_dict() for finding in findings]

    def _script_findings(self) -> Iterator[Finding]:
        total = sum(self.scripts.values())
        scripts = _most_first(self.scripts)
        frequent = [f"{count:,} {name}" for name, count in scripts if count > total * RARE_SCRIPT]

        if len(frequent) > 1:
            (_, most), *_ = scripts
            text = ", ".join(frequent)
            yield Finding("mixed_scripts", total - most, [{"line": 0, "text": text}])

    def _label_findings(self) -> Iterator[Finding]:
        good = self.labels[True]
        bad = self.labels[False]
        total = good + bad
        rare = min(good, bad)
        examples = [{"line": 0, "text": f"{good:,} good, {bad:,} bad"}]

        if total and not rare:
            yield Finding("one_label", total, examples)
        elif rare < total * RARE_LABEL:
            yield Finding("imbalance", rare, examples)


def concealed(text: str) -> str:
    """The text as a page may show it: of secrets and addresses enough to find them again, and no
    more."""
    hidden = secrets_replaced(text, lambda secret, value: masked(value))
    return EMAIL.sub(lambda match: masked(match.group(0)), hidden)


def masked(text: str) -> str:
    if len(text) > 10:
        return f"{text[:4]}…{text[-2:]}"

    return f"{text[:1]}…"


def _texts(example: Example) -> Iterator[str]:
    if example.text is not None:
        yield example.text

    for turns in (example.messages, example.chosen, example.rejected):
        for turn in turns or ():
            yield turn["content"]
            if "reasoning_content" in turn:
                yield turn["reasoning_content"]


def _around(text: str, match: re.Match[str]) -> str:
    start = max(0, match.start() - SURROUNDINGS)
    ellipsis = "…" if start else ""
    return f"{ellipsis}{text[start : match.end() + SURROUNDINGS]}"
