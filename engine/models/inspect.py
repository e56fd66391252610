"""What a model folder holds, read from its JSON files and safetensors headers alone: no training
library is loaded, and nothing of the folder is ever run.

`folder_read` is also the gate: weights must be complete safetensors files, and no JSON file may ask
to run code of its own."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from engine.contract.rundir import file_sha256
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
# One of these tokenizer files must exist; the others only say how to use it.
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
# Quantisations that the import converts to bf16.
UNPACKED = ("fp8", "mxfp4")
# How many files of a folder without safetensors are looked at for pickles, to say so in the error.
FILES_LOOKED_AT = 10_000
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack")

JSON_LIMIT_BYTES = 16 * 2**20
# Real ones have some kilobytes; some hundred where they list the quantisation of every expert.
CONFIG_LIMIT_BYTES = 2 * 2**20
SMALL_FILES = ("config.json", "generation_config.json", "special_tokens_map.json")
# The largest vocabularies take some thirty megabytes.
FILE_LIMIT_BYTES = 256 * 2**20
MOST_TENSORS = 1_000_000
HEADER_LIMIT_BYTES = 100 * 2**20
SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.safetensors")
# Modules with a weight of two dimensions that are no target of LoRA.
NOT_LINEAR = re.compile(r"norm|embed|^wte$|^wpe$|lm_head|router")
CLASS_NAME = re.compile(r"[A-Z][A-Za-z0-9]{1,80}(Tokenizer|TokenizerFast|Backend)")
# A line of the model card's front matter.
LICENCE = re.compile(r"^(license|license_name): *[\"']?([^\s\"'#]+)", re.MULTILINE)
# Bytes of a number, by the names of safetensors.
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
CONTEXT_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
DTYPE_NAMES = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}


class ModelProblem(ValueError):
    """The folder cannot be a base model; the text says why, and what to do, in words for people."""


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


def folder_read(folder: Path) -> ModelFacts:
    """Check the folder and return its facts. Raises ModelProblem."""
    config = config_read(folder)
    weights = weight_files(folder)
    shapes: dict[str, list[int]] = {}
    # {dtype: how many numbers of it}
    counts: dict[str, int] = {}

    for file_name in weights:
        for tensor, dtype, shape in safetensors_read(folder / file_name):
            shapes[tensor] = shape
            counts[dtype] = counts.get(dtype, 0) + math.prod(shape)

    if not shapes:
        raise ModelProblem("The safetensors files hold no weights.")

    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise ModelProblem("The folder holds no tokenizer (tokenizer.json or tokenizer.model).")

    architectures = config.get("architectures") or [config.get("model_type", "")]
    main_dtype = max(counts, key=lambda dtype: counts[dtype])
    size_bytes = sum((folder / name).stat().st_size for name in kept_files(folder))

    return ModelFacts(
        architecture=str(architectures[0])[:100],
        parameter_count=sum(counts.values()),
        context_length=context_length(config),
        dtype=DTYPE_NAMES.get(main_dtype, main_dtype.lower()),
        chat_template=chat_template_read(folder),
        licence=licence_read(folder),
        size_bytes=size_bytes,
        linear_modules=linear_modules(shapes),
        weights=tuple(weights),
    )


def config_read(folder: Path, *, may_be_packed: bool = False) -> dict[str, Any]:
    """config.json, after checking that no JSON file of the folder asks to run code. Raises
    ModelProblem.

    `may_be_packed`: accept quantised weights where the import can unpack them
    (engine.loading.unpack)."""
    if not (folder / "config.json").is_file():
        raise _no_config(folder)

    config = json_read(folder / "config.json")
    model_type = config.get("model_type")
    has_own_class = isinstance(model_type, str) and model_type in CAUSAL_MODEL_TYPES
    hooks_refuse("config.json", config, has_own_class=has_own_class)

    for name in ("generation_config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            hooks_refuse(name, json_read(folder / name))

    method = packing(config)
    if method and not (may_be_packed and method in UNPACKED):
        raise ModelProblem(
            f"The weights are quantised ({method}) and cannot be trained. Choose the unquantised "
            "model."
        )

    if not isinstance(model_type, str):
        raise ModelProblem("config.json names no model_type.")

    architectures = config.get("architectures")
    if architectures is not None and not (isinstance(architectures, list) and architectures):
        raise ModelProblem("config.json: architectures must be a list of names.")

    return config


def _no_config(folder: Path) -> ModelProblem:
    """What a folder without config.json is instead."""
    if (folder / "adapter_config.json").is_file():
        return ModelProblem(
            "This is a LoRA adapter, not a base model. Add the model that it was trained from."
        )

    if any(folder.glob("*.gguf")):
        return ModelProblem(
            "This folder holds a GGUF file. Upload that file under “GGUF file” instead."
        )

    return ModelProblem(
        "The folder has no config.json, so it is no model in the Hugging Face layout."
    )


def packing(config: dict[str, Any]) -> str:
    """How the weights are quantised, "" for not at all."""
    quantization_config = config.get("quantization_config")
    if not isinstance(quantization_config, dict):
        return ""

    return str(quantization_config.get("quant_method", "some method"))[:30]


def json_read(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ModelProblem for one that is too large or is none."""
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
    """Raises ModelProblem where a JSON file would have a library load code of the model's own.

    `has_own_class`: transformers has a class for this model type. Models that were published before
    it had one name their code in auto_map; that code is not needed then, and never run
    (trust_remote_code is off everywhere)."""
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
    """Remove auto_map, which names code that is not needed, from a folder's config.json. For a
    copy, never for an original."""
    path = folder / "config.json"
    if not path.is_file():
        return

    config = json_read(path)
    if "auto_map" not in dict(_pairs(config)):
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
    """Every key with its value, at any depth. By a stack, not recursion: whoever made the file
    chose the depth."""
    stack = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            yield from part.items()
            stack.extend(part.values())
        elif isinstance(part, list):
            stack.extend(part)


def weight_files(folder: Path) -> list[str]:
    """Names of the safetensors files that would be loaded. Raises ModelProblem where there are
    none, or some are missing."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]

    if (folder / INDEX).is_file():
        return _shards(folder)

    names = [file.name for file in islice(folder.iterdir(), FILES_LOOKED_AT)]
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    if pickles:
        raise ModelProblem(
            f"The weights are pickle files only ({pickles[0][:80]}), which can run code when they "
            "are opened. Only safetensors are loaded: choose a version of the model that has them."
        )

    raise ModelProblem("The folder holds no weights (model.safetensors).")


def _shards(folder: Path) -> list[str]:
    """The files that the index names."""
    weight_map = json_read(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelProblem(f"{INDEX} lists no weights.")

    shards = sorted({str(name) for name in weight_map.values()})
    for name in shards:
        if not SHARD_NAME.fullmatch(name):
            raise ModelProblem(f"{INDEX} names a file that is none of its folder ({name[:80]!r}).")

        if not (folder / name).is_file():
            raise ModelProblem(f"The weights are not complete: {name} is missing.")

    return shards


def kept_files(folder: Path) -> list[str]:
    """Names of all files that belong to the model; other files of the folder are not copied.

    Raises ModelProblem for one that is too large to be what its name says.
    """
    candidates = list(KEPT_FILES)
    if not (folder / WEIGHTS).is_file():
        candidates.append(INDEX)

    kept: list[str] = []

    for name in candidates:
        if not (folder / name).is_file():
            continue

        if (folder / name).stat().st_size > FILE_LIMIT_BYTES:
            raise ModelProblem(
                f"{name} is larger than {FILE_LIMIT_BYTES // 2**20} MB, so it is no model's."
            )

        kept.append(name)

    return kept + weight_files(folder)


def safetensors_read(path: Path) -> Iterator[tuple[str, str, list[int]]]:
    """(name, dtype, shape) of each tensor, from the header: 8 bytes of its length, then JSON.

    Raises ModelProblem for a file that is cut off, or whose sizes contradict each other."""
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
    """(dtype, shape, end of its bytes), after checking that they agree."""
    try:
        dtype = tensor["dtype"]
        shape = tensor["shape"]
        start, stop = tensor["data_offsets"]

        for number in (start, stop, *shape):
            # bool is a subclass of int.
            if type(number) is not int or number < 0:
                raise damaged

        if math.prod(shape) * BYTES_OF[dtype] != stop - start:
            raise damaged
    except (KeyError, TypeError, ValueError) as error:
        raise damaged from error

    return dtype, list(shape), stop


def linear_modules(shapes: dict[str, list[int]]) -> list[str]:
    """Last names of the modules that LoRA can target, in order: linear layers inside the decoder
    layers, such as q_proj, and blocks of experts, such as gate_up_proj.

    `shapes`: {name of a tensor: its shape}."""
    # As an ordered set.
    modules: dict[str, None] = {}

    for tensor in sorted(shapes, key=_by_number):
        parts = tensor.split(".")
        # model.layers.0.self_attn.q_proj.weight: what is in no numbered layer is no target.
        if not any(part.isdigit() for part in parts):
            continue

        dimensions = len(shapes[tensor])
        if len(parts) > 1 and parts[-2] == "experts" and dimensions == 3:
            name = parts[-1]
        elif parts[-1] == "weight" and dimensions == 2:
            name = parts[-2]
        else:
            continue

        if not name.isdigit() and not NOT_LINEAR.search(name):
            modules[name] = None

    return list(modules)


def _by_number(name: str) -> list[tuple[int, str]]:
    """A sort key that puts layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in name.split(".")]


def context_length(config: dict[str, Any]) -> int:
    """The most tokens of a row, by config.json or its text_config; 0 where neither says."""
    text_config = config.get("text_config")
    parts = [config]
    if isinstance(text_config, dict):
        parts.append(text_config)

    for part in parts:
        for key in CONTEXT_LENGTH_KEYS:
            value = part.get(key)
            # bool is a subclass of int.
            if type(value) is int and 0 < value < 2**31:
                return value

    return 0


def chat_template_read(folder: Path) -> str:
    """The template that transformers would use: its own file first, then tokenizer_config.json.
    Empty where there is none."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_bytes()[:JSON_LIMIT_BYTES].decode("utf-8", "replace")

    for name in ("chat_template.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            continue

        template = json_read(folder / name).get("chat_template")
        if isinstance(template, list):
            template = _default_template(template)

        if isinstance(template, str) and template:
            return template

    return ""


def _default_template(templates: list[Any]) -> Any:
    """From named templates, [{"name": …, "template": …}], the one called default, else the
    first; None where there is none."""
    by_name: dict[str, Any] = {}
    for part in templates:
        if isinstance(part, dict):
            by_name[str(part.get("name"))] = part.get("template")

    return by_name.get("default") or next(iter(by_name.values()), None)


def licence_read(folder: Path) -> str:
    """The licence that the model card's front matter names, such as apache-2.0; empty where it
    names none."""
    values = licence_keys(folder)
    licence = values.get("license", "")
    if licence == "other":
        licence = values.get("license_name", licence)

    return licence[:100]


def licence_keys(folder: Path) -> dict[str, str]:
    """What the model card's front matter says of its licence, under the names of hubs."""
    card = folder / "README.md"
    if not card.is_file():
        return {}

    with card.open("rb") as stream:
        start = stream.read(65_536).decode("utf-8", "replace")

    front_matter = re.match(r"---\s*\n(.*?)\n---", start, re.DOTALL)
    return dict(LICENCE.findall(front_matter[1])) if front_matter is not None else {}


def folder_hashes(folder: Path) -> dict[str, str]:
    """{name: sha256} of all kept files."""
    return {name: file_sha256(folder / name) for name in kept_files(folder)}


def folder_digest(folder: Path) -> str:
    """sha256 over the names and contents of all kept files, sorted by name."""
    return hashes_digest(folder_hashes(folder))


def tokenizer_digest(folder: Path) -> str:
    """sha256 over the tokenizer's files and chat template: equal digests give equal tokens."""
    names = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    return hashes_digest({name: file_sha256(folder / name) for name in names})


def hashes_digest(hashes: dict[str, str]) -> str:
    """One sha256 over names of files and their hashes, in whatever order they come."""
    total = hashlib.sha256()
    for name, content in sorted(hashes.items()):
        total.update(f"{name}\0{content}\n".encode())

    return total.hexdigest()
