"""The weights of a model folder, one tensor at a time: read from mapped files, written to new ones.

So a whole model is converted in the memory of one file of the result.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from engine.models.inspect import INDEX, WEIGHTS, weight_files

FILE_BYTES = 2 * 2**30


class TensorReader:
    """The tensors of all weight files of `folder` by name. Raises ModelProblem where there are
    none."""

    def __init__(self, folder: Path) -> None:
        # The open file that holds the tensor of a name.
        self.file_of: dict[str, Any] = {}

        for file_name in weight_files(folder):
            file: Any = safe_open(folder / file_name, framework="pt")
            self.file_of |= dict.fromkeys(file.keys(), file)

        self.names = list(self.file_of)

    def __contains__(self, name: str) -> bool:
        return name in self.file_of

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self.file_of[name].get_tensor(name)
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """From the header: the tensor itself is not read."""
        header = self.file_of[name].get_slice(name)
        return tuple(header.get_shape())

    def dtype(self, name: str) -> str:
        """As safetensors names it: F32, F16, BF16, I64 …"""
        header = self.file_of[name].get_slice(name)
        return str(header.get_dtype())


class TensorWriter:
    """Weight files of at most `file_bytes` each in the folder `out`, and the index that names them.

    A model that fits one file gets the plain name, model.safetensors, and no index.
    """

    def __init__(self, out: Path, file_bytes: int | None = None) -> None:
        self.out = out
        self.file_bytes = file_bytes or FILE_BYTES
        # {name of a tensor: name of its file}, of the files that are written.
        self.weight_map: dict[str, str] = {}
        # What the next file will hold, and its bytes.
        self.pending: dict[str, torch.Tensor] = {}
        self.pending_bytes = 0
        self.total_bytes = 0
        self.file_count = 0

    def add(self, name: str, value: torch.Tensor) -> None:
        size = value.numel() * value.element_size()
        if self.pending and self.pending_bytes + size > self.file_bytes:
            self._write()

        self.pending[name] = value.contiguous()
        self.pending_bytes += size
        self.total_bytes += size

    def _write(self) -> None:
        self.file_count += 1
        file_name = f"model-{self.file_count:05}.safetensors"
        save_file(self.pending, self.out / file_name, metadata={"format": "pt"})
        self.weight_map |= dict.fromkeys(self.pending, file_name)
        self.pending = {}
        self.pending_bytes = 0

    def close(self) -> None:
        """Write the last file, and the index. Nothing may be added afterwards."""
        self._write()

        if self.file_count == 1:
            (self.out / "model-00001.safetensors").rename(self.out / WEIGHTS)
            return

        # How many there are is known now, and programs look for such names.
        final = {name: self._final_name(name) for name in set(self.weight_map.values())}
        for name, final_name in final.items():
            (self.out / name).rename(self.out / final_name)

        weight_map = {tensor: final[name] for tensor, name in self.weight_map.items()}
        index = {"metadata": {"total_size": self.total_bytes}, "weight_map": weight_map}
        (self.out / INDEX).write_text(json.dumps(index, indent=2) + "\n")

    def _final_name(self, name: str) -> str:
        return name.replace(".safetensors", f"-of-{self.file_count:05}.safetensors")
