"""A model or an adapter written in the form that llama.cpp serves.

    python -m engine.serving.prepare base FOLDER OUT                    OUT: a new GGUF file
    python -m engine.serving.prepare adapter PEFT_FOLDER --base FOLDER OUT

The weights of a base are in f16, and in bf16 where some are too large for that. A model
without a chat template gets the one by which it would be trained.

Prints JSON lines: {"bytes": what it takes on the disk at most}, {"progress": 0..1} as it goes, and
last {"done": {"type"}} or {"error": "what is wrong, in words for people", "passing": whether it may
go well later}. OUT appears whole or not at all."""

from __future__ import annotations

import argparse
import errno
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open

from engine.chat.render import PLAIN_TEMPLATE, tokenizer_load
from engine.exporting.converter import MEMORY_SIGNS, OutOfMemory
from engine.exporting.gguf import (
    gguf_adapter_bytes,
    gguf_adapter_write,
    gguf_bytes,
    gguf_file,
    gguf_write,
)
from engine.exporting.request import ExportRequest, OnProgress
from engine.loading.architecture import Refused, reason
from engine.messages.failures import TrainError
from engine.models.inspect import ModelProblem, weight_files
from engine.proof.report import say

ADAPTER_TYPE = "f32"
TEMPLATE = "chat_template.jinja"


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)

    def on_progress(share: float) -> None:
        say(progress=round(share, 4))

    try:
        if options.kind == "base":
            kind = base_prepare(options.source, options.out, on_progress)
        else:
            adapter_prepare(options.source, options.base, options.out, on_progress)
            kind = ADAPTER_TYPE
    except Exception as error:
        traceback.print_exc()
        text, is_passing = _problem(error)
        say(error=text, passing=is_passing)
        return 1

    say(done={"type": kind})
    return 0


def _problem(error: Exception) -> tuple[str, bool]:
    """(why, for people; whether it says nothing about the model, and may go well later)."""
    # Those of transformers about a model's files have no number.
    if isinstance(error, OSError) and error.errno is not None:
        is_full = error.errno == errno.ENOSPC
        return ("The disk is full." if is_full else f"A file failed: {reason(error)}"), True
    if isinstance(error, OutOfMemory):
        return str(error), True
    if isinstance(error, Refused | ModelProblem):
        return str(error), False
    if isinstance(error, TrainError):
        return f"{error.message} {error.advice}", False
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in MEMORY_SIGNS):
        return "It needed more memory than it may use.", True

    return f"It cannot be written for llama.cpp: {reason(error)}", False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m engine.serving.prepare", description=__doc__.splitlines()[0]
    )
    parser.add_argument("kind", choices=["base", "adapter"])
    parser.add_argument("source", type=Path, help="a model folder, or that of an adapter")
    parser.add_argument("out", type=Path, help="a new GGUF file")
    parser.add_argument("--base", type=Path, metavar="DIR", help="the model below the adapter")

    return parser


def base_prepare(folder: Path, out: Path, on_progress: OnProgress) -> str:
    """Write the GGUF file `out` from the model in `folder`; returns the type of its weights. Raises
    Refused for a model that llama.cpp would read wrongly, and ModelProblem and TrainError for a
    folder that cannot be read."""
    with with_template(folder) as model:
        kind = type_choose(folder)
        request = ExportRequest(model, name=out.stem, quantization=kind)
        say(bytes=gguf_bytes(request))
        _write(out, lambda into: gguf_write(request, into, on_progress))

    return kind


def adapter_prepare(adapter: Path, base: Path | None, out: Path, on_progress: OnProgress) -> None:
    """Write the GGUF file `out` from the adapter on the model in `base`. Raises Refused for an
    adapter that is more than LoRA."""
    if base is None:
        raise Refused("An adapter is prepared with the model below it: say --base.")

    request = ExportRequest(base, adapter=adapter, base=base, name=out.stem)
    say(bytes=gguf_adapter_bytes(request))
    _write(out, lambda into: gguf_adapter_write(request, into, on_progress))


def _write(out: Path, write: Callable[[Path], object]) -> None:
    """Have `write` write one file into a new folder, and move it to `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.stem}-") as name:
        write(Path(name))
        gguf_file(Path(name)).rename(out)


def type_choose(folder: Path) -> str:
    """The type of the GGUF file's weights: f16, which keeps more digits than bf16 and is computed
    faster, unless some numbers are too large for it."""
    largest = _largest(folder)
    return "f16" if largest <= torch.finfo(torch.float16).max else "bf16"


def _largest(folder: Path) -> float:
    """The largest number among the weights of sixteen bits or more, without its sign."""
    largest = 0.0
    for file in weight_files(folder):
        with safe_open(folder / file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no dictionary
                tensor = tensors.get_tensor(name)
                if tensor.is_floating_point() and tensor.numel():
                    largest = max(largest, float(tensor.abs().max()))

    return largest


@contextmanager
def with_template(folder: Path) -> Iterator[Path]:
    """The same files, with a chat template in any case: llama.cpp would write conversations of a
    model that has none by another one's."""
    tokenizer = tokenizer_load(folder)
    if tokenizer.chat_template != PLAIN_TEMPLATE:
        yield folder
        return

    folder = folder.resolve()
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / folder.name
        copy.mkdir()
        for path in folder.iterdir():
            (copy / path.name).symlink_to(path)

        (copy / TEMPLATE).unlink(missing_ok=True)
        (copy / TEMPLATE).write_text(PLAIN_TEMPLATE, encoding="utf-8")
        yield copy


if __name__ == "__main__":
    sys.exit(main())
