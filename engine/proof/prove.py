"""The proof from top to bottom: what to ask, what three models say to it, and the comparisons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from engine.chat.render import Renderer, tokenizer_load
from engine.contract.rundir import MODEL, read_spec
from engine.merging.folder import ADAPTER, MergeRequest
from engine.proof.checks import (
    Check,
    answers_check,
    endings_check,
    ends_check,
    ends_of,
    loading_check,
    probabilities_check,
    scores_check,
    template_check,
    tokens_check,
)
from engine.proof.evidence import (
    Evidence,
    evidence_collect,
    is_scorer,
    rounded,
    trained_load,
)
from engine.proof.questions import questions_find


def prove(run: Path, folder: Path, step: int, on_progress: Callable[[float], None]) -> list[Check]:
    """Compare the model in `folder` with the train in `run`, or with its checkpoint of that step.

    Raises Refused, SpecError, ModelProblem or TrainError where the train's own parts cannot be
    read."""
    spec = read_spec(run)
    request = MergeRequest(run, step)
    base = Path(spec.base_model_path)
    tokenizer_folder = run / MODEL if (run / MODEL / "tokenizer_config.json").is_file() else base
    tokenizer = tokenizer_load(tokenizer_folder, config_folder=base)
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
    found = _found(folder, questions, stops, scores)
    on_progress(0.5)
    adapter = request.weights if (request.weights / ADAPTER).is_file() else None
    model = trained_load(base, adapter, request.weights, scores=scores)
    trained = evidence_collect(model, questions, stops, scores=scores)
    on_progress(0.75)
    plain = evidence_collect(rounded(model, _stored(folder)), questions, stops, scores=scores)
    on_progress(1.0)

    if scores:
        return [*checks, scores_check(trained, plain, found)]

    checks += [answers_check(trained, plain, found, kind), endings_check(trained, plain, found)]
    if trained.log_probs:
        checks.append(probabilities_check(trained, plain, found))

    return checks


def _stops(run: Path, base: Path, renderer: Renderer) -> set[int]:
    """The tokens at which the trained model's answers end."""
    if (run / MODEL / "generation_config.json").is_file():
        return ends_of(run / MODEL)

    return set(renderer.stop_ids(sorted(ends_of(base))))


def _found(folder: Path, questions: Any, stops: set[int], scores: bool) -> Evidence:
    """What the model in `folder` says, ended by its own end tokens."""
    model = trained_load(folder, None, folder, scores=scores)
    own = stops & ends_of(folder) if not scores else stops
    return evidence_collect(model, questions, own, scores=scores)


def _stored(folder: Path) -> torch.dtype:
    """The number type that config.json names."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    dtype = config.dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32
