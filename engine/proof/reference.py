"""What the trained model answered, kept in a file: exports are proved by it when the train's own
directory is gone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.chat.render import Renderer, tokenizer_load
from engine.loading.architecture import Refused
from engine.loading.end_tokens import ends_of
from engine.merging.folder import PASSPORT
from engine.models.inspect import json_read
from engine.proof.checks import OWN, TRAINED
from engine.proof.evidence import (
    Evidence,
    evidence_collect,
    is_scorer,
    references_fill,
    trained_load,
)
from engine.proof.questions import BUILT_IN, Question, built_in_questions
from engine.publish.older import json_write

VERSION = 1


@dataclass(frozen=True)
class Reference:
    """questions: what was asked, as tokens. kind: of the questions, for people. stops: tokens at
    which an answer ends. trained: what the model answered in fp32. system_prompt: the train's, ""
    for none. is_own: whether `trained` is what the stored model itself answers, since nothing is
    known of what it was made from."""

    questions: list[Question]
    kind: str
    stops: set[int]
    trained: Evidence
    system_prompt: str = ""
    is_own: bool = False

    @property
    def whose(self) -> str:
        """Whose answers they are, for the sentences of checks."""
        return OWN if self.is_own else TRAINED

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
            "is_own": reference.is_own,
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
            is_own=stored.get("is_own", False),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(
            f"The answers to compare with ({file.name}) cannot be read: {error}"
        ) from error


def reference_make(
    folder: Path, base: Path | None = None, adapter: Path | None = None
) -> Reference:
    """The reference of a model that has none: what it answers to questions of ours. Its own answers
    are the reference answers. base, adapter: what `folder` was merged from, where that is known:
    these are asked then, since a merge is rounded.

    Raises TrainError and ModelProblem where the folders cannot be read."""
    scores = is_scorer(folder)
    renderer = Renderer(tokenizer_load(folder), warn=lambda code, message: None)
    questions = built_in_questions(renderer)
    stops = set() if scores else ends_of(folder)

    is_own = base is None or adapter is None
    model = trained_load(base or folder, None if is_own else adapter, folder, scores=scores)
    trained = evidence_collect(model, questions, stops, scores=scores)
    if not scores:
        questions = references_fill(model, questions, trained)

    return Reference(questions, BUILT_IN, stops, trained, _system_prompt(folder), is_own)


def _system_prompt(folder: Path) -> str:
    """Of the train that the model is from, "" where its passport tells of none."""
    file = folder / PASSPORT
    passport = json_read(file) if file.is_file() else {}
    return str(passport.get("system_prompt") or "")
