"""The weights of a model folder, one tensor at a time: read from mapped files, written to new ones.

What stands on these holds one file of the result in memory, and never the model.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from engine.models.inspect import INDEX, WEIGHTS, weight_files

FILE_BYTES = 2 * 2**30


class TensorReader:
    """The tensors of all weight files of `folder` by name. Raises ModelProblem where there are
    none."""

    def __init__(self, folder: Path) -> None:
        self.files = [safe_open(folder / name, framework="pt") for name in weight_files(folder)]
        self.places = {
            name: file
            for file in self.files
            for name in file.keys()  # type: ignore[no-untyped-call]  # noqa: SIM118 - no mapping
        }

        self.names = list(self.places)

    def __contains__(self, name: str) -> bool:
        return name in self.places

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self.places[name].get_tensor(name)  # type: ignore[no-untyped-call]
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """From the header: the tensor itself is not read."""
        return tuple(self.places[name].get_slice(name).get_shape())  # type: ignore[no-untyped-call]

    def dtype(self, name: str) -> str:
        """As safetensors names it: F32, F16, BF16, I64 …"""
        return str(self.places[name].get_slice(name).get_dtype())  # type: ignore[no-untyped-call]


class TensorWriter:
    """Weight files of at most `file_bytes` each in the folder `out`, and the index that names them.

    A model that fits one file gets the plain name, model.safetensors, and no index.
    """

    def __init__(self, out: Path, file_bytes: int | None = None) -> None:
        self.out = out
        self.file_bytes = file_bytes or FILE_BYTES
        self.index: dict[str, str] = {}
        self.held: dict[str, torch.Tensor] = {}
        self.bytes = self.total = self.count = 0

    def add(self, name: str, value: torch.Tensor) -> None:
        size = value.numel() * value.element_size()
        if self.held and self.bytes + size > self.file_bytes:
            self._write()

        self.held[name] = value.contiguous()
        self.bytes += size
        self.total += size

    def _write(self) -> None:
        self.count += 1
        file = f"model-{self.count:05}.safetensors"
        save_file(self.held, self.out / file, metadata={"format": "pt"})
        self.index |= dict.fromkeys(self.held, file)
        self.held, self.bytes = {}, 0

    def close(self) -> None:
        """Write what is held still, and the index. Nothing may be added afterwards."""
        self._write()

        if self.count == 1:
            (self.out / "model-00001.safetensors").rename(self.out / WEIGHTS)
            return

        index = {"metadata": {"total_size": self.total}, "weight_map": self.index}
        (self.out / INDEX).write_text(json.dumps(index, indent=2) + "\n")
