"""Notes on what a model's chat template does to the rows of a dataset, counted and in sentences.

Written by the engine while it renders the rows; shown on the dataset's page, in the form and in the
log of a train. The web imports this module: no training library here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.messages.failures import TrainError
from engine.messages.plural import are

LINES_KEPT = 5
# So many rows at the beginning that all fail say that the others will.
HOPELESS_ROWS = 200
# A row that takes too long takes seconds: more than these are not waited for.
SLOW_ROWS = 2

REFUSED = "rows_refused"
# Begins what is said where a template fails; said of single rows it would only repeat.
CANNOT_RENDER = "The base model's chat template cannot render a row: "
NO_PLACE, TAKEN_OUT, ONLY_LAST = "thinking_no_place", "thinking_taken_out", "thinking_only_last"
NOTHING_LEARNED = "nothing_learned"
ASKED_OTHERWISE = "asked_otherwise"
WORDS_DROPPED, LAST_ANSWER_ALONE, WHOLE_ROW = "words_dropped", "last_answer_alone", "whole_row"

# {rows}: "3 of 40 rows".
WORDS = {
    NO_PLACE: (
        "In {rows} the thinking is left out: this model's chat template has no place for it. To "
        "learn it, set Thinking to “In front of the answer”."
    ),
    TAKEN_OUT: "In {rows} the thinking is not learned: this model's chat template takes it out of "
    "answers.",
    ONLY_LAST: (
        "In {rows} the thinking of earlier answers is not learned: this model's chat template "
        "keeps only that of the last answer."
    ),
    NOTHING_LEARNED: "In {rows} all answers are marked as not to be learned: these rows are left "
    "out.",
    ASKED_OTHERWISE: (
        "In {rows} the answer does not begin the way this model will be asked for it: its chat "
        "template then begins the answer itself, with <think> or with an empty thought, and "
        "these rows begin otherwise. What is learned may hardly show in use. Choose a base model "
        "that is asked without thinking, or rows that think as it does."
    ),
    WORDS_DROPPED: (
        "In {rows} the words of an answer are not all learned: this model's chat template leaves "
        "some out, such as words beside a tool call."
    ),
    LAST_ANSWER_ALONE: (
        "In {rows} only the last answer is learned: this model's chat template changes earlier "
        "answers so that they cannot be found."
    ),
    WHOLE_ROW: (
        "In {rows} questions are learned too: this model's chat template changes answers so that "
        "they cannot be told from the rest."
    ),
}


@dataclass
class RowNotes:
    """Counts for one dataset under one chat template.

    rendered: rows that the template wrote.
    refused: rows that it could not write; refusals: (line, why) of the first.
    findings: {code of WORDS: {"rows": how many, "lines": the first}}.
    slow: refused rows that took too long.
    """

    rendered: int = 0
    refused: int = 0
    refusals: list[tuple[int, str]] = field(default_factory=list)
    findings: dict[str, dict[str, Any]] = field(default_factory=dict)
    slow: int = 0
    first_problem: TrainError | None = field(default=None, repr=False, compare=False)

    @classmethod
    def read(cls, values: dict[str, Any]) -> RowNotes:
        """From `as_json`, or from nothing."""
        return cls(
            rendered=values.get("rendered", 0),
            refused=values.get("refused", 0),
            refusals=[(line, why) for line, why in values.get("refusals", [])],
            findings=values.get("findings", {}),
        )

    def as_json(self) -> dict[str, Any]:
        values = asdict(RowNotes(self.rendered, self.refused, self.refusals, self.findings))
        return {name: values[name] for name in ("rendered", "refused", "refusals", "findings")}

    def see(self, line: int, codes: Iterable[str]) -> None:
        """A row that was rendered, and what the template did to it."""
        self.rendered += 1
        for code in codes:
            finding = self.findings.setdefault(code, {"rows": 0, "lines": []})
            finding["rows"] += 1

            if len(finding["lines"]) < LINES_KEPT:
                finding["lines"].append(line)

    def refuse(self, line: int, problem: TrainError) -> None:
        """A row that the template cannot write. Raises the first problem where more rows
        would be useless."""
        self.refused += 1
        if problem.code == "template_loops":
            self.slow += 1
        if self.first_problem is None:
            self.first_problem = problem

        if len(self.refusals) < LINES_KEPT:
            self.refusals.append((line, problem.message.removeprefix(CANNOT_RENDER)))

        is_hopeless = not self.rendered and self.refused >= HOPELESS_ROWS
        if self.slow > SLOW_ROWS or is_hopeless:
            raise self.first_problem

    def settle(self) -> None:
        """Behind the last row. Raises the first problem where no row could be written."""
        if self.first_problem is not None and not self.rendered:
            raise self.first_problem

    @property
    def left_out(self) -> int:
        """Rows that are not trained on, whatever the token limit."""
        finding = self.findings.get(NOTHING_LEARNED, {"rows": 0})
        return self.refused + int(finding["rows"])

    def without(self, *codes: str) -> RowNotes:
        """These notes without some findings."""
        kept = {code: finding for code, finding in self.findings.items() if code not in codes}
        return RowNotes(self.rendered, self.refused, self.refusals, kept)

    def messages(self) -> list[tuple[str, str]]:
        """(code, sentence) of all there is to say."""
        total = self.rendered + self.refused
        messages = []

        if self.refused:
            line, reason = self.refusals[0]
            them = "it" if self.refused == 1 else "them"
            sentence = (
                f"{self.refused:,} of {total:,} rows {are(self.refused)} left out: this model's chat "
                f"template cannot write {them}. Line {line:,}: {reason}"
            )
            messages.append((REFUSED, sentence))

        for code, finding in self.findings.items():
            if code in WORDS:
                rows = f"{finding['rows']:,} of {total:,} rows"
                messages.append((code, WORDS[code].format(rows=rows)))

        return messages
