"""Proof that an export still is the model that it was made from.

    python -m engine.proof.exported FORMAT OUT --reference FILE --model MODEL
    python -m engine.proof.exported gguf-adapter OUT --reference FILE --model MODEL \\
        --base DIR --adapter DIR

Loads what was written with the library that its users would use, and compares with what FILE says
that the trained model answers. Where FILE is not there, the base model with the adapter is asked,
or MODEL itself where these are not given, and FILE is written for the next proof. With
--system-file, that file has the system prompt that the export is to have, in place of the one in
FILE. Prints JSON lines: {"progress": 0..1} as it goes, and last {"done": {"passed", "checks":
[{"name", "passed", "detail"}]}} or {"error": "what is wrong, in words for people"}. Exit code 4:
the proof failed."""

from __future__ import annotations

import argparse
import pkgutil
import sys
from dataclasses import replace
from pathlib import Path

from engine.proof.checks import Check
from engine.proof.reference import Reference, reference_make, reference_read, reference_write
from engine.proof.report import checks_run, progress_say
from engine.proof.request import OnProgress, ProofRequest, Prover

# Names of functions, imported when they are used: each loads the library of its format.
PROVERS = {
    "safetensors": "engine.proof.folders:safetensors_prove",
    "adapter": "engine.proof.folders:adapter_prove",
    "gguf": "engine.proof.gguf:gguf_prove",
    "gguf-adapter": "engine.proof.gguf:gguf_adapter_prove",
    "ollama": "engine.proof.ollama:ollama_prove",
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m engine.proof.exported", description=__doc__.splitlines()[0]
    )
    parser.add_argument("format", choices=list(PROVERS))
    parser.add_argument("out", type=Path, help="the folder of the export")
    parser.add_argument("--reference", type=Path, required=True, metavar="FILE")
    parser.add_argument("--model", type=Path, required=True, metavar="MODEL")
    parser.add_argument("--adapter", type=Path, metavar="DIR")
    parser.add_argument("--base", type=Path, metavar="DIR")
    parser.add_argument("--system-file", type=Path, metavar="FILE", help="the system prompt")
    options = parser.parse_args(arguments)

    def checks() -> list[Check]:
        reference = _reference(options)
        request = ProofRequest(options.out, options.model, reference, options.adapter, options.base)
        return exported_prove(options.format, request, progress_say)

    return checks_run(checks)


def _reference(options: argparse.Namespace) -> Reference:
    reference = _reference_found(options)
    if options.system_file is None:
        return reference

    return replace(reference, system_prompt=options.system_file.read_text(encoding="utf-8"))


def _reference_found(options: argparse.Namespace) -> Reference:
    """Of the file; made anew where there is none, or one of the rounded model and now its parts are
    given."""
    file, parts = options.reference, (options.base, options.adapter)
    if file.exists():
        reference = reference_read(file)
        if not reference.is_own or None in parts:
            return reference

    reference = reference_make(options.model, *parts)
    file.parent.mkdir(parents=True, exist_ok=True)
    reference_write(reference, file)
    return reference


def exported_prove(form: str, request: ProofRequest, on_progress: OnProgress) -> list[Check]:
    """form: a key of engine.exporting.formats.FORMATS."""
    prover: Prover = pkgutil.resolve_name(PROVERS[form])
    return prover(request, on_progress)


if __name__ == "__main__":
    sys.exit(main())
