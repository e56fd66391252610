"""Prompts and answers as token ids: what DPO, KTO and reward models are trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.chat.render import Renderer
from engine.chat.template import TemplateProblem
from engine.contract.rundir import DataFile
from engine.data.cache import Rows, Tokenised, tokenised
from engine.data.split import Split, notes_warn, rows_read, sample_examples, split
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
    """Add a pair as prompt_ids, chosen_ids and rejected_ids, truncated at their ends."""
    turns = example.messages or []
    better = renderer.answer_tokens(turns, example.chosen or [], example.tools)
    worse = renderer.answer_tokens(turns, example.rejected or [], example.tools)
    rows.codes |= better.findings | worse.findings

    # The prompt ends where both texts still agree with it; nearly always at its own end.
    start = min(len(better.prompt), len(worse.prompt))
    prompt = better.prompt[:start]
    chosen = better.prompt[start:] + better.answer
    rejected = worse.prompt[start:] + worse.answer

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
    """Add a rated answer as prompt_ids, completion_ids and label; a pair as two of them."""
    turns = example.messages or []
    if example.chosen is not None:
        for answer, label in ((example.chosen, True), (example.rejected or [], False)):
            rated = Example(messages=[*turns, *answer], label=label, tools=example.tools)
            rating_add(rows, rated, renderer, max_tokens)

        return

    tokens = renderer.answer_tokens(example.asked, turns[-1:], example.tools)
    rows.codes |= tokens.findings

    room = max(0, max_tokens - len(tokens.prompt))
    if not room:
        rows.left_out += 1
        return

    length = len(tokens.prompt) + len(tokens.answer)
    rows.cut += length > max_tokens
    rows.add(
        example,
        min(length, max_tokens),
        prompt_ids=tokens.prompt,
        completion_ids=tokens.answer[:room],
        label=example.label,
    )


def read(
    job: Job, data: DataFile, renderer: Renderer, max_tokens: int, add: Any, limit: int | None
) -> Tokenised:
    """The first `limit` rows of a file (None: all), tokenised by `add`."""

    def fill(rows: Rows) -> None:
        for index, row in enumerate(rows_read(job, data)):
            if limit is not None and index >= limit:
                break

            rows.codes = set()
            rows.number = row.number
            try:
                add(rows, row.example, renderer, max_tokens)
            except TemplateProblem as problem:
                rows.notes.refuse(row.line, problem)
            else:
                rows.notes.see(row.line, rows.codes)

        rows.notes.settle()

    return tokenised(job, data, renderer, fill, max_tokens=max_tokens, limit=limit)


def prepare(job: Job, renderer: Renderer, max_tokens: int, add: Any) -> Prepared:
    """Read, tokenise with `add` (pair_add or rating_add) and split. Raises TrainError where nothing
    is left."""
    rows = read(job, job.spec.dataset, renderer, max_tokens, add, job.parameters.max_samples)
    evaluation_rows = None
    if job.spec.evaluation_dataset is not None:
        evaluation_rows = read(job, job.spec.evaluation_dataset, renderer, max_tokens, add, None)

    parts = _split(job, rows, evaluation_rows, max_tokens)
    held_out_rows = evaluation_rows if evaluation_rows is not None else rows
    left_out = rows.left_out + rows.alike + rows.notes.refused
    prepared = Prepared(
        train=rows.dataset(parts.kept),
        evaluation=held_out_rows.by_length(parts.held_out) if parts.held_out else None,
        lengths=[rows.lengths[index] for index in parts.kept],
        counts=RowCounts(len(parts.kept), len(parts.held_out), left_out),
        sample_examples=sample_examples(job, parts, rows.example, held_out_rows.example),
    )

    job.say(
        f"{counted(len(parts.kept), 'row')} to train on, {len(parts.held_out):,} held out, "
        f"{rows.cut:,} cut at {max_tokens:,} tokens, {left_out:,} left out"
    )

    notes_warn(job, rows.notes, evaluation_rows.notes if evaluation_rows is not None else None)
    for code, reason in _reasons(rows, max_tokens).items():
        job.warn(code, reason)

    return prepared


def _split(job: Job, rows: Tokenised, evaluation_rows: Tokenised | None, max_tokens: int) -> Split:
    """Raises TrainError, saying why rows were left out, where none is left."""
    reasons = " ".join(_reasons(rows, max_tokens).values())
    advice = {}
    if rows.alike and not rows.left_out:
        advice = {"advice": "Choose a dataset whose two answers differ in words."}

    return split(
        job,
        rows.numbers,
        len(evaluation_rows) if evaluation_rows is not None else None,
        why_none=f": {reasons}".rstrip(".") if reasons else "",
        **advice,
    )


def _reasons(rows: Tokenised, max_tokens: int) -> dict[str, str]:
    """{code of a warning: why rows are left out, as a sentence}."""
    reasons = {}

    if rows.left_out:
        count = f"{counted(rows.left_out, 'row')} {are(rows.left_out)}"
        reasons["rows_left_out"] = (
            f"{count} left out: at {max_tokens:,} tokens nothing is left to learn."
        )

    if rows.alike:
        count = f"{counted(rows.alike, 'pair')} {are(rows.alike)}"
        reasons["pairs_alike"] = (
            f"{count} left out: to this model's chat template, which trims white space, their "
            "two answers are the same."
        )

    return reasons
