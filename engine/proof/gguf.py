"""The proof of a GGUF file: loaded by llama.cpp, and compared with the model that it was made
from."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from transformers import AutoTokenizer

from engine.exporting.gguf import gguf_file, gguf_write
from engine.exporting.quantization import QUANTIZATIONS
from engine.exporting.request import ExportRequest
from engine.loading.architecture import Refused
from engine.loading.pretrained import pretrained_load
from engine.proof.checks import (
    CONVERSATIONS,
    NO_TEMPLATE,
    Check,
    answers_check,
    conversation_tokens,
    endings_check,
    first_tokens_check,
    probabilities_check,
    probe_text,
)
from engine.proof.evidence import (
    Evidence,
    answers_are_kept,
    evidence_collect,
    predict,
    trained_load,
)
from engine.proof.llama_cpp import FileRefused, LlamaAnswers, LlamaQuestions, llama_ask
from engine.proof.questions import Question
from engine.proof.reference import Reference
from engine.proof.request import OnProgress, ProofRequest
from engine.proof.rounding import model_round

# llama.cpp computes token by token: these keep the proof of a small model within half a minute.
ANSWER_TOKENS = 32
REFERENCE_TOKENS = 24
# One answer of this many may change by the order of llama.cpp's sums, beyond those that rounding
# changes; of fewer, none.
CHANCE = 8
# Mean difference of log-probabilities that another implementation of the same sums makes, such as
# the choice of experts.
OTHER_PROGRAM = 1e-3


def gguf_prove(request: ProofRequest, on_progress: OnProgress) -> list[Check]:
    return _prove(request, gguf_file(request.out), None, on_progress)


def gguf_adapter_prove(request: ProofRequest, on_progress: OnProgress) -> list[Check]:
    """The adapter on a GGUF file of its base model, which is made for the proof. Raises Refused
    where that cannot be made."""
    if request.base is None or request.adapter is None:
        raise Refused("The proof of an adapter needs the adapter and its base model.")

    with tempfile.TemporaryDirectory(dir=request.out.parent) as name:
        base = ExportRequest(request.base, name="base", quantization="f16")
        gguf_write(base, Path(name), lambda share: on_progress(0.2 * share))
        return _prove(request, gguf_file(Path(name)), gguf_file(request.out), on_progress)


def _prove(
    request: ProofRequest, file: Path, adapter: Path | None, on_progress: OnProgress
) -> list[Check]:
    """adapter: a GGUF adapter on `file`, None where `file` is the whole model."""
    tokenizer = AutoTokenizer.from_pretrained(
        request.model, local_files_only=True, trust_remote_code=False
    )
    served = ServedFile(file, adapter, tokenizer)

    def model_of(reader: GGUFReader) -> Any:
        return _rounded_model(request, reader, with_adapter=adapter is not None)

    return file_prove(served, request.reference, model_of, on_progress)


@dataclass(frozen=True)
class ServedFile:
    """adapter: a GGUF adapter on `file`, None where `file` is the whole model. tokenizer: the
    trained model's. answer_tokens, reference_tokens: the longest answers and reference answers that
    are compared."""

    file: Path
    adapter: Path | None
    tokenizer: Any
    answer_tokens: int = ANSWER_TOKENS
    reference_tokens: int = REFERENCE_TOKENS


def file_prove(
    served: ServedFile,
    reference: Reference,
    model_of: Callable[[GGUFReader], Any],
    on_progress: OnProgress,
) -> list[Check]:
    """llama.cpp's answers against what the trained model answered. model_of: makes the model in
    transformers, rounded as the file is. Raises Refused where nothing can be compared."""
    reference = _shortened(reference, served)
    if reference.scores:
        raise Refused("A reward model scores texts and writes none: a GGUF file cannot be it.")

    tokenizer = served.tokenizer
    on_progress(0.25)

    try:
        found = llama_ask(_llama_questions(reference, served))
    except FileRefused as error:
        return [Check("Loads in llama.cpp", False, f"llama.cpp refuses it: {error}")]

    on_progress(0.6)
    reader = GGUFReader(served.file)
    checks = [
        _loading_check(reader, served.adapter),
        _tokens_check(found, tokenizer),
        _template_check(found, tokenizer),
        _ends_check(found, reference, tokenizer),
    ]

    model = model_of(reader)
    on_progress(0.8)
    checks += _answers_checks(found, reference, model, served, is_plain=_is_plain(reader))
    on_progress(1.0)

    return checks


def _shortened(reference: Reference, served: ServedFile) -> Reference:
    """The same, with answers and reference answers of few enough tokens."""
    trained = reference.trained
    longest = served.reference_tokens
    return replace(
        reference,
        questions=[
            Question(question.prompt, question.reference[:longest])
            for question in reference.questions
        ],
        trained=replace(
            _cut(trained, served.answer_tokens),
            log_probs=[row[:longest] for row in trained.log_probs],
        ),
    )


def _cut(evidence: Evidence, tokens: int) -> Evidence:
    """With answers of `tokens` at most, which have not ended where that cuts them."""
    return replace(
        evidence,
        answers=[answer[:tokens] for answer in evidence.answers],
        ended=[
            ended and len(answer) <= tokens
            for answer, ended in zip(evidence.answers, evidence.ended, strict=True)
        ],
    )


def _llama_questions(reference: Reference, served: ServedFile) -> LlamaQuestions:
    return LlamaQuestions(
        file=str(served.file),
        adapter=str(served.adapter or ""),
        texts=[probe_text(served.tokenizer)],
        conversations=list(CONVERSATIONS) if served.tokenizer.chat_template else [],
        prompts=[question.prompt for question in reference.questions],
        new_tokens=served.answer_tokens,
        references=[question.reference for question in reference.questions],
        ends=sorted(reference.stops),
    )


def _loading_check(reader: GGUFReader, adapter: Path | None) -> Check:
    counts = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    types = ", ".join(f"{count:,} in {kind}" for kind, count in counts.most_common())
    detail = f"{len(reader.tensors):,} tensors: {types}."
    if adapter is not None:
        detail = f"On a file of its base model with {detail}"

    return Check("Loads in llama.cpp", True, detail)


def _tokens_check(found: LlamaAnswers, tokenizer: Any) -> Check:
    name = "Same tokens"
    wanted = list(tokenizer(probe_text(tokenizer), add_special_tokens=False)["input_ids"])
    (stored,) = found.tokens
    if stored == wanted:
        return Check(name, True, f"A text of many scripts gives the same {len(wanted):,} tokens.")

    places = zip(stored, wanted, strict=False)
    equal = next((i for i, (one, other) in enumerate(places) if one != other), len(wanted))
    text = tokenizer.decode(wanted[equal : equal + 8])
    return Check(
        name,
        False,
        "llama.cpp turns a text into other tokens than the model's tokenizer does, from "
        f"“{text}” on.",
    )


def _template_check(found: LlamaAnswers, tokenizer: Any) -> Check:
    name = "Same chat template"
    if not tokenizer.chat_template:
        return Check(name, True, NO_TEMPLATE)

    for conversation, stored in zip(CONVERSATIONS, found.rendered, strict=True):
        if isinstance(stored, str):
            return Check(name, False, f"llama.cpp cannot render the chat template: {stored}")

        if stored != conversation_tokens(tokenizer, *conversation):
            return Check(
                name,
                False,
                "llama.cpp writes a conversation otherwise than in training: "
                f"“{_end(tokenizer.decode(stored))}”.",
            )

    return Check(name, True, "A conversation becomes the same tokens as before.")


def _end(text: str) -> str:
    return text if len(text) <= 120 else f"…{text[-120:]}"


def _ends_check(found: LlamaAnswers, reference: Reference, tokenizer: Any) -> Check:
    name = "End tokens"
    missing = sorted(reference.stops - set(found.ends))
    if missing:
        tokens = ", ".join(tokenizer.convert_ids_to_tokens(missing))
        return Check(name, False, f"llama.cpp does not end an answer at {tokens}: it would run on.")

    tokens = ", ".join(tokenizer.convert_ids_to_tokens(sorted(reference.stops))) or "none"
    return Check(name, True, f"Answers end with {tokens}, as before.")


def _is_plain(reader: GGUFReader) -> bool:
    """Whether every weight is a number of its own, so that answers can be compared whole."""
    plain = {"F32", *(known.title for known in QUANTIZATIONS.values() if known.is_plain)}
    return all(tensor.tensor_type.name in plain for tensor in reader.tensors)


def _rounded_model(request: ProofRequest, reader: GGUFReader, *, with_adapter: bool) -> Any:
    if with_adapter:
        assert request.base is not None
        model = trained_load(request.base, request.adapter, request.model, scores=False)
    else:
        model = pretrained_load(request.model, dtype=torch.float32)

    model.eval()
    model_round(model, reader)
    return model


def _answers_checks(
    found: LlamaAnswers, reference: Reference, model: Any, served: ServedFile, *, is_plain: bool
) -> list[Check]:
    """model: rounded as the file is."""
    trained = reference.trained
    stored = Evidence(found.answers, found.ended)
    predictions = [predict(model, question) for question in reference.questions]
    rounded = _rounded_evidence(stored, reference, model, served, is_plain)
    kind, whose = reference.kind, reference.whose
    by_chance = len(trained.answers) // CHANCE

    if is_plain:
        same = answers_check(trained, rounded, stored, kind, whose=whose, by_chance=by_chance)
    else:
        firsts = [prediction.first for prediction in predictions]
        same = first_tokens_check(trained, firsts, stored, kind, whose=whose, by_chance=by_chance)

    ends = endings_check(trained, rounded, stored, whose=whose, by_chance=by_chance)
    checks = [same, ends]
    if trained.log_probs:
        known = found.log_probs
        rounded_log_probs = [each.log_probs for each in predictions if each.log_probs]
        checks.append(
            probabilities_check(
                Evidence(log_probs=_at_known_places(trained.log_probs, known)),
                Evidence(log_probs=_at_known_places(rounded_log_probs, known)),
                Evidence(log_probs=_at_known_places(known, known)),
                allowed=OTHER_PROGRAM,
            )
        )

    return checks


def _at_known_places(
    rows: Sequence[Sequence[float | None]], known: list[list[float | None]]
) -> list[list[float]]:
    """The log-probabilities of `rows` at the places of which llama.cpp tells: those `known`."""
    known_values: list[list[float]] = []
    for row, known_row in zip(rows, known, strict=True):
        places = zip(row, known_row, strict=True)
        known_values.append([value for value, at in places if value is not None and at is not None])

    return known_values


def _rounded_evidence(
    stored: Evidence,
    reference: Reference,
    model: Any,
    served: ServedFile,
    is_plain: bool,
) -> Evidence:
    """What the rounded model answers. It writes answers of its own only where the file's differ
    from the trained model's: they take the longest."""
    trained = reference.trained
    # Of fewer bits the first tokens alone are compared.
    known = stored if is_plain else replace(stored, answers=trained.answers)
    if answers_are_kept(trained, known):
        return trained

    asked = [Question(question.prompt, []) for question in reference.questions]
    return evidence_collect(
        model, asked, reference.stops, scores=False, answer_tokens=served.answer_tokens
    )
