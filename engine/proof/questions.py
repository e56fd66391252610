"""What a model is asked for its proof: the rows that its train held out, as tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from engine.chat.lengths import examples_by_line
from engine.chat.render import Renderer
from engine.chat.template import TemplateProblem
from engine.contract.rundir import Spec, all_events
from engine.rows.examples import Example
from engine.rows.read import FileProblem
from engine.run.samples import TEXT_PROMPT_TOKENS, shown

QUESTIONS = 8
# Rows of the dataset that are looked through for those that were held out.
ROWS_SEARCHED = 200_000
# Longer prompts lose their beginning, longer references their end: the proof is to take seconds.
PROMPT_TOKENS = 512
REFERENCE_TOKENS = 256

HELD_OUT, FROM_DATASET, BUILT_IN = "held-out prompts", "rows of the dataset", "questions of ours"
PLAIN_QUESTIONS = ("What colour is the sky?", "Name three fruits.", "Count from one to five.")


@dataclass(frozen=True)
class Question:
    """prompt, reference: token ids; `reference` is empty where the row has no answer."""

    prompt: list[int]
    reference: list[int]


def questions_find(run: Path, spec: Spec, renderer: Renderer) -> tuple[list[Question], str]:
    """(questions, what kind of rows they are). Held-out rows are those that the train itself showed
    answers to."""
    for kind, found in ((HELD_OUT, _held_out(run, spec)), (FROM_DATASET, _first_rows(spec))):
        if made := list(islice(_questions(found, renderer), QUESTIONS)):
            return made, kind

    plain = [Example(messages=[{"role": "user", "content": text}]) for text in PLAIN_QUESTIONS]
    return list(_questions(iter(plain), renderer)), BUILT_IN


def _rows(spec: Spec) -> Iterator[Example]:
    """Of the dataset that evaluation was made on; nothing where its file is gone."""
    for data in filter(None, (spec.evaluation_dataset, spec.dataset)):
        try:
            for _, example in examples_by_line(
                Path(data.path), data.file_type, data.format, data.column_map
            ):
                yield example
        except (OSError, FileProblem):
            continue


def _held_out(run: Path, spec: Spec) -> Iterator[Example]:
    wanted = {
        (event.get("prompt"), event.get("reference"))
        for event in all_events(run)
        if event["type"] == "sample" and event.get("stage") in ("before", "after")
    }

    if not wanted:
        return

    for example in islice(_rows(spec), ROWS_SEARCHED):
        if example.messages is not None and (shown(example.asked), example.answer) in wanted:
            wanted.discard((shown(example.asked), example.answer))
            yield example

        if not wanted:
            return


def _first_rows(spec: Spec) -> Iterator[Example]:
    return islice(_rows(spec), 4 * QUESTIONS)


def _questions(examples: Iterator[Example], renderer: Renderer) -> Iterator[Question]:
    """Rows that the template cannot write are passed over: the train did so too."""
    for example in examples:
        try:
            yield _question(example, renderer)
        except TemplateProblem:
            continue


def _question(example: Example, renderer: Renderer) -> Question:
    if example.messages is None:
        ids = list(renderer.tokenizer(example.text or "")["input_ids"])
        count = max(1, min(TEXT_PROMPT_TOKENS, len(ids) // 2))
        return Question(ids[:count], ids[count : count + REFERENCE_TOKENS])

    asked = example.asked
    answer: list[dict[str, Any]] = example.chosen or example.messages[len(asked) :]
    if not answer:
        return Question(renderer.prompt_ids(asked, example.tools)[-PROMPT_TOKENS:], [])

    prompt, reference = renderer.answered(asked, answer, example.tools)
    return Question(prompt[-PROMPT_TOKENS:], reference[:REFERENCE_TOKENS])
