"""What a model's chat template does to the rows of a dataset, counted and in words.

Written by the engine while it renders the rows; shown on the dataset's page, in the form and in the
log of a train. The web imports this module: no training library here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.messages.failures import TrainError

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
    NO_PLACE: "In {rows} the thinking is left out: this model's chat template has no place for it. "
    "To learn "
    "it, set Thinking to “In front of the answer”.",
    TAKEN_OUT: "In {rows} the thinking is not learned: this model's chat template takes it out of "
    "answers.",
    ONLY_LAST: "In {rows} the thinking of earlier answers is not learned: this model's chat "
    "template keeps "
    "only that of the last answer.",
    NOTHING_LEARNED: "In {rows} all answers are marked as not to be learned: these rows are left "
    "out.",
    ASKED_OTHERWISE: "In {rows} the answer does not begin the way this model will be asked for it: "
    "its chat template "
    "then begins the answer itself, with <think> or with an empty thought, and these rows begin "
    "otherwise. What is "
    "learned may hardly show in use. Choose a base model that is asked without thinking, or rows "
    "that think as it "
    "does.",
    WORDS_DROPPED: "In {rows} the words of an answer are not all learned: this model's chat "
    "template leaves some "
    "out, such as words beside a tool call.",
    LAST_ANSWER_ALONE: "In {rows} only the last answer is learned: this model's chat template "
    "changes earlier "
    "answers so that they cannot be found.",
    WHOLE_ROW: "In {rows} questions are learned too: this model's chat template changes answers so "
    "that they cannot "
    "be told from the rest.",
}


@dataclass
class RowNotes:
    """rendered: rows that the template wrote. refused: rows that it could not write, with (line,
    why) of the first. findings: {code of WORDS: {"rows": how many, "lines": the first}}."""

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
            found = self.findings.setdefault(code, {"rows": 0, "lines": []})
            found["rows"] += 1

            if len(found["lines"]) < LINES_KEPT:
                found["lines"].append(line)

    def refuse(self, line: int, problem: TrainError) -> None:
        """A row that the template cannot write. Raises `problem` where it is no use to go on."""
        self.refused += 1
        self.slow += problem.code == "template_loops"
        self.first_problem = self.first_problem or problem

        if len(self.refusals) < LINES_KEPT:
            self.refusals.append((line, problem.message.removeprefix(CANNOT_RENDER)))
        if self.slow > SLOW_ROWS or (not self.rendered and self.refused >= HOPELESS_ROWS):
            raise self.first_problem

    def settle(self) -> None:
        """Behind the last row. Raises the first problem where no row could be written."""
        if self.first_problem is not None and not self.rendered:
            raise self.first_problem

    @property
    def left_out(self) -> int:
        """Rows that are not trained on, whatever the token limit."""
        found = self.findings.get(NOTHING_LEARNED, {"rows": 0})
        return self.refused + int(found["rows"])

    def without(self, *codes: str) -> RowNotes:
        """The same without these findings."""
        findings = {code: found for code, found in self.findings.items() if code not in codes}
        return RowNotes(self.rendered, self.refused, self.refusals, findings)

    def messages(self) -> list[tuple[str, str]]:
        """(code, sentence) of all there is to say."""
        total = self.rendered + self.refused
        said = []

        if self.refused:
            line, why = self.refusals[0]
            said.append(
                (
                    REFUSED,
                    f"{_rows(self.refused, total)} left out: this model's chat template cannot "
                    "write "
                    f"{'it' if self.refused == 1 else 'them'}. Line {line:,}: {why}",
                )
            )

        for code, found in self.findings.items():
            if code in WORDS:
                said.append((code, WORDS[code].format(rows=f"{found['rows']:,} of {total:,} rows")))

        return said


def _rows(count: int, total: int) -> str:
    return f"{count:,} of {total:,} rows {'is' if count == 1 else 'are'}"
