"""A model written in a form that other programs read.

    python -m engine.exporting FORMAT MODEL OUT            writes the new folder OUT from the folder
                                                           MODEL
    python -m engine.exporting gguf MODEL OUT --quantization q4_k_m
    python -m engine.exporting gguf-adapter MODEL OUT --adapter DIR --base DIR

Prints JSON lines: {"bytes": what it takes on the disk at most}, {"phase": "Converting"},
{"progress": 0..1} as it goes, and last {"done": {"remark"}} or {"error": "what is wrong, in words
for people"}. OUT appears whole or not at all."""

from __future__ import annotations

import argparse
import errno
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from engine.exporting.formats import FORMATS, Format
from engine.exporting.request import SHARD_BYTES, Exported, ExportRequest
from engine.loading.architecture import Refused
from engine.models.inspect import ModelProblem


def say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)

    try:
        prompt = options.system_file.read_text(encoding="utf-8") if options.system_file else ""
        request = ExportRequest(
            model=options.model,
            adapter=options.adapter,
            base=options.base,
            base_id=options.base_id,
            name=options.name,
            system_prompt=prompt,
            quantization=options.quantization,
            shard_bytes=options.shard_bytes,
        )
        exported = _export(FORMATS[options.format], request, options.out)
        say(done={"remark": exported.remark})
    except (Refused, ModelProblem) as error:
        say(error=str(error))
        return 1

    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m engine.exporting", description=__doc__.splitlines()[0]
    )
    parser.add_argument("format", choices=list(FORMATS))
    parser.add_argument("model", type=Path, help="a model folder, without an adapter in it")
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="the adapter it was made from")
    parser.add_argument("--base", type=Path, metavar="DIR", help="the model below the adapter")
    parser.add_argument("--base-id", default="", metavar="ID", help="its id on a hub")
    parser.add_argument("--name", default="", help="what people call the model")
    parser.add_argument("--system-file", type=Path, metavar="FILE", help="the system prompt")
    parser.add_argument("--quantization", default="f16", metavar="TYPE", help="of GGUF weights")
    parser.add_argument("--shard-bytes", type=int, default=SHARD_BYTES, metavar="BYTES")

    return parser


def _export(form: Format, request: ExportRequest, out: Path) -> Exported:
    if out.exists():
        raise Refused(f"{out} is there already. Name a folder that is new.")

    needed = form.bytes_needed(request)
    say(bytes=needed)
    out.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out.parent).free
    if free < needed:
        raise Refused(_no_space(form, needed, free))

    say(phase="Converting")
    try:
        return _write(form, request, out)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise

        free = shutil.disk_usage(out.parent).free
        raise Refused(_no_space(form, needed, free)) from error


def _write(form: Format, request: ExportRequest, out: Path) -> Exported:
    unfinished = out.with_name(f"{out.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()

    def on_progress(share: float) -> None:
        say(progress=round(share, 4))

    try:
        exported = form.write(request, unfinished, on_progress)
        unfinished.rename(out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise

    return exported


def _no_space(form: Format, needed: int, free: int) -> str:
    return (
        f"Not enough disk space for the export as {form.title}: it takes {needed / 1e9:.1f} GB, "
        f"and {free / 1e9:.1f} GB are free."
    )


if __name__ == "__main__":
    sys.exit(main())
