"""The formats of exports. What writes each is named here and imported when it is used: one loads
torch, another one llama.cpp, and most are not wanted at once."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from engine.exporting.request import ExportRequest, Writer


@dataclass(frozen=True)
class Format:
    """title: for people. writer: the name of a function that writes the export, see `write`.
    size: the name of a function that estimates it, see `bytes_needed`.
    needs_adapter: whether it is made of an adapter and not of a model's weights.
    is_quantized: whether `ExportRequest.quantization` says something about it.
    needs_llama_cpp: whether llama.cpp's converter makes it."""

    title: str
    writer: str
    size: str
    needs_adapter: bool = False
    is_quantized: bool = False
    needs_llama_cpp: bool = False

    @property
    def write(self) -> Writer:
        function: Writer = pkgutil.resolve_name(self.writer)
        return function

    @property
    def bytes_needed(self) -> Callable[[ExportRequest], int]:
        """The most that the export takes on the disk while it is written, in bytes; at the end it
        may be less. Raises Refused like the writer."""
        function: Callable[[ExportRequest], int] = pkgutil.resolve_name(self.size)
        return function


FOLDERS = "engine.exporting.folders"
GGUF = "engine.exporting.gguf"
OLLAMA = "engine.exporting.ollama"

FORMATS = {
    "safetensors": Format(
        "Safetensors",
        writer=f"{FOLDERS}:safetensors_write",
        size=f"{FOLDERS}:safetensors_bytes",
    ),
    "adapter": Format(
        "Adapter",
        writer=f"{FOLDERS}:adapter_write",
        size=f"{FOLDERS}:adapter_bytes",
        needs_adapter=True,
    ),
    "gguf": Format(
        "GGUF",
        writer=f"{GGUF}:gguf_write",
        size=f"{GGUF}:gguf_bytes",
        is_quantized=True,
        needs_llama_cpp=True,
    ),
    "gguf-adapter": Format(
        "GGUF of the adapter",
        writer=f"{GGUF}:gguf_adapter_write",
        size=f"{GGUF}:gguf_adapter_bytes",
        needs_adapter=True,
        needs_llama_cpp=True,
    ),
    # A folder with a Modelfile and the GGUF of the asked quantization, whose path is
    # engine.exporting.gguf.gguf_file(folder).
    "ollama": Format(
        "Ollama",
        writer=f"{OLLAMA}:ollama_write",
        size=f"{OLLAMA}:ollama_bytes",
        is_quantized=True,
        needs_llama_cpp=True,
    ),
}
