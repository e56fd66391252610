"""Proof of a folder for Ollama: its GGUF file by llama.cpp, on which Ollama stands, and what the
Modelfile says by how Ollama reads it.

Ollama itself is not asked. Where it is installed, `ollama create NAME -f Modelfile` in the folder,
and `ollama show --template NAME`, are the next step: it has to answer with the template that was
compared here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.chat.render import tokenizer_load
from engine.exporting.gguf import gguf_file
from engine.exporting.go_template import GoTemplateProblem, render
from engine.exporting.modelfile import MODELFILE, Modelfile, is_writable, modelfile_read
from engine.exporting.ollama import adds_bos
from engine.exporting.ollama_template import (
    CONVERSATIONS,
    PLAIN,
    conversations_asked,
    difference,
    tokens_of,
)
from engine.loading.architecture import Refused
from engine.proof.checks import Check
from engine.proof.gguf import gguf_prove
from engine.proof.llama_cpp import LlamaQuestions, llama_ask
from engine.proof.request import OnProgress, ProofRequest


def ollama_prove(request: ProofRequest, on_progress: OnProgress) -> list[Check]:
    return gguf_prove(request, on_progress) + modelfile_checks(request)


def modelfile_checks(request: ProofRequest) -> list[Check]:
    name = "Modelfile"
    try:
        modelfile = modelfile_read(request.out / MODELFILE)
        file = gguf_file(request.out)
    except (OSError, ValueError, Refused) as error:
        return [Check(name, False, f"It cannot be read: {error}")]

    if modelfile.model != file.name:
        return [Check(name, False, f"It names {modelfile.model}, and the model is {file.name}.")]

    tokenizer = tokenizer_load(request.model)
    system = request.reference.system_prompt
    return [
        Check(name, True, f"It names {file.name}."),
        _template_check(modelfile, file, tokenizer, system),
        _system_check(modelfile, system),
        _stops_check(modelfile, request.reference.stops, tokenizer),
    ]


def _template_check(modelfile: Modelfile, file: Path, tokenizer: Any, system: str) -> Check:
    name = "Same chat template in Ollama"
    if modelfile.template == PLAIN:
        return Check(name, True, "The model has none: it continues texts.")

    default = "" if is_writable(system) else system
    bos = tokenizer.bos_token if adds_bos(file) else ""

    try:
        problem = difference(tokenizer, modelfile.template, bos=bos, default_system=default)
    except (GoTemplateProblem, Refused) as error:
        return Check(name, False, str(error))

    if problem:
        return Check(name, False, problem)

    wanted = conversations_asked(tokenizer, default)
    texts = [render(modelfile.template, CONVERSATIONS[name]) for name in wanted]
    for asked, text, tokens in zip(wanted, wanted.values(), _tokens(file, texts), strict=True):
        if tokens != tokens_of(tokenizer, text):
            return Check(name, False, f"llama.cpp makes other tokens of {asked}.")

    return Check(name, True, f"{len(wanted)} conversations become the same tokens in llama.cpp.")


def _tokens(file: Path, texts: list[str]) -> list[list[int]]:
    """Of each text, as llama.cpp makes them for Ollama. Raises Refused."""
    questions = LlamaQuestions(
        str(file),
        adapter="",
        texts=[],
        conversations=[],
        prompts=[[0]],
        new_tokens=1,
        references=[[]],
        ends=[],
        requests=texts,
    )
    return llama_ask(questions).requested


def _system_check(modelfile: Modelfile, system: str) -> Check:
    name = "System prompt in Ollama"
    if not system.strip():
        passed = not modelfile.system
        return Check(name, passed, "None." if passed else "It has one, and should have none.")

    if not is_writable(system):
        return Check(name, True, "It stands in the template.")

    passed = modelfile.system == system
    return Check(name, passed, "As it should be." if passed else "It is another one.")


def _stops_check(modelfile: Modelfile, stops: set[int], tokenizer: Any) -> Check:
    name = "End tokens in Ollama"
    wanted = [str(tokenizer.decode([token])) for token in sorted(stops)]
    missing = [text for text in wanted if text not in modelfile.stops and is_writable(text)]

    if missing:
        return Check(name, False, f"It is not told that answers end with {', '.join(missing)}.")

    return Check(name, True, f"Answers end with {', '.join(wanted) or 'none'}.")
