"""What a model answers to the questions of a proof. Everything is computed in fp32, so that two
models differ by their weights alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from engine.loading.batch_generation import answers_generate
from engine.loading.pretrained import adapted_load, pretrained_load
from engine.models.inspect import json_read
from engine.proof.questions import Question
from engine.run.samples import greedy

ANSWER_TOKENS = 48


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
    model.eval()
    evidence = Evidence()

    for question in questions:
        if scores:
            ids = torch.tensor([question.prompt + question.reference])  # (1, tokens)
            evidence.scores.append(float(model(input_ids=ids).logits[0, 0]))
            continue

        answer = _answer(model, question.prompt, stops, answer_tokens)
        evidence.answers.append(answer)
        evidence.ended.append(bool(answer) and answer[-1] in stops)

    if not scores:
        evidence.log_probs = log_probs_collect(model, questions)

    return evidence


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


def _answer(model: Any, prompt: list[int], stops: set[int], tokens: int) -> list[int]:
    with greedy(model):
        (answer,) = answers_generate(
            model,
            [prompt],
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=sorted(stops) or None,
        )

    return answer
