"""What a model folder holds, told from its JSON files and safetensors headers alone: no library
that trains is loaded, and nothing of the folder is ever run.

`folder_read` is also the gate: weights must be whole safetensors, and no JSON file may ask for code
of its own."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from engine.models.model_types import CAUSAL_MODEL_TYPES

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
)
TEXT_FILES = ("README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")
KEPT_FILES = ("config.json", "generation_config.json", *TOKENIZER_FILES, *TEXT_FILES)
# Of these one must be there; the others only say how to use them.
VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
)
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
# Quantisations that the import takes apart again.
UNPACKED = ("fp8", "mxfp4")
# Of a folder without weights, for the sake of a better reason.
FILES_LOOKED_AT = 10_000
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack")

JSON_LIMIT_BYTES = 16 * 2**20
# Real ones have some kilobytes, with every expert's quantisation listed some hundred.
CONFIG_LIMIT_BYTES = 2 * 2**20
SMALL_FILES = ("config.json", "generation_config.json", "special_tokens_map.json")
# The largest vocabularies take some thirty megabytes.
FILE_LIMIT_BYTES = 256 * 2**20
MOST_TENSORS = 1_000_000
HEADER_LIMIT_BYTES = 100 * 2**20
SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.safetensors")
CLASS_NAME = re.compile(r"[A-Z][A-Za-z0-9]{1,80}(Tokenizer|TokenizerFast|Backend)")
BYTES_OF = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
}
DTYPE_NAMES = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}


class ModelProblem(ValueError):
    """The folder cannot be a base model; the text says why and what would do, in words for
    people."""


@dataclass(frozen=True)
class ModelFacts:
    """`linear_modules`: names of layers that LoRA can target. `weights`: file names in the order of
    loading."""

    architecture: str
    parameter_count: int
    context_length: int
    dtype: str
    chat_template: str
    licence: str
    size_bytes: int
    linear_modules: list[str]
    weights: tuple[str, ...]


@dataclass
class _Tensors:
    shapes: dict[str, list[int]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


def folder_read(folder: Path) -> ModelFacts:
    """Check the folder and tell its facts. Raises ModelProblem."""
    config = config_read(folder)
    weights = weight_files(folder)
    tensors = _Tensors()

    for name in weights:
        for tensor, dtype, shape in safetensors_read(folder / name):
            tensors.shapes[tensor] = shape
            tensors.counts[dtype] = tensors.counts.get(dtype, 0) + math.prod(shape)

    if not tensors.shapes:
        raise ModelProblem("The safetensors files hold no weights.")
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise ModelProblem("The folder holds no tokenizer (tokenizer.json or tokenizer.model).")

    architectures = config.get("architectures")
    main = max(tensors.counts, key=lambda dtype: tensors.counts[dtype])
    return ModelFacts(
        architecture=str((architectures or [config.get("model_type", "")])[0])[:100],
        parameter_count=sum(tensors.counts.values()),
        context_length=_context_length(config),
        dtype=DTYPE_NAMES.get(main, main.lower()),
        chat_template=chat_template_read(folder),
        licence=licence_read(folder),
        size_bytes=sum((folder / name).stat().st_size for name in kept_files(folder)),
        linear_modules=linear_modules(tensors.shapes),
        weights=tuple(weights),
    )


def config_read(folder: Path, *, may_be_packed: bool = False) -> dict[str, Any]:
    """config.json, once no JSON file of the folder asks for code. Raises ModelProblem.

    `may_be_packed`: weights in a few bits may pass where the import can unpack them
    (engine.loading.unpack)."""
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelProblem(
                "This is a LoRA adapter, not a base model. Add the model that it was trained from."
            )

        if any(folder.glob("*.gguf")):
            raise ModelProblem(
                "This folder holds a GGUF file. Upload that file under “GGUF file” instead."
            )

        raise ModelProblem(
            "The folder has no config.json, so it is no model in the Hugging Face layout."
        )

    config = json_read(folder / "config.json")
    kind = config.get("model_type")
    hooks_refuse(
        "config.json", config, has_own_class=isinstance(kind, str) and kind in CAUSAL_MODEL_TYPES
    )

    for name in ("generation_config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            hooks_refuse(name, json_read(folder / name))

    method = packing(config)
    if method and not (may_be_packed and method in UNPACKED):
        raise ModelProblem(
            f"The weights are quantised ({method}) and cannot be trained. Choose the unquantised "
            "model."
        )

    if not isinstance(kind, str):
        raise ModelProblem("config.json names no model_type.")

    architectures = config.get("architectures")
    if architectures is not None and not (isinstance(architectures, list) and architectures):
        raise ModelProblem("config.json: architectures must be a list of names.")

    return config


def packing(config: dict[str, Any]) -> str:
    """How the weights are quantised, "" for not at all."""
    quantised = config.get("quantization_config")
    return (
        str(quantised.get("quant_method", "some method"))[:30]
        if isinstance(quantised, dict)
        else ""
    )


def json_read(path: Path) -> dict[str, Any]:
    limit = CONFIG_LIMIT_BYTES if path.name in SMALL_FILES else JSON_LIMIT_BYTES
    try:
        if path.stat().st_size > limit:
            raise ModelProblem(
                f"{path.name} is larger than {limit // 2**20} MB, so it is no model's."
            )

        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        if isinstance(error, ModelProblem):
            raise

        raise ModelProblem(f"{path.name} cannot be read as JSON.") from error

    if not isinstance(value, dict):
        raise ModelProblem(f"{path.name} must hold a JSON object.")

    return value


def hooks_refuse(file: str, value: Any, *, has_own_class: bool = False) -> None:
    """Raises ModelProblem where a JSON file would have a library load code that is not its own.

    `has_own_class`: transformers has a class of its own for this model type. Models that were
    published before it had one name their code in auto_map; that code is not needed then, and never
    run (trust_remote_code is off everywhere)."""
    for key, inner in _pairs(value):
        if key == "auto_map" and has_own_class:
            continue

        if key in ("auto_map", "custom_pipelines") and inner:
            raise ModelProblem(
                f"{file} asks to run code of its own ({key}), which is never done here."
            )

        if key == "trust_remote_code" and inner is not False:
            raise ModelProblem(
                f"{file} sets trust_remote_code, so that it could run code of its own."
            )

        if key.startswith("_") and key.endswith("_internal"):
            raise ModelProblem(f"{file} holds {key[:80]}, a switch that loads code from elsewhere.")
        if key.strip("_") == "attn_implementation" and isinstance(inner, str) and "/" in inner:
            raise ModelProblem(f"{file} asks for attention code from elsewhere ({inner[:80]}).")
        if key == "tokenizer_class" and inner is not None and not _known_class(inner):
            raise ModelProblem(f"{file} asks for a tokenizer class of its own ({str(inner)[:80]}).")


def hooks_remove(folder: Path) -> None:
    """Take out of a folder's own config.json what names code that is not needed. For a copy, never
    for an original."""
    path = folder / "config.json"
    if not path.is_file() or "auto_map" not in dict(_pairs(config := json_read(path))):
        return

    stack: list[Any] = [config]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            part.pop("auto_map", None)
            stack.extend(part.values())
        elif isinstance(part, list):
            stack.extend(part)

    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def _known_class(name: Any) -> bool:
    return isinstance(name, str) and CLASS_NAME.fullmatch(name) is not None


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth. A stack, not recursion: depth is the stranger's
    choice."""
    stack = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            yield from part.items()
            stack.extend(part.values())
        elif isinstance(part, list):
            stack.extend(part)


def weight_files(folder: Path) -> list[str]:
    """Names of the safetensors files that would be loaded. Raises ModelProblem where there are none
    or some lack."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]

    if (folder / INDEX).is_file():
        names = json_read(folder / INDEX).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise ModelProblem(f"{INDEX} lists no weights.")

        shards = sorted({str(name) for name in names.values()})
        for name in shards:
            if not SHARD_NAME.fullmatch(name):
                raise ModelProblem(
                    f"{INDEX} names a file that is none of its folder ({name[:80]!r})."
                )

            if not (folder / name).is_file():
                raise ModelProblem(f"The weights are not complete: {name} is missing.")

        return shards

    names = (file.name for file in islice(folder.iterdir(), FILES_LOOKED_AT))
    if pickles := sorted(name for name in names if name.endswith(PICKLES)):
        raise ModelProblem(
            f"The weights are pickle files only ({pickles[0][:80]}), which can run code when they "
            "are opened. "
            "Only safetensors are loaded: choose a version of the model that has them."
        )

    raise ModelProblem("The folder holds no weights (model.safetensors).")


def kept_files(folder: Path) -> list[str]:
    """Names of all files that belong to the model; whatever else lies in the folder is left behind.

    Raises ModelProblem for one that is too large to be what its name says.
    """
    extra = [INDEX] if not (folder / WEIGHTS).is_file() else []
    beside = [name for name in (*KEPT_FILES, *extra) if (folder / name).is_file()]

    for name in beside:
        if (folder / name).stat().st_size > FILE_LIMIT_BYTES:
            raise ModelProblem(
                f"{name} is larger than {FILE_LIMIT_BYTES // 2**20} MB, so it is no model's."
            )

    return beside + [name for name in weight_files(folder) if (folder / name).is_file()]


def safetensors_read(path: Path) -> Iterator[tuple[str, str, list[int]]]:
    """(name, dtype, shape) of each tensor. Raises ModelProblem for a file that is cut off or lies
    about its sizes."""
    damaged = ModelProblem(f"{path.name} is damaged or cut off. Get the file again.")
    size = path.stat().st_size

    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 2 <= length <= min(HEADER_LIMIT_BYTES, size - 8):
            raise damaged

        try:
            header = json.loads(stream.read(length))
        except (ValueError, RecursionError) as error:
            raise damaged from error

    if not isinstance(header, dict):
        raise damaged

    header.pop("__metadata__", None)
    if len(header) > MOST_TENSORS:
        raise damaged

    end = 0
    for name, tensor in header.items():
        dtype, shape, stop = _tensor(tensor, damaged)
        end = max(end, stop)
        yield name, dtype, shape

    if 8 + length + end != size:
        raise damaged


def _tensor(tensor: Any, damaged: ModelProblem) -> tuple[str, list[int], int]:
    """(dtype, shape, end of its bytes), once they agree with each other."""
    try:
        dtype, shape, (start, stop) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (start, stop, *shape))
        if not whole or math.prod(shape) * BYTES_OF[dtype] != stop - start:
            raise damaged
    except (KeyError, TypeError, ValueError) as error:
        raise damaged from error

    return dtype, list(shape), stop


def linear_modules(shapes: dict[str, list[int]]) -> list[str]:
    """Names of the linear layers inside the blocks (q_proj …), in order, and of blocks of experts:
    what LoRA can target."""
    found: dict[str, None] = {}
    for tensor in sorted(shapes, key=_natural):
        parts = tensor.split(".")
        inside = any(part.isdigit() for part in parts)
        is_block = len(parts) > 1 and parts[-2] == "experts" and len(shapes[tensor]) == 3
        if not inside or not (is_block or (parts[-1] == "weight" and len(shapes[tensor]) == 2)):
            continue

        name = parts[-1] if is_block else parts[-2]
        if not name.isdigit() and not re.search(r"norm|embed|^wte$|^wpe$|lm_head|router", name):
            found[name] = None

    return list(found)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in name.split(".")]


def _context_length(config: dict[str, Any]) -> int:
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, dict) else {}):
        for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
            if type(value := part.get(key)) is int and 0 < value < 2**31:
                return value

    return 0


def chat_template_read(folder: Path) -> str:
    """The template as transformers finds it: its own file first, then tokenizer_config.json. Empty
    where none is."""
    if (folder / "chat_template.jinja").is_file():
        return (
            (folder / "chat_template.jinja")
            .read_bytes()[:JSON_LIMIT_BYTES]
            .decode("utf-8", "replace")
        )

    for name in ("chat_template.json", "tokenizer_config.json"):
        template = (
            json_read(folder / name).get("chat_template") if (folder / name).is_file() else None
        )
        if isinstance(template, list):
            named = {
                str(part.get("name")): part.get("template")
                for part in template
                if isinstance(part, dict)
            }

            template = named.get("default") or next(iter(named.values()), None)

        if isinstance(template, str) and template:
            return template

    return ""


def licence_read(folder: Path) -> str:
    """The licence that the model card names in its head, such as apache-2.0; empty where it names
    none."""
    card = folder / "README.md"
    if not card.is_file():
        return ""

    with card.open("rb") as stream:
        head = stream.read(65_536).decode("utf-8", "replace")

    front = re.match(r"---\s*\n(.*?)\n---", head, re.DOTALL)
    named = (
        dict(re.findall(r"^(license|license_name): *[\"']?([^\s\"'#]+)", front[1], re.MULTILINE))
        if front
        else {}
    )

    licence = named.get("license", "")

    return str(named.get("license_name", licence) if licence == "other" else licence)[:100]


def folder_digest(folder: Path) -> str:
    """sha256 over the names and contents of all kept files, in order of name."""
    return _digest(folder, sorted(kept_files(folder)))


def tokenizer_digest(folder: Path) -> str:
    """sha256 over the tokenizer's files and chat template: equal digests give equal tokens."""
    return _digest(folder, sorted(name for name in TOKENIZER_FILES if (folder / name).is_file()))


def _digest(folder: Path, names: list[str]) -> str:
    total = hashlib.sha256()
    for name in names:
        with (folder / name).open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()

        total.update(f"{name}\0{content}\n".encode())

    return total.hexdigest()
