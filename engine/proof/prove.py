"""The proof from top to bottom: the questions, what three models answer, and the comparisons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from engine.chat.render import Renderer, tokenizer_load
from engine.contract.rundir import MODEL, read_spec
from engine.loading.end_tokens import ends_of
from engine.merging.folder import MergeRequest
from engine.proof.checks import (
    Check,
    ends_check,
    loading_check,
    template_check,
    tokens_check,
)
from engine.proof.evidence import (
    Evidence,
    answers_are_kept,
    evidence_collect,
    figures_collect,
    is_scorer,
    merge_and_round,
    references_fill,
    trained_load,
)
from engine.proof.folders import answers_checks
from engine.proof.questions import questions_find
from engine.proof.reference import Reference, reference_write


def prove(
    run: Path,
    folder: Path,
    step: int,
    on_progress: Callable[[float], None],
    reference: Path | None = None,
) -> list[Check]:
    """Compare the model in `folder` with the train in `run`, or with its checkpoint of that step.
    What the trained model answers is also written to the file `reference`.

    Raises Refused, SpecError, ModelProblem or TrainError where the train's own parts cannot be
    read."""
    spec = read_spec(run)
    base = Path(spec.base_model_path)
    tokenizer = _tokenizer_load(run, base)
    renderer = Renderer(
        tokenizer,
        system_prompt=spec.system_prompt,
        thinking=spec.parameters.get("thinking", "auto"),
        warn=lambda code, message: None,
    )

    questions, kind = questions_find(run, spec, renderer)
    scores = spec.recipe == "reward"
    on_progress(0.1)

    loads = loading_check(folder, questions, scores=scores)
    checks = [loads, tokens_check(tokenizer, folder), template_check(tokenizer, folder)]
    stops = set() if scores else _stops(run, base, renderer)

    if not scores:
        checks.append(ends_check(stops, folder, tokenizer))

    on_progress(0.3)
    if not loads.passed or is_scorer(folder) != scores:
        return checks

    # One model in memory at a time.
    request = MergeRequest(run, step)
    model = _trained_load(request, base, scores)
    trained = evidence_collect(model, questions, stops, scores=scores)
    if not scores:
        questions = references_fill(model, questions, trained)

    known = Reference(questions, kind, stops, trained, spec.system_prompt)
    if reference is not None:
        reference_write(known, reference)

    on_progress(0.6)
    model = merge_and_round(model, _stored_dtype(folder))
    figures = figures_collect(model, questions, scores=scores)
    on_progress(0.7)

    del model
    stored = _stored_evidence(folder, known)
    on_progress(0.9)

    rounded = replace(figures, answers=trained.answers, ended=trained.ended)
    if not answers_are_kept(trained, stored):
        model = merge_and_round(_trained_load(request, base, scores), _stored_dtype(folder))
        rounded = evidence_collect(model, questions, stops, scores=scores)

    on_progress(1.0)
    return [*checks, *answers_checks(known, rounded, stored)]


def _trained_load(request: MergeRequest, base: Path, scores: bool) -> Any:
    adapter = request.weights if request.is_adapter else None
    return trained_load(base, adapter, request.weights, scores=scores)


def _tokenizer_load(run: Path, base: Path) -> Any:
    """The tokenizer that the train saved; the base model's where the train failed before that."""
    saved = run / MODEL
    folder = saved if (saved / "tokenizer_config.json").is_file() else base
    return tokenizer_load(folder, config_folder=base)


def _stops(run: Path, base: Path, renderer: Renderer) -> set[int]:
    """The tokens at which the trained model's answers end."""
    if (run / MODEL / "generation_config.json").is_file():
        return ends_of(run / MODEL)

    return set(renderer.stop_ids(sorted(ends_of(base))))


def _stored_evidence(folder: Path, known: Reference) -> Evidence:
    """What the model in `folder` answers; of the stops those alone that its own files name."""
    model = trained_load(folder, None, folder, scores=known.scores)
    stops = set() if known.scores else known.stops & ends_of(folder)
    return evidence_collect(model, known.questions, stops, scores=known.scores)


def _stored_dtype(folder: Path) -> torch.dtype:
    """The dtype that config.json names, fp32 where it names none."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    dtype = config.dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32
