"""Examples as token ids and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy

from engine.chat.render import Renderer, Tokens
from engine.chat.row_notes import NOTHING_LEARNED
from engine.chat.template import TemplateProblem
from engine.contract.rundir import DataFile
from engine.data.cache import Rows, Tokenised, tokenised
from engine.data.split import notes_warn, rows_read, sample_examples, split
from engine.messages.plural import are, counted
from engine.rows.examples import Example
from engine.run.job import Job

IGNORED = -100
# The token that ends an answer is the same in all rows; this many are examined.
TURN_END_ROWS = 16
# From this share of truncated rows on, a model learns answers without their end often enough to warn
# of it.
MANY_CUT = 0.1


@dataclass(frozen=True)
class Prepared:
    """`sample_examples`: the rows whose prompts the model answers before and after the train;
    `turn_ends`: tokens with which answers end."""

    train: Any
    evaluation: Any
    train_rows: int
    eval_rows: int
    left_out_rows: int
    cut_rows: int
    sample_examples: list[Example]
    turn_ends: set[int]


def prepare(job: Job, renderer: Renderer, max_tokens: int) -> Prepared:
    """Read, check, tokenise and split. Raises TrainError where nothing is left to train on."""
    rows = _read(job, job.spec.dataset, renderer, max_tokens, limit=job.parameters.max_samples)
    evaluation_rows = None
    if job.spec.evaluation_dataset is not None:
        evaluation_rows = _read(job, job.spec.evaluation_dataset, renderer, max_tokens)

    parts = split(
        job,
        rows.numbers,
        len(evaluation_rows) if evaluation_rows is not None else None,
        why_none=f": at {max_tokens:,} tokens {counted(rows.left_out, 'row')} would keep nothing "
        "of the answer",
    )

    notes_warn(job, rows.notes, evaluation_rows.notes if evaluation_rows is not None else None)
    _lengths_warn(job, rows, max_tokens)

    held_out_rows = evaluation_rows if evaluation_rows is not None else rows

    return Prepared(
        train=rows.dataset(parts.kept),
        evaluation=held_out_rows.by_length(parts.held_out) if parts.held_out else None,
        train_rows=len(parts.kept),
        eval_rows=len(parts.held_out),
        left_out_rows=rows.left_out + rows.notes.left_out,
        cut_rows=rows.cut,
        sample_examples=sample_examples(job, parts, rows.example, held_out_rows.example),
        turn_ends=rows.turn_ends,
    )


def _read(
    job: Job, data: DataFile, renderer: Renderer, max_tokens: int, limit: int | None = None
) -> Tokenised:
    def fill(rows: Rows) -> None:
        for index, row in enumerate(rows_read(job, data)):
            try:
                tokens = renderer.tokens(row.example)
            except TemplateProblem as problem:
                rows.notes.refuse(row.line, problem)
                continue

            rows.number = row.number
            rows.notes.see(row.line, tokens.findings)
            if NOTHING_LEARNED in tokens.findings:
                continue

            if index < TURN_END_ROWS and (end := renderer.turn_end_id(tokens)) is not None:
                rows.turn_ends.add(end)

            row_add(rows, row.example, tokens, max_tokens)
            if limit is not None and len(rows) >= limit:
                break

        if (call_end := renderer.call_end_id) is not None:
            rows.turn_ends.add(call_end)

        rows.notes.settle()

    return tokenised(job, data, renderer, fill, max_tokens=max_tokens, limit=limit)


def _lengths_warn(job: Job, rows: Tokenised, max_tokens: int) -> None:
    """Warn of what the token limit cuts off."""
    total = len(rows) + rows.left_out

    if rows.left_out:
        job.warn(
            "rows_left_out",
            f"{rows.left_out:,} of {counted(total, 'row')} {are(rows.left_out)} left out: at "
            f"{max_tokens:,} tokens the whole answer is cut. Raise Max tokens to learn from them.",
        )

    if len(rows) and not rows.ended:
        job.warn(
            "no_end_learned",
            f"No answer is learned to its end: at {max_tokens:,} tokens all rows are cut before "
            "it. The model does not learn when to stop. Raise Max tokens.",
        )
    elif rows.cut >= MANY_CUT * total:
        job.warn(
            "rows_cut",
            f"{rows.cut:,} of {counted(total, 'row')} {are(rows.cut)} cut at {max_tokens:,} "
            "tokens, without the end of the answer. Raise Max tokens to learn it.",
        )


def row_add(rows: Rows, example: Example, tokens: Tokens, max_tokens: int) -> None:
    """Add a conversation or a text as input_ids and labels, truncated at its end."""
    learned = tokens.learned[:max_tokens]
    # The first token is predicted from nothing, so it cannot be learned.
    if not any(learned[1:]):
        rows.left_out += 1
        return

    rows.cut += len(tokens.ids) > max_tokens
    rows.ended += example.messages is None or not any(tokens.learned[max_tokens:])

    ids = numpy.asarray(tokens.ids[:max_tokens], dtype=numpy.int32)
    labels = numpy.where(numpy.asarray(learned), ids, IGNORED).astype(numpy.int32)
    rows.add(example, len(ids), input_ids=ids, labels=labels)
