"""What the proof of an export is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.proof.checks import Check
from engine.proof.reference import Reference

OnProgress = Callable[[float], None]


@dataclass(frozen=True)
class ProofRequest:
    """out: the folder of the export. model: the folder that it was made from, which transformers
    loads. reference: what the trained model answers. adapter, base: the folders of the adapter and
    of the model below it, None where there is none."""

    out: Path
    model: Path
    reference: Reference
    adapter: Path | None = None
    base: Path | None = None


# The checks of one format, each with a verdict.
# Raises engine.loading.architecture.Refused where the export's own parts cannot be compared.
Prover = Callable[[ProofRequest, OnProgress], list[Check]]
