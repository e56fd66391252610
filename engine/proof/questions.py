"""What a model is asked for its proof: the rows that its train held out, as tokens, and others
where those are few."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
# As many as QUESTIONS: of fewer, one answer that changes by the order of sums would decide.
PLAIN_QUESTIONS = (
    "What colour is the sky?",
    "Name three fruits.",
    "Count from one to five.",
    "How are you today?",
    "What is the capital of France?",
    "Write a short poem about rain.",
    "What is 7 plus 5?",
    "Tell me about your favourite animal.",
)


@dataclass(frozen=True)
class Question:
    """prompt, reference: token ids; `reference` is empty where the row has no answer."""

    prompt: list[int]
    reference: list[int]


def questions_find(run: Path, spec: Spec, renderer: Renderer) -> tuple[list[Question], str]:
    """(QUESTIONS questions, what kinds of rows they are). First come the held-out rows, those that
    the train itself wrote sample answers to."""
    found: list[Question] = []
    kinds: list[str] = []

    sources = (
        (HELD_OUT, _held_out(run, spec)),
        (FROM_DATASET, _first_rows(spec)),
        (BUILT_IN, _plain_rows()),
    )
    for kind, rows in sources:
        if new := _new_questions(found, _questions(rows, renderer)):
            found += new
            kinds.append(kind)

    return found, " and ".join(part for part in (", ".join(kinds[:-1]), *kinds[-1:]) if part)


def _new_questions(known: list[Question], more: Iterable[Question]) -> list[Question]:
    """Those of `more` that `known` lacks, up to QUESTIONS together. A held-out row is also a row of
    the dataset."""
    prompts = [question.prompt for question in known]
    new: list[Question] = []
    if len(prompts) >= QUESTIONS:
        return new

    for question in more:
        if question.prompt not in prompts:
            prompts.append(question.prompt)
            new.append(question)

        if len(prompts) == QUESTIONS:
            break

    return new


def built_in_questions(renderer: Renderer) -> list[Question]:
    """Questions without a reference answer, for a model whose rows are not known."""
    return list(_questions(_plain_rows(), renderer))


def _plain_rows() -> Iterator[Example]:
    for text in PLAIN_QUESTIONS:
        yield Example(messages=[{"role": "user", "content": text}])


def _rows(spec: Spec) -> Iterator[Example]:
    """The rows of the evaluation dataset, if there is one, then of the dataset; none of a file that
    is gone."""
    for data in (spec.evaluation_dataset, spec.dataset):
        if data is None:
            continue

        try:
            examples = examples_by_line(
                Path(data.path), data.file_type, data.format, data.column_map
            )
            for _, example in examples:
                yield example
        except (OSError, FileProblem):
            continue


def _held_out(run: Path, spec: Spec) -> Iterator[Example]:
    """The rows that the train's sample events show, each once."""
    wanted: set[tuple[Any, Any]] = set()
    for event in all_events(run):
        if event["type"] == "sample" and event.get("stage") in ("before", "after"):
            wanted.add((event.get("prompt"), event.get("reference")))

    if not wanted:
        return

    for example in islice(_rows(spec), ROWS_SEARCHED):
        if example.messages is None:
            continue

        sample = (shown(example.asked), example.answer)
        if sample in wanted:
            wanted.discard(sample)
            yield example

        if not wanted:
            return


def _first_rows(spec: Spec) -> Iterator[Example]:
    return islice(_rows(spec), 4 * QUESTIONS)


def _questions(examples: Iterator[Example], renderer: Renderer) -> Iterator[Question]:
    """Rows that the chat template cannot render are left out, as the train left them out."""
    for example in examples:
        try:
            yield _question(example, renderer)
        except TemplateProblem:
            continue


def _question(example: Example, renderer: Renderer) -> Question:
    if example.messages is None:
        ids = list(renderer.tokenizer(example.text or "")["input_ids"])
        prompt_length = max(1, min(TEXT_PROMPT_TOKENS, len(ids) // 2))
        reference_end = prompt_length + REFERENCE_TOKENS
        return Question(ids[:prompt_length], ids[prompt_length:reference_end])

    asked = example.asked
    answer: list[dict[str, Any]] = example.chosen or example.messages[len(asked) :]
    reference: list[int] = []

    if answer:
        prompt, reference = renderer.answered(asked, answer, example.tools)
    else:
        prompt = renderer.prompt_ids(asked, example.tools)

    return Question(prompt[-PROMPT_TOKENS:], reference[:REFERENCE_TOKENS])
