"""Proof of the formats of transformers and peft, by these libraries as their users call them."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engine.chat.render import tokenizer_load
from engine.loading.pretrained import adapted_load
from engine.models.inspect import ModelProblem, json_read
from engine.proof.checks import (
    Check,
    answers_check,
    endings_check,
    ends_check,
    loading_check,
    probabilities_check,
    scores_check,
    template_check,
    tokens_check,
)
from engine.proof.evidence import (
    Evidence,
    answers_are_kept,
    evidence_collect,
    figures_collect,
    trained_load,
)
from engine.proof.reference import Reference
from engine.proof.request import OnProgress, ProofRequest
from engine.publish.config import GENERATION

# What peft warns of where the file lacks a weight: it starts that one anew, at random.
LACKS = "missing adapter keys"


def safetensors_prove(request: ProofRequest, on_progress: OnProgress) -> list[Check]:
    """The export against the model that it was made from: its weights are rounded alike."""
    reference = request.reference
    loads = loading_check(request.out, reference.questions, scores=reference.scores)
    checks = [loads, *_files_checks(request)]
    on_progress(0.2)

    if not loads.passed:
        return checks

    # One model in memory at a time.
    stored = _evidence(request.out, reference)
    on_progress(0.6)
    rounded = _rounded_evidence(request.model, reference, stored)
    on_progress(1.0)

    return checks + answers_checks(reference, rounded, stored)


def _rounded_evidence(folder: Path, reference: Reference, stored: Evidence) -> Evidence:
    """What the model in `folder` answers; of answers that are kept its figures alone are new."""
    trained = reference.trained
    if not answers_are_kept(trained, stored):
        return _evidence(folder, reference)

    model = trained_load(folder, None, folder, scores=reference.scores)
    figures = figures_collect(model, reference.questions, scores=reference.scores)
    return replace(figures, answers=trained.answers, ended=trained.ended)


def adapter_prove(request: ProofRequest, on_progress: OnProgress) -> list[Check]:
    """The adapter on its base model against what was trained: nothing of it is rounded."""
    assert request.base is not None
    reference = request.reference
    loads, model = _adapter_loading(request.out, request.base, reference)
    checks = [loads, _base_check(request.out), *_files_checks(request)]
    on_progress(0.4)

    if model is None:
        return checks

    stored = _collect(model, reference)
    on_progress(1.0)

    return checks + answers_checks(reference, reference.trained, stored)


def _files_checks(request: ProofRequest) -> list[Check]:
    """What stands beside the weights."""
    tokenizer = tokenizer_load(request.model)
    checks = [tokens_check(tokenizer, request.out), template_check(tokenizer, request.out)]

    if request.reference.scores:
        return checks
    if not (request.out / GENERATION).is_file():
        return [*checks, Check("End tokens", False, f"{GENERATION} is missing.")]

    return [*checks, ends_check(request.reference.stops, request.out, tokenizer)]


def answers_checks(reference: Reference, rounded: Evidence, stored: Evidence) -> list[Check]:
    """What `stored` answers, beside the reference and what rounding alone makes of that."""
    trained = reference.trained
    if reference.scores:
        return [scores_check(trained, rounded, stored)]

    checks = [
        answers_check(trained, rounded, stored, reference.kind, whose=reference.whose),
        endings_check(trained, rounded, stored, whose=reference.whose),
    ]
    if trained.log_probs:
        checks.append(probabilities_check(trained, rounded, stored))

    return checks


def _evidence(folder: Path, reference: Reference) -> Evidence:
    return _collect(trained_load(folder, None, folder, scores=reference.scores), reference)


def _collect(model: Any, reference: Reference) -> Evidence:
    return evidence_collect(model, reference.questions, reference.stops, scores=reference.scores)


def _adapter_loading(out: Path, base: Path, reference: Reference) -> tuple[Check, Any]:
    """(verdict, the base model in fp32 with the adapter of `out`, None where peft refuses it)."""
    name = "Loads in peft"
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = adapted_load(base, out, scores=reference.scores, dtype=torch.float32)
    except Exception as error:
        return Check(name, False, f"peft refuses it: {' '.join(str(error).split())[:300]}"), None

    if any(LACKS in str(warning.message) for warning in caught):
        return Check(name, False, "The file lacks weights of the adapter."), model

    count = sum(1 for weight in model.state_dict() if ".lora_" in weight)
    return Check(name, True, f"{count:,} weights of the adapter, none missing."), model


def _base_check(out: Path) -> Check:
    """Whether the adapter names its base model in a way that is of use elsewhere."""
    name = "Names its base model"
    try:
        base = str(json_read(out / "adapter_config.json").get("base_model_name_or_path") or "")
    except ModelProblem as problem:
        return Check(name, False, str(problem))

    if not base or Path(base).is_absolute():
        return Check(name, False, "Other programs would not find the base model.")

    # Not by its name: whoever reads this may not know the base model.
    return Check(name, True, "Other programs find it.")
