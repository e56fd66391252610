"""What an export is asked for, and what it made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Share of the work that is done, 0 to 1.
OnProgress = Callable[[float], None]

SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class ExportRequest:
    """model: a folder that transformers loads, without an adapter in it.
    adapter: the folder of the adapter that the model was merged from; None for a model that was
    trained whole, or not trained here. base: the folder of the model below the adapter; None where
    there is no adapter. base_id: that model's id on a hub, "" where it has none.
    name: what people call the model. system_prompt: the train's, "" for none.
    quantization: of GGUF weights, a name of engine.exporting.quantization.
    shard_bytes: the most that one file of weights may take."""

    model: Path
    adapter: Path | None = None
    base: Path | None = None
    base_id: str = ""
    name: str = ""
    system_prompt: str = ""
    quantization: str = "f16"
    shard_bytes: int = SHARD_BYTES


@dataclass(frozen=True)
class Exported:
    """A `remark` on what was written for people, "" for none."""

    remark: str = ""


# Writes the export into a new, empty folder.
# Raises engine.loading.architecture.Refused with the reason, in words for people, where the result
# would be wrong.
Writer = Callable[[ExportRequest, Path, OnProgress], Exported]
