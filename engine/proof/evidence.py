"""What a model says to the questions of a proof. Everything is computed in fp32, so that two models
differ by their weights alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from engine.models.inspect import json_read
from engine.proof.questions import Question
from engine.run.samples import greedy

ANSWER_TOKENS = 48
LOAD: dict[str, Any] = {
    "local_files_only": True,
    "trust_remote_code": False,
    "use_safetensors": True,
}


@dataclass
class Evidence:
    """answers: token ids to the end token, one list a question; ended: whether that token came
    within ANSWER_TOKENS.

    log_probs: of each token of the reference answers, natural logarithm. scores: of a model that
    scores texts; it has neither answers nor log-probabilities."""

    answers: list[list[int]] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)
    log_probs: list[list[float]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


def trained_load(base: Path, adapter: Path | None, trained: Path, *, scores: bool) -> Any:
    """The model as it was trained, in fp32: base model with the adapter beside it, or the whole
    model in `trained`."""
    kind: Any = AutoModelForSequenceClassification if scores else AutoModelForCausalLM

    if adapter is None:
        return kind.from_pretrained(trained, dtype=torch.float32, **LOAD)

    options = {"num_labels": 1} if scores else {}
    model = kind.from_pretrained(base, dtype=torch.float32, **LOAD, **options)
    return PeftModel.from_pretrained(model, str(adapter))


def rounded(model: Any, dtype: torch.dtype) -> Any:
    """The trained model merged by peft in fp32 and rounded once: what a right merge cannot be
    better than."""
    merged = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    return merged.to(dtype).float()


def is_scorer(folder: Path) -> bool:
    architectures = json_read(folder / "config.json").get("architectures") or [""]
    return str(architectures[0]).endswith("ForSequenceClassification")


@torch.no_grad()
def evidence_collect(
    model: Any, questions: list[Question], stops: set[int], *, scores: bool
) -> Evidence:
    """`stops`: the tokens at which an answer ends."""
    model.eval()
    found = Evidence()

    for question in questions:
        whole = torch.tensor([question.prompt + question.reference])
        if scores:
            found.scores.append(float(model(input_ids=whole).logits[0, 0]))
            continue

        answer = _answer(model, question.prompt, stops)
        found.answers.append(answer)
        found.ended.append(bool(answer) and answer[-1] in stops)

        if question.reference:
            logits = model(input_ids=whole).logits[0, len(question.prompt) - 1 : -1].float()
            chosen = torch.tensor(question.reference).unsqueeze(1)
            found.log_probs.append(logits.log_softmax(-1).gather(1, chosen)[:, 0].tolist())

    return found


def _answer(model: Any, prompt: list[int], stops: set[int]) -> list[int]:
    ids = torch.tensor([prompt])
    with greedy(model):
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
            eos_token_id=sorted(stops) or None,
        )

    return [int(token) for token in written[0, len(prompt) :].tolist()]
