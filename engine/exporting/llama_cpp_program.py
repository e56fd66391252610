"""One of the programs of llama.cpp's converter, which also takes a tokenizer that it does not know
but whose pre-tokenizer llama.cpp has.

    python -P llama_cpp_program.py FOLDER PROGRAM ARGUMENT …

FOLDER: the converter's, whose packages have the names of other ones. Run in a process of its own,
and with -P: the files beside this one have such names, too."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    folder, program, *arguments = sys.argv[1:]
    sys.path.insert(0, folder)
    # Last, so that none of its packages comes before the converter's.
    sys.path.append(str(Path(__file__).parents[2]))
    names_add()

    sys.argv = [str(Path(folder) / program), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


def names_add() -> None:
    """Let the converter write the name of a pre-tokenizer that is known by its pattern, where it
    does not know it by its tokens."""
    text_model: Any = importlib.import_module("conversion.base").TextModel
    name_by_tokens = text_model.get_vocab_base_pre

    def name(self: Any, tokenizer: Any) -> str:
        try:
            return str(name_by_tokens(self, tokenizer))
        except NotImplementedError:
            from engine.exporting.pre_tokenizers import pre_tokenizer_name

            found = pre_tokenizer_name(tokenizer)
            if found is None:
                raise

            return found

    text_model.get_vocab_base_pre = name


if __name__ == "__main__":
    main()
