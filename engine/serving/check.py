"""Whether llama.cpp answers as the model that was trained does.

    python -m engine.serving.check GGUF --base FOLDER
    python -m engine.serving.check GGUF --base FOLDER --adapter PEFT_FOLDER --gguf-adapter FILE

Holds llama.cpp's greedy answers to a few questions, its tokens, chat template and end tokens against
those of transformers and peft in fp32. Prints JSON lines: {"progress": 0..1} as it goes, and last
{"done": {"passed", "checks": [{"name", "passed", "detail"}]}} or {"error": "what is wrong, in words
for people"}. Exit code 4: they differ."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader

from engine.chat.render import Renderer, tokenizer_load
from engine.loading.architecture import Refused
from engine.loading.end_tokens import ends_of
from engine.loading.pretrained import adapted_load, pretrained_load
from engine.proof.checks import Check
from engine.proof.evidence import evidence_collect, references_fill
from engine.proof.gguf import ServedFile, file_prove
from engine.proof.questions import BUILT_IN, built_in_questions
from engine.proof.reference import Reference
from engine.proof.report import checks_run, progress_say
from engine.proof.request import OnProgress
from engine.proof.rounding import model_round
from engine.serving.folders import generation_folder, tokenizer_folder

# Short, since it runs beside answers.
ANSWER_TOKENS = 16


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m engine.serving.check", description=__doc__.splitlines()[0]
    )
    parser.add_argument("file", type=Path, help="the GGUF file of the base model")
    parser.add_argument("--base", type=Path, required=True, metavar="DIR")
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="as it was trained")
    parser.add_argument("--gguf-adapter", type=Path, metavar="FILE", help="made from it")
    options = parser.parse_args(arguments)

    return checks_run(
        lambda: served_check(
            options.file, options.gguf_adapter, options.base, options.adapter, progress_say
        )
    )


def served_check(
    file: Path,
    file_adapter: Path | None,
    base: Path,
    adapter: Path | None,
    on_progress: OnProgress,
) -> list[Check]:
    """file, file_adapter: what llama.cpp serves. base, adapter: the folders that they were made
    from; both adapters or none. Raises Refused, ModelProblem or TrainError where the folders cannot
    be read."""
    if (file_adapter is None) != (adapter is None):
        raise Refused("An adapter is compared with the folder that it was made from: name both.")

    tokenizer = tokenizer_load(tokenizer_folder(base, adapter), config_folder=base)
    on_progress(0.05)
    model = _model_load(base, adapter)
    reference = _asked(model, tokenizer, ends_of(generation_folder(base, adapter)), adapter)
    on_progress(0.2)

    def rounded(reader: GGUFReader) -> Any:
        model_round(model, reader)
        return model

    served = ServedFile(file, file_adapter, tokenizer, ANSWER_TOKENS, ANSWER_TOKENS)
    return file_prove(served, reference, rounded, on_progress)


def _model_load(base: Path, adapter: Path | None) -> Any:
    if adapter is None:
        return pretrained_load(base, dtype=torch.float32).eval()

    return adapted_load(base, adapter, scores=False, dtype=torch.float32).eval()


def _asked(model: Any, tokenizer: Any, stops: set[int], adapter: Path | None) -> Reference:
    """What the trained model answers."""
    renderer = Renderer(tokenizer, warn=lambda code, message: None)
    questions = built_in_questions(renderer)
    trained = evidence_collect(model, questions, stops, scores=False, answer_tokens=ANSWER_TOKENS)
    questions = references_fill(model, questions, trained)
    return Reference(questions, BUILT_IN, stops, trained, is_own=adapter is None)


if __name__ == "__main__":
    sys.exit(main())
