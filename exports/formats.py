"""What people can choose: formats, numbers of bits, and why a model cannot have one of them."""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings
from django.contrib.auth.models import User

from core.programs import folder_bytes
from engine.models.licences import licence_notes
from engine.models.llama_cpp import converter_missing
from exports.models import CONTENTS, Export
from models_app.adapters import adapter_base
from models_app.models import BaseModel
from models_app.services import may_read

Format = Export.Format


@dataclass(frozen=True)
class Quantization:
    """bits: of a weight on average, with what its block needs. K-quants keep some tensors at
    more."""

    name: str
    bits: float
    description: str

    @property
    def title(self) -> str:
        return self.name.upper()


QUANTIZATIONS = {
    choice.name: choice
    for choice in (
        Quantization("f16", 16, "Sixteen bits: as good as the model."),
        Quantization("bf16", 16, "Sixteen bits with a wider range and fewer digits."),
        Quantization("q8_0", 8.5, "Eight bits: half the size, hardly a difference."),
        Quantization("q6_k", 6.6, "Six bits: a small loss."),
        Quantization("q5_k_m", 5.7, "Five bits."),
        Quantization("q4_k_m", 4.9, "Four bits: the usual choice for laptops."),
    )
}

DESCRIPTIONS = {
    Format.SAFETENSORS: (
        "The whole model for transformers, vLLM, SGLang and whatever loads Hugging Face folders."
    ),
    Format.ADAPTER: "A few megabytes for peft and vLLM, to be put on the base model.",
    Format.GGUF: "One file for llama.cpp, LM Studio, Jan, Ollama and other local programs.",
    Format.GGUF_ADAPTER: "The adapter alone for llama.cpp, to be put on the base model's GGUF.",
    Format.OLLAMA: (
        "A GGUF file and its Modelfile: chat template, system prompt and stop tokens written out."
    ),
    Format.HUB: "Uploaded to your account there, private unless you say otherwise.",
}

BYTES_OF_F16 = 2
QUANTIZED = (Format.GGUF, Format.OLLAMA)
OF_ADAPTERS = (Format.ADAPTER, Format.GGUF_ADAPTER)
BY_LLAMA_CPP = (Format.GGUF, Format.GGUF_ADAPTER, Format.OLLAMA)


def is_quantized(format: str, content: str = "") -> bool:
    """Whether a number of bits is chosen for it."""
    return format in QUANTIZED or (format == Format.HUB and content == Format.GGUF)


def obstacle(model: BaseModel, format: str, reader: User) -> str:
    """Why `reader` cannot have an export of this format of the model, or nothing."""
    if model.status != BaseModel.Status.READY:
        return "This model is not ready."

    if format in OF_ADAPTERS and not model.has_adapter:
        if model.is_trained:
            return "This model was trained whole, or its adapter was not kept: it has no adapter."

        return "Only a model that was trained here with an adapter has one."

    base = adapter_base(model)
    if format in OF_ADAPTERS and (base is None or not may_read(base, reader)):
        return "It is of no use without its base model, which is not shared with you."

    if format in BY_LLAMA_CPP:
        return converter_missing()

    return ""


def size_estimate(model: BaseModel, format: str, quantization: str = "", content: str = "") -> int:
    """About how many bytes the export takes."""
    written = content if format == Format.HUB else format
    if written in OF_ADAPTERS:
        return folder_bytes(model.adapter_path)

    if is_quantized(format, content):
        return int(model.parameter_count * QUANTIZATIONS[quantization or "f16"].bits / 8)

    return model.size_bytes


def comparison_bytes(model: BaseModel, format: str) -> int:
    """What the comparison of an export takes on the disk for a while: an adapter for llama.cpp is
    put on its base model, which is written as GGUF for that."""
    base = adapter_base(model)
    if format != Format.GGUF_ADAPTER or base is None:
        return 0

    return 2 * base.parameter_count * BYTES_OF_F16


def licence_warnings(model: BaseModel) -> list[str]:
    """What the model's licence forbids or asks of those who pass it on, for people."""
    return licence_notes(model.licence, commercial=settings.COMMERCIAL_USE)


def content_choices(model: BaseModel, reader: User) -> list[str]:
    """What of this model can be uploaded to the hub."""
    return [content for content in CONTENTS if not obstacle(model, content, reader)]
