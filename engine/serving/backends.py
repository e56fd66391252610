"""What serves a model folder here, and why, in one sentence."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from engine.models.inspect import json_read
from engine.models.llama_cpp import CONVERTER, converter_missing
from engine.serving.order import LLAMA_CPP, TRANSFORMERS, VLLM

# The converter's registrations of architectures: @ModelBase.register("LlamaForCausalLM", …).
REGISTRATION = re.compile(r"@ModelBase\.register\(([^)]*)\)")
QUOTED = re.compile(r'"(\w+)"')


def backend_choose(folder: Path) -> tuple[str, str]:
    """(one of BACKENDS, the reason). folder: a model without an adapter in it."""
    if vllm_is_usable():
        return VLLM, "vLLM, since it is installed and there is a GPU"

    architecture = str((json_read(folder / "config.json").get("architectures") or ["?"])[0])
    if missing := converter_missing():
        return TRANSFORMERS, f"transformers, since {_lowered(missing)}"

    if architecture not in llama_cpp_architectures():
        return TRANSFORMERS, f"transformers, since llama.cpp does not know {architecture}"

    return LLAMA_CPP, f"llama.cpp, since it knows {architecture}"


def _lowered(sentence: str) -> str:
    first, *_ = sentence.split(". ")
    return first.rstrip(".")


def vllm_is_usable() -> bool:
    if importlib.util.find_spec("vllm") is None:
        return False

    # Here, because it takes seconds where there is no vLLM.
    import torch

    return bool(torch.cuda.is_available())


def llama_cpp_architectures() -> set[str]:
    """Those that llama.cpp's converter has a rule for, as config.json names them. Nothing of it is
    run."""
    names: set[str] = set()
    for path in [CONVERTER / "convert_hf_to_gguf.py", *(CONVERTER / "conversion").glob("*.py")]:
        if not path.is_file():
            continue

        for registration in REGISTRATION.findall(path.read_text(encoding="utf-8")):
            names.update(QUOTED.findall(registration))

    return names
