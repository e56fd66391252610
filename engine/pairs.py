"""Prompts with their answers as token ids: what DPO, KTO and reward models are trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.data import asked, examples_read, split
from engine.examples import Example
from engine.job import Job
from engine.render import Renderer
from engine.rundir import DataFile
from engine.session import RowCounts
from engine.tokenised import Rows, Tokenised, tokenised


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
    prompt, chosen = renderer.answered(turns, example.chosen or [])
    other, rejected = renderer.answered(turns, example.rejected or [])
    # The prompt ends where both texts still agree with it; nearly always that is its whole length.
    start = min(len(prompt), len(other))
    chosen, rejected = prompt[start:] + chosen, other[start:] + rejected
    prompt = prompt[:start]
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
            rating_add(rows, Example(messages=[*turns, *answer], label=label), renderer, max_tokens)
        return
    prompt, completion = renderer.answered(example.asked, (example.messages or [])[-1:])
    room = max(0, max_tokens - len(prompt))
    if not room:
        rows.left_out += 1
        return
    length = len(prompt) + len(completion)
    rows.cut += length > max_tokens
    rows.add(
        example,
        min(length, max_tokens),
        prompt_ids=prompt,
        completion_ids=completion[:room],
        label=example.label,
    )


def read(job: Job, data: DataFile, renderer: Renderer, max_tokens: int, add: Any, limit: int | None) -> Tokenised:
    def fill(rows: Rows) -> None:
        for number, example in enumerate(examples_read(job, data)):
            if limit is not None and number >= limit:
                break
            add(rows, example, renderer, max_tokens)

    return tokenised(job, data, renderer, fill, method=add.__name__, max_tokens=max_tokens, limit=limit)


def prepare(job: Job, renderer: Renderer, max_tokens: int, add: Any) -> Prepared:
    """Read, tokenise with `add` (pair_add or rating_add) and split. Raises TrainError where nothing is left."""
    rows = read(job, job.spec.dataset, renderer, max_tokens, add, job.parameters.max_samples)
    evaluation = job.spec.evaluation_dataset
    other = read(job, evaluation, renderer, max_tokens, add, None) if evaluation is not None else None
    why = f": {rows.left_out:,} lose what they could teach at {max_tokens:,} tokens" if rows.left_out else ""
    found = split(job, len(rows), len(other) if other is not None else None, why_none=why)
    measured = other if other is not None else rows
    prepared = Prepared(
        train=rows.dataset(found.kept),
        evaluation=measured.by_length(found.held_out) if found.held_out else None,
        lengths=[rows.lengths[index] for index in found.kept],
        counts=RowCounts(len(found.kept), len(found.held_out), rows.left_out),
        sample_examples=asked(job, found, rows.example, other.example if other is not None else None),
    )
    job.say(
        f"{len(found.kept):,} rows to train on, {len(found.held_out):,} held out, {rows.cut:,} cut at "
        f"{max_tokens:,} tokens, {rows.left_out:,} left out because nothing to learn from is left of them"
    )
    if rows.left_out:
        job.warn(
            "rows_left_out", f"{rows.left_out:,} rows are left out: at {max_tokens:,} tokens nothing is left to learn."
        )
    return prepared
