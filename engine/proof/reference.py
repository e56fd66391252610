"""What the trained model answered, kept in a file: exports are proved by it when the train's own
directory is gone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from engine.chat.render import Renderer, tokenizer_load
from engine.loading.architecture import Refused
from engine.loading.end_tokens import ends_of
from engine.loading.pretrained import pretrained_load
from engine.proof.evidence import Evidence, evidence_collect, is_scorer, log_probs_collect
from engine.proof.questions import BUILT_IN, Question, built_in_questions
from engine.publish.older import json_write

VERSION = 1


@dataclass(frozen=True)
class Reference:
    """questions: what was asked, as tokens. kind: of the questions, for people. stops: tokens at
    which an answer ends. trained: what the model answered in fp32. system_prompt: the train's, ""
    for none."""

    questions: list[Question]
    kind: str
    stops: set[int]
    trained: Evidence
    system_prompt: str = ""

    @property
    def scores(self) -> bool:
        """Whether the model scores texts and writes none."""
        return bool(self.trained.scores)


def reference_write(reference: Reference, file: Path) -> None:
    """Write `file`, whole or not at all."""
    unfinished = file.with_name(f"{file.name}.tmp")
    json_write(
        unfinished,
        {
            "version": VERSION,
            "questions": [asdict(question) for question in reference.questions],
            "kind": reference.kind,
            "stops": sorted(reference.stops),
            "trained": asdict(reference.trained),
            "system_prompt": reference.system_prompt,
        },
    )
    unfinished.replace(file)


def reference_read(file: Path) -> Reference:
    """Raises Refused for a file that is none of reference_write."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        if stored["version"] != VERSION:
            raise ValueError(f"its version is {stored['version']}")

        return Reference(
            questions=[Question(**question) for question in stored["questions"]],
            kind=stored["kind"],
            stops=set(stored["stops"]),
            trained=Evidence(**stored["trained"]),
            system_prompt=stored["system_prompt"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(
            f"The answers to compare with ({file.name}) cannot be read: {error}"
        ) from error


def reference_make(folder: Path) -> Reference:
    """The reference of a model that was not trained here: what it answers itself to questions of
    ours. Its own answers are the reference answers.

    Raises TrainError and ModelProblem where the folder cannot be read."""
    scores = is_scorer(folder)
    tokenizer = tokenizer_load(folder)
    renderer = Renderer(tokenizer, warn=lambda code, message: None)
    questions = built_in_questions(renderer)
    stops = set() if scores else ends_of(folder)

    model = pretrained_load(folder, scores=scores, dtype=torch.float32)
    trained = evidence_collect(model, questions, stops, scores=scores)
    if scores:
        return Reference(questions, BUILT_IN, stops, trained)

    questions = [
        replace(question, reference=answer)
        for question, answer in zip(questions, trained.answers, strict=True)
    ]
    trained.log_probs = log_probs_collect(model, questions)

    return Reference(questions, BUILT_IN, stops, trained)
