"""A folder that `ollama create` takes: the model as GGUF, and a Modelfile that says all that Ollama
would otherwise guess."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf import GGUFReader

from engine.chat.render import PLAIN_TEMPLATE, tokenizer_load
from engine.exporting.documents import LICENCES, is_scorer
from engine.exporting.gguf import ADDS_BOS_KEY, gguf_bytes, gguf_file, gguf_write
from engine.exporting.modelfile import MODELFILE, Modelfile, is_writable
from engine.exporting.ollama_template import PLAIN, translate
from engine.exporting.quantization import metadata_value
from engine.exporting.request import Exported, ExportRequest, OnProgress
from engine.loading.architecture import Refused
from engine.loading.end_tokens import ends_of
from engine.models.inspect import json_read
from engine.publish.config import GENERATION
from engine.publish.tokenizer import TEMPLATE

# transformers' names of sampling parameters, and Ollama's.
SAMPLING = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p"}


def ollama_bytes(request: ExportRequest) -> int:
    return gguf_bytes(request)


def ollama_write(request: ExportRequest, out: Path, on_progress: OnProgress) -> Exported:
    if is_scorer(request.model):
        raise Refused("A reward model scores texts and writes none: Ollama has no use for it.")

    # Before the minutes that the weights take: it may be refused.
    translate(_tokenizer(request.model), default_system=_default_system(request))
    exported = gguf_write(request, out, on_progress)
    remark = modelfile_write(request, out)

    return Exported(remark=" ".join(part for part in (exported.remark, remark) if part))


def modelfile_write(request: ExportRequest, out: Path) -> str:
    """Write the Modelfile for the GGUF file in `out`; returns a remark on it for people. Raises
    Refused."""
    tokenizer = _tokenizer(request.model)
    default = _default_system(request)
    translation = translate(tokenizer, default_system=default)
    file = gguf_file(out)

    if translation.template != PLAIN and adds_bos(file):
        translation = translate(tokenizer, bos=tokenizer.bos_token, default_system=default)

    modelfile = Modelfile(
        model=file.name,
        template=translation.template,
        system="" if default or not request.system_prompt.strip() else request.system_prompt,
        stops=stops(request.model, tokenizer),
        parameters=parameters(request.model),
        licence=_licence(request),
    )
    (out / MODELFILE).write_text(modelfile.text(), encoding="utf-8")

    return translation.remark


def _default_system(request: ExportRequest) -> str:
    """The system prompt where it has to stand in the template, since a Modelfile cannot hold it."""
    return "" if is_writable(request.system_prompt) else request.system_prompt


def _tokenizer(model: Path) -> Any:
    """The model's tokenizer, without a chat template where the model has none of its own."""
    tokenizer = tokenizer_load(model)
    if tokenizer.chat_template == PLAIN_TEMPLATE and not (model / TEMPLATE).is_file():
        tokenizer.chat_template = None

    return tokenizer


def adds_bos(file: Path) -> bool:
    """Whether llama.cpp puts the beginning token in front of every text for this GGUF file, which
    always says so."""
    return bool(metadata_value(GGUFReader(file), ADDS_BOS_KEY, False))


def stops(model: Path, tokenizer: Any) -> tuple[str, ...]:
    """The texts of the tokens at which the model's answers end."""
    ids = sorted(ends_of(model))
    texts = [str(tokenizer.decode([number], skip_special_tokens=False)) for number in ids]
    return tuple(text for text in texts if text.strip() and is_writable(text) and "\n" not in text)


def parameters(model: Path) -> dict[str, float]:
    """Ollama's parameters that follow from generation_config.json. Without repeat_penalty Ollama
    would punish repetitions, which transformers does not."""
    config = json_read(model / GENERATION) if (model / GENERATION).is_file() else {}
    found = {"repeat_penalty": float(config.get("repetition_penalty") or 1.0)}

    if config.get("do_sample") is False:
        return found | {"temperature": 0.0}

    for name, ollama_name in SAMPLING.items():
        if isinstance(config.get(name), int | float):
            found[ollama_name] = float(config[name])

    return found


def _licence(request: ExportRequest) -> str:
    for name in LICENCES:
        for folder in (request.model, request.base):
            if folder is not None and name != "NOTICE" and (folder / name).is_file():
                text = (folder / name).read_text(encoding="utf-8", errors="replace")
                return text.replace("\r\n", "\n")

    return ""
