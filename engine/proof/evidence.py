"""What a model answers to the questions of a proof. Everything is computed in fp32, so that two
models differ by their weights alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from engine.loading.batch_generation import answers_generate
from engine.loading.pretrained import adapted_load, pretrained_load
from engine.models.inspect import json_read
from engine.proof.questions import Question
from engine.run.samples import greedy

ANSWER_TOKENS = 48
# Difference of logits that the order of sums makes.
ALIKE = 1e-3


@dataclass
class Evidence:
    """One entry a question in each list. A model that writes has `answers`, `ended` and
    `log_probs`; one that scores texts has `scores` alone.

    answers: greedy answers as token ids, with the end token. ended: whether that token came within
    ANSWER_TOKENS. log_probs: of each token of the reference answers, natural logarithm; questions
    without a reference are left out."""

    answers: list[list[int]] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)
    log_probs: list[list[float]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


def trained_load(base: Path, adapter: Path | None, trained: Path, *, scores: bool) -> Any:
    """The model as it was trained, in fp32: the base model with the adapter on it, or the whole
    model in `trained`."""
    if adapter is None:
        return pretrained_load(trained, scores=scores, dtype=torch.float32)

    return adapted_load(base, adapter, scores=scores, dtype=torch.float32)


def merge_and_round(model: Any, dtype: torch.dtype) -> Any:
    """The trained model merged by peft in fp32 and rounded once to `dtype`: no right merge can be
    better. In fp32 again, to be computed like the others."""
    merged = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    return merged.to(dtype).float()


def is_scorer(folder: Path) -> bool:
    architectures = json_read(folder / "config.json").get("architectures") or [""]
    return str(architectures[0]).endswith("ForSequenceClassification")


@torch.no_grad()
def evidence_collect(
    model: Any,
    questions: list[Question],
    stops: set[int],
    *,
    scores: bool,
    answer_tokens: int = ANSWER_TOKENS,
) -> Evidence:
    """`stops`: the tokens at which an answer ends. `answer_tokens`: of the longest answer."""
    evidence = figures_collect(model, questions, scores=scores)
    if scores:
        return evidence

    prompts = [question.prompt for question in questions]
    answers = greedy_answers(model, prompts, stops, answer_tokens)
    ended = [bool(answer) and answer[-1] in stops for answer in answers]
    return replace(evidence, answers=answers, ended=ended)


@torch.no_grad()
def figures_collect(model: Any, questions: list[Question], *, scores: bool) -> Evidence:
    """The same without answers, which take the longest."""
    model.eval()
    if scores:
        return Evidence(scores=[_score(model, question) for question in questions])

    return Evidence(log_probs=log_probs_collect(model, questions))


def answers_are_kept(trained: Evidence, stored: Evidence) -> bool:
    """Whether every answer is the trained model's and as many end. Then nothing hangs on how many
    rounding alone would change."""
    return stored.answers == trained.answers and sum(stored.ended) >= sum(trained.ended)


def _score(model: Any, question: Question) -> float:
    ids = torch.tensor([question.prompt + question.reference])  # (1, tokens)
    return float(model(input_ids=ids).logits[0, 0])


def log_probs_collect(model: Any, questions: list[Question]) -> list[list[float]]:
    """Of each token of the reference answers; questions without one are left out."""
    return [predict(model, question).log_probs for question in questions if question.reference]


def references_fill(model: Any, questions: list[Question], trained: Evidence) -> list[Question]:
    """The questions, each with a reference answer: the model's own where the row has none, so that
    probabilities are compared in any case. trained: what the model answered, whose log_probs are
    computed anew."""
    filled = [
        question if question.reference else replace(question, reference=answer)
        for question, answer in zip(questions, trained.answers, strict=True)
    ]
    if filled != questions:
        trained.log_probs = log_probs_collect(model, filled)

    return filled


@dataclass(frozen=True)
class Prediction:
    """first: the token that a greedy answer begins with. log_probs: of each token of the
    reference."""

    first: int
    log_probs: list[float]


@torch.no_grad()
def predict(model: Any, question: Question) -> Prediction:
    """What one pass over a question and its reference says."""
    ids = torch.tensor([question.prompt + question.reference])  # (1, tokens)
    logits = model(input_ids=ids).logits[0]  # (tokens, vocabulary)
    # The logits of a position are about the token behind it.
    predictions = logits[len(question.prompt) - 1 :].float()

    targets = torch.tensor(question.reference, dtype=torch.long)  # (reference tokens,)
    chosen = predictions[: len(targets)].log_softmax(-1).gather(1, targets.unsqueeze(1))
    return Prediction(int(predictions[0].argmax()), chosen[:, 0].tolist())


def greedy_answers(
    model: Any, prompts: list[list[int]], stops: set[int], most: int = ANSWER_TOKENS
) -> list[list[int]]:
    """Of at most `most` tokens each, with the token of `stops` at which they end.

    All are written at once, which takes little longer than one: most of the time goes into reading
    the weights. A model that says something else where its prompt is padded, such as RWKV,
    writes one after the other."""
    answers, first_logits = _generated(model, prompts, stops, most)
    shortest = min(range(len(prompts)), key=lambda index: len(prompts[index]))
    is_padded = any(len(prompt) > len(prompts[shortest]) for prompt in prompts)

    if is_padded:
        _, alone = _generated(model, [prompts[shortest]], stops, 1)
        difference = (first_logits[shortest] - alone[0]).abs().max()
        # Not the other way round: it may be no number.
        if not difference <= ALIKE:
            return [_generated(model, [prompt], stops, most)[0][0] for prompt in prompts]

    return answers


def _generated(
    model: Any, prompts: list[list[int]], stops: set[int], tokens: int
) -> tuple[list[list[int]], torch.Tensor]:
    """(answers, logits of their first token: (prompts, vocabulary))."""
    first = _FirstLogits()
    with greedy(model):
        answers = answers_generate(
            model,
            prompts,
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=sorted(stops) or None,
            logits_processor=LogitsProcessorList([first]),
        )

    assert first.logits is not None
    return [_until_end(answer, stops) for answer in answers], first.logits


class _FirstLogits(LogitsProcessor):
    """Keeps the logits of the first token that is written, and changes none."""

    def __init__(self) -> None:
        self.logits: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.logits is None:
            self.logits = scores.clone()

        return scores


def _until_end(answer: list[int], stops: set[int]) -> list[int]:
    end = next((index for index, token in enumerate(answer) if token in stops), len(answer))
    return answer[: end + 1]
