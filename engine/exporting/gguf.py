"""llama.cpp's format: the whole model in one file, or its adapter alone."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from gguf import GGUFReader
from huggingface_hub.repocard import metadata_load, metadata_save
from safetensors import safe_open

from engine.exporting.converter import convert
from engine.exporting.quantization import (
    QUANTIZATIONS,
    Quantization,
    file_quantize,
    metadata_value,
    remark,
)
from engine.exporting.request import Exported, ExportRequest, OnProgress
from engine.loading.architecture import Refused, reason
from engine.loading.end_tokens import ends_of
from engine.loading.tensor_files import TensorReader
from engine.models.inspect import config_read, json_read
from engine.models.llama_cpp import ADAPTER_PROGRAM, MODEL_PROGRAM

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
CARD = "README.md"

# The converter's names of the types that safetensors names so. Nothing is rounded before the
# chosen type is known.
STORED_TYPES = {"F16": "f16", "BF16": "bf16"}
BYTES = {"f16": 2, "bf16": 2, "f32": 4}

# Names of GGUF's metadata for tokens at which an answer ends: of a text, a turn, and a message.
END_KEYS = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))

BOS_KEY = "tokenizer.ggml.bos_token_id"
ADDS_BOS_KEY = "tokenizer.ggml.add_bos_token"
# Tokens at which llama.cpp ends an answer in any case (special_eog_ids in its llama-vocab.cpp).
KNOWN_ENDS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<|end_of_text|>",
)

# The part of the progress that the conversion takes; then come fewer bits.
CONVERTED = 0.6


def gguf_write(request: ExportRequest, folder: Path, on_progress: OnProgress) -> Exported:
    """Write NAME-QUANTIZATION.gguf into `folder`. Raises Refused for a model that llama.cpp would
    read wrongly."""
    quantization = _quantization(request)
    _model_check(request.model)
    out = folder / f"{file_stem(request.name)}-{quantization.title}.gguf"
    converted = folder / "converted.gguf"
    stored = _stored_type(request.model)

    with _without_base_name(request.model) as model:
        arguments = [str(model), "--outfile", str(converted), "--outtype", stored]
        # In one word, since a name may begin with a dash.
        arguments += [f"--model-name={request.name}"] if request.name else []
        convert(MODEL_PROGRAM, arguments, lambda share: on_progress(CONVERTED * share))

    # It reads for a second: once is enough.
    reader = GGUFReader(converted)
    changes = _metadata_changes(request.model, reader)
    if stored == request.quantization and not changes:
        converted.rename(out)
        return Exported()

    plan = file_quantize(
        reader,
        out,
        quantization,
        changes,
        lambda share: on_progress(CONVERTED + (1 - CONVERTED) * share),
    )
    converted.unlink()
    return Exported(remark(plan, quantization))


def gguf_bytes(request: ExportRequest) -> int:
    quantization = _quantization(request)
    _model_check(request.model)
    tensors = TensorReader(request.model)
    bits = 0.0

    for name in tensors.names:
        shape = tensors.shape(name)
        fits = bool(shape) and shape[-1] % 256 == 0
        bits += math.prod(shape) * (quantization.bits if fits else quantization.narrow_bits)

    # The vocabulary takes about as much as in tokenizer.json.
    vocabulary = sum(path.stat().st_size for path in request.model.glob("tokenizer.*"))
    stored = _stored_type(request.model)
    between = 0 if stored == request.quantization else _weight_count(tensors) * BYTES[stored]
    return int(bits / 8) + 2 * vocabulary + between


def gguf_file(folder: Path) -> Path:
    """The GGUF file of an export. Raises Refused where there is none, or several."""
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        raise Refused(f"{folder.name} should hold one GGUF file, and holds {len(files)}.")

    return files[0]


def file_stem(name: str) -> str:
    """`name` as the beginning of a file's name, on any system."""
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.")[:80] or "model"


def _quantization(request: ExportRequest) -> Quantization:
    try:
        return QUANTIZATIONS[request.quantization]
    except KeyError as error:
        known = ", ".join(QUANTIZATIONS)
        raise Refused(f"{request.quantization!r} is none of the types: {known}.") from error


@contextmanager
def _without_base_name(folder: Path) -> Iterator[Path]:
    """The same files, with a card that names no base model: the converter writes what the card says
    into the file, and whoever gets the file may not know the base model."""
    folder = folder.resolve()
    with tempfile.TemporaryDirectory() as name:
        # The folder's own name becomes a part of the metadata, too.
        copy = Path(name) / folder.name
        copy.mkdir()
        for path in folder.iterdir():
            if path.name != CARD:
                (copy / path.name).symlink_to(path)

        if facts := _card_facts(folder / CARD):
            metadata_save(copy / CARD, facts)

        yield copy


def _card_facts(card: Path) -> dict[str, Any]:
    """What a model card's front matter says, but for the base model; nothing of one that cannot be
    read, by which the converter would fail."""
    try:
        facts = metadata_load(card) or {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}

    return {key: value for key, value in facts.items() if not str(key).startswith("base_model")}


def _model_check(model: Path) -> None:
    """Raises Refused, or ModelProblem for files that ask for code of their own."""
    config = config_read(model)
    (architecture, *_) = config.get("architectures") or [""]
    if str(architecture).endswith("ForSequenceClassification"):
        raise Refused(
            "A reward model scores texts and writes none, and llama.cpp would leave out its score. "
            "Export it as Safetensors."
        )


def _stored_type(model: Path) -> str:
    """The type of most of the model's weights, as the converter names it."""
    tensors = TensorReader(model)
    counts: Counter[str] = Counter()
    for name in tensors.names:
        counts[tensors.dtype(name)] += math.prod(tensors.shape(name))

    ((most, _), *_) = counts.most_common(1)
    return STORED_TYPES.get(most, "f32")


def _weight_count(tensors: TensorReader) -> int:
    return sum(math.prod(tensors.shape(name)) for name in tensors.names)


def _metadata_changes(model: Path, reader: GGUFReader) -> dict[str, int | bool]:
    """{name of a metadata value: what it has to be}, where the converter wrote another one."""
    # Here, because it loads for seconds.
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True, trust_remote_code=False)
    wanted: dict[str, int | bool] = {ADDS_BOS_KEY: _begins_with_bos(tokenizer)}
    if tokenizer.bos_token_id is not None:
        wanted[BOS_KEY] = int(tokenizer.bos_token_id)

    changes: dict[str, int | bool] = dict(_missing_ends(model, reader))
    return changes | {
        key: value for key, value in wanted.items() if metadata_value(reader, key, None) != value
    }


def _begins_with_bos(tokenizer: Any) -> bool:
    """Whether llama.cpp is to put the tokenizer's first token (BOS) in front of a text: where the
    tokenizer does so, and the chat template does not forgo it. llama.cpp adds it to conversations
    too, and in training they were as the template writes them."""
    bos = tokenizer.bos_token_id
    if bos is None or tokenizer("a")["input_ids"][:1] != [bos]:
        return False

    if not tokenizer.chat_template:
        return True

    turn = [{"role": "user", "content": "a"}]
    try:
        text = str(tokenizer.apply_chat_template(turn, tokenize=False))
    except Exception as error:
        raise Refused(f"The chat template cannot be rendered: {reason(error)}") from error

    return text.startswith(tokenizer.bos_token)


def _missing_ends(model: Path, reader: GGUFReader) -> dict[str, int]:
    """{name of a metadata value: token}, for the model's end tokens that the file does not name.
    Raises Refused where they are more than a file can name."""
    texts = metadata_value(reader, "tokenizer.ggml.tokens", [])
    named = {key: metadata_value(reader, key, None) for key in END_KEYS}
    missing = sorted(
        token
        for token in ends_of(model) - set(named.values())
        if token >= len(texts) or texts[token] not in KNOWN_ENDS
    )
    free = [key for key, token in named.items() if token is None]

    if len(missing) > len(free):
        raise Refused(
            f"The model's answers end at {len(missing) + len(named) - len(free)} different tokens, "
            "and a GGUF file can name three."
        )

    return dict(zip(free, missing, strict=False))


def gguf_adapter_write(request: ExportRequest, folder: Path, on_progress: OnProgress) -> Exported:
    """Write NAME-adapter.gguf into `folder`: the adapter alone, in fp32, for llama.cpp's --lora
    beside a GGUF of the base model. Raises Refused for an adapter that is more than LoRA."""
    adapter, base = _adapter_parts(request)
    config = json_read(adapter / ADAPTER_CONFIG)
    adapter_check(config)
    _model_check(base)

    out = folder / f"{file_stem(request.name)}-adapter.gguf"
    with _without_base_name(adapter) as nameless, _plain_adapter(nameless, config) as plain:
        arguments = [str(plain), "--outfile", str(out), "--outtype", "f32"]
        convert(ADAPTER_PROGRAM, [*arguments, "--base", str(base)], on_progress)

    _adapter_is_whole(adapter, out)
    return Exported()


def gguf_adapter_bytes(request: ExportRequest) -> int:
    adapter, _ = _adapter_parts(request)
    return 4 * _numbers_in(adapter / ADAPTER_WEIGHTS) + 2**20


def _adapter_parts(request: ExportRequest) -> tuple[Path, Path]:
    if request.adapter is None or request.base is None:
        raise Refused("This model has no adapter of its own: it was trained whole, or merged.")

    return request.adapter, request.base


# Keys of adapter_config.json whose values llama.cpp's format cannot hold, by what they are to
# people. The converter would leave them out without a word.
NOT_IN_GGUF = {
    "use_dora": "DoRA, which rescales the weights",
    "modules_to_save": "layers that were trained whole",
    "trainable_token_indices": "trained tokens",
    "target_parameters": "adapted blocks of experts",
    "alpha_pattern": "a strength of its own for each layer",
    "layer_replication": "repeated layers",
    "lora_bias": "trained biases",
    "fan_in_fan_out": "transposed layers",
}


def adapter_check(config: dict[str, Any]) -> None:
    """config: of adapter_config.json. Raises Refused where a GGUF file would not be the adapter
    that was trained."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise Refused(f"llama.cpp knows adapters of type LoRA alone, and this one is {kind}.")

    for key, meaning in NOT_IN_GGUF.items():
        if config.get(key):
            raise Refused(
                f"This adapter has {meaning}, which a GGUF adapter cannot hold. Export the merged "
                "model as GGUF."
            )

    if config.get("bias", "none") != "none":
        raise Refused(
            "This adapter has trained biases, which a GGUF adapter cannot hold. Export the merged "
            "model as GGUF."
        )

    if config.get("use_rslora") and config.get("rank_pattern"):
        raise Refused(
            "This adapter has layers of several ranks with rank-stabilised strength, which a GGUF "
            "adapter cannot hold. Export the merged model as GGUF."
        )


@contextmanager
def _plain_adapter(adapter: Path, config: dict[str, Any]) -> Iterator[Path]:
    """A folder with the adapter in which its strength is alpha / rank, the only one that GGUF
    knows. Rank-stabilised LoRA has alpha / √rank."""
    if not config.get("use_rslora"):
        yield adapter
        return

    alpha = config["lora_alpha"] * math.sqrt(config["r"])
    with tempfile.TemporaryDirectory() as name:
        plain = Path(name)
        changed = config | {"lora_alpha": alpha, "use_rslora": False}
        (plain / ADAPTER_CONFIG).write_text(json.dumps(changed))
        (plain / ADAPTER_WEIGHTS).symlink_to((adapter / ADAPTER_WEIGHTS).resolve())
        yield plain


def _adapter_is_whole(adapter: Path, file: Path) -> None:
    """Raises Refused where the converter left out, or made up, some of the adapter's numbers."""
    wanted = _numbers_in(adapter / ADAPTER_WEIGHTS)
    found = sum(int(tensor.n_elements) for tensor in GGUFReader(file).tensors)
    if found != wanted:
        raise Refused(
            f"llama.cpp's converter wrote {found:,} numbers of the adapter's {wanted:,}. Export "
            "the merged model as GGUF."
        )


def _numbers_in(file: Path) -> int:
    with safe_open(file, framework="np") as tensors:
        names = tensors.keys()
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)
