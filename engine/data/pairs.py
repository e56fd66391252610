"""Prompts with their answers as token ids: what DPO, KTO and reward models are trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.chat.render import Renderer
from engine.chat.template import TemplateProblem
from engine.contract.rundir import DataFile
from engine.data.cache import Rows, Tokenised, tokenised
from engine.data.split import asked, examples_read, notes_warn, split
from engine.messages.plural import are, counted
from engine.rows.examples import Example
from engine.run.job import Job
from engine.run.session import RowCounts


@dataclass(frozen=True)
class Prepared:
    train: Any
    evaluation: Any
    lengths: list[int]
    counts: RowCounts
    sample_examples: list[Example]


def pair_add(rows: Rows, example: Example, renderer: Renderer, max_tokens: int) -> None:
    """A pair as prompt_ids, chosen_ids, rejected_ids, cut at their ends."""
    turns = example.messages or []
    better = renderer.answer_tokens(turns, example.chosen or [], example.tools)
    worse = renderer.answer_tokens(turns, example.rejected or [], example.tools)
    rows.codes |= better.findings | worse.findings

    # The prompt ends where both texts still agree with it; nearly always that is its whole length.
    start = min(len(better.prompt), len(worse.prompt))
    chosen, rejected = better.prompt[start:] + better.answer, worse.prompt[start:] + worse.answer
    prompt = better.prompt[:start]

    if chosen == rejected:
        rows.alike += 1
        return

    longest = start + max(len(chosen), len(rejected))
    room = max(0, max_tokens - start)
    if chosen[:room] == rejected[:room]:
        rows.left_out += 1
        return

    rows.cut += longest > max_tokens
    rows.add(
        example,
        min(longest, max_tokens),
        prompt_ids=prompt,
        chosen_ids=chosen[:room],
        rejected_ids=rejected[:room],
    )


def rating_add(rows: Rows, example: Example, renderer: Renderer, max_tokens: int) -> None:
    """A rated answer as prompt_ids, completion_ids and label; a pair as two of them."""
    if example.chosen is not None:
        turns = example.messages or []
        for answer, label in ((example.chosen, True), (example.rejected or [], False)):
            rated = Example(messages=[*turns, *answer], label=label, tools=example.tools)
            rating_add(rows, rated, renderer, max_tokens)

        return

    found = renderer.answer_tokens(example.asked, (example.messages or [])[-1:], example.tools)
    rows.codes |= found.findings
    room = max(0, max_tokens - len(found.prompt))
    if not room:
        rows.left_out += 1
        return

    length = len(found.prompt) + len(found.answer)
    rows.cut += length > max_tokens
    rows.add(
        example,
        min(length, max_tokens),
        prompt_ids=found.prompt,
        completion_ids=found.answer[:room],
        label=example.label,
    )


def read(
    job: Job, data: DataFile, renderer: Renderer, max_tokens: int, add: Any, limit: int | None
) -> Tokenised:
    def fill(rows: Rows) -> None:
        for number, (line, example) in enumerate(examples_read(job, data)):
            if limit is not None and number >= limit:
                break

            rows.codes = set()
            try:
                add(rows, example, renderer, max_tokens)
            except TemplateProblem as problem:
                rows.notes.refuse(line, problem)
            else:
                rows.notes.see(line, rows.codes)

        rows.notes.settle()

    return tokenised(job, data, renderer, fill, max_tokens=max_tokens, limit=limit)


def prepare(job: Job, renderer: Renderer, max_tokens: int, add: Any) -> Prepared:
    """Read, tokenise with `add` (pair_add or rating_add) and split. Raises TrainError where nothing
    is left."""
    rows = read(job, job.spec.dataset, renderer, max_tokens, add, job.parameters.max_samples)
    evaluation = job.spec.evaluation_dataset
    other = (
        read(job, evaluation, renderer, max_tokens, add, None) if evaluation is not None else None
    )

    reasons = _reasons(rows, max_tokens)
    why = f": {' '.join(reasons)}".rstrip(".") if reasons else ""
    only_alike = rows.alike and not rows.left_out
    advice = {"advice": "Choose a dataset whose two answers differ in words."} if only_alike else {}
    found = split(job, len(rows), len(other) if other is not None else None, why_none=why, **advice)

    measured = other if other is not None else rows
    left_out = rows.left_out + rows.alike + rows.notes.refused
    prepared = Prepared(
        train=rows.dataset(found.kept),
        evaluation=measured.by_length(found.held_out) if found.held_out else None,
        lengths=[rows.lengths[index] for index in found.kept],
        counts=RowCounts(len(found.kept), len(found.held_out), left_out),
        sample_examples=asked(
            job, found, rows.example, other.example if other is not None else None
        ),
    )

    job.say(
        f"{counted(len(found.kept), 'row')} to train on, {len(found.held_out):,} held out, "
        f"{rows.cut:,} cut at "
        f"{max_tokens:,} tokens, {left_out:,} left out"
    )

    notes_warn(job, rows.notes, other.notes if other is not None else None)

    for code, text in zip(
        ("rows_left_out", "pairs_alike"), _reasons(rows, max_tokens, both=True), strict=True
    ):
        if text:
            job.warn(code, text)

    return prepared


def _reasons(rows: Tokenised, max_tokens: int, *, both: bool = False) -> list[str]:
    """Why rows are left out, as sentences; with `both` an empty one for what is not so."""
    lost = alike = ""

    if rows.left_out:
        count = f"{counted(rows.left_out, 'row')} {are(rows.left_out)}"
        lost = f"{count} left out: at {max_tokens:,} tokens nothing is left to learn."

    if rows.alike:
        count = f"{counted(rows.alike, 'pair')} {are(rows.alike)}"
        alike = (
            f"{count} left out: to this model's chat template, which trims white space, their "
            "two answers are the same."
        )

    return [text for text in (lost, alike) if text or both]
