"""A GGUF file made into a model folder, and a model folder tried before anybody trains on it.

    python -m engine.programs.convert gguf FILE OUT     writes OUT/: config, bf16 safetensors, tokenizer with
    its chat template
    python -m engine.programs.convert unpack FOLDER OUT writes OUT/: the model in FOLDER with weights of a
    few bits made bf16
    python -m engine.programs.convert try FOLDER        loads config and tokenizer, renders the chat template

All run in a process of their own, since what they read comes from strangers. They print JSON lines:
{"progress": 0..1} as they go, and last {"done": {…}} or {"error": "what is wrong, in
words for people"}."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from engine.loading.architecture import Refused, architecture_check, reason
from engine.models.inspect_gguf import CUT_OFF, GgufProblem, header_check
from engine.publish.older import folder_for_older

SENTENCE = "What colour is the sky?"
EXAMPLE = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "The capital of France is Paris."},
]


def say(**news: Any) -> None:
    print(json.dumps(news), flush=True)


def gguf_convert(file: Path, out: Path) -> dict[str, Any]:
    """Write the model in `file` to `out`, every weight unpacked to bf16. Raises Refused for what
    cannot be read."""
    name, licence = _gguf_facts(file)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where: dict[str, Any] = {
        "gguf_file": file.name,
        "local_files_only": True,
        "trust_remote_code": False,
    }

    try:
        config = AutoConfig.from_pretrained(file.parent, **where)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
        say(progress=0.1)
        unpack = GgufConfig(dequantize=True)
        unpacked = AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=torch.bfloat16, quantization_config=unpack, **where
        )
    except Exception as error:
        raise Refused(f"transformers cannot read this GGUF file: {reason(error)}") from error

    say(progress=0.6)
    # transformers does not save a model that it considers quantised, though every weight is
    # unpacked: so another one of the same class, from the same config without that section.
    values = config.to_dict()
    values.pop("quantization_config", None)
    config = type(config).from_dict(values)
    config.architectures = [type(unpacked).__name__]

    with torch.device("meta"):
        model = type(unpacked)(config)

    model.load_state_dict(unpacked.state_dict(), assign=True)
    model.tie_weights()
    model.to(dtype=torch.bfloat16)  # type: ignore[call-arg]  # its decorator hides self
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    folder_for_older(out)
    say(progress=0.95)

    return {"name": name, "licence": licence}


def _gguf_facts(file: Path) -> tuple[str, str]:
    """(name, licence) as the file says. Raises Refused where it is not a whole GGUF file, or one of
    several."""
    try:
        header_check(file)
    except GgufProblem as problem:
        raise Refused(str(problem)) from problem

    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
    except Exception as error:
        raise Refused(CUT_OFF) from error

    parts = reader.get_field("split.count")
    if parts and parts.contents() > 1:
        raise Refused(
            "This is one part of a GGUF model in several files. Merge them with llama.cpp's "
            "gguf-split first."
        )

    end = max((tensor.data_offset + tensor.n_bytes for tensor in reader.tensors), default=0)
    if not 0 < end <= file.stat().st_size:
        raise Refused("This GGUF file is cut off or holds no weights. Upload it again.")

    return _gguf_text(reader, "general.name"), _gguf_text(reader, "general.license")


def _gguf_text(reader: Any, key: str) -> str:
    field = reader.get_field(key)
    return str(field.contents())[:120] if field else ""


def folder_try(folder: Path) -> dict[str, Any]:
    """Load what a train would load, short of the weights; {"example": a dialogue as the template
    renders it}.

    Raises Refused where transformers does not know the architecture or the tokenizer, where the two
    or the weights do not belong together, or the template fails."""
    vocabulary = architecture_check(folder)
    tokenizer = _tokenizer_tried(folder, vocabulary)
    if not tokenizer.chat_template:
        return {"example": ""}

    try:
        example = tokenizer.apply_chat_template(EXAMPLE, tokenize=False)
    except Exception as error:
        raise Refused(
            f"The chat template cannot render a question and its answer: {reason(error)}"
        ) from error

    return {"example": example[:20_000]}


def _tokenizer_tried(folder: Path, vocabulary: int) -> Any:
    """The folder's tokenizer, for a model with a vocabulary of this many tokens. Raises Refused."""
    from transformers import AutoTokenizer
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    wanted = _tokenizer_class(folder)
    if wanted and tokenizer_class_from_name(wanted) is None:
        raise Refused(
            f"tokenizer_config.json asks for the tokenizer class {wanted!r}, which transformers "
            "does not have."
        )

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise Refused(f"transformers cannot load the tokenizer: {reason(error)}") from error

    ids = tokenizer(SENTENCE)["input_ids"] if len(tokenizer) else []
    if not ids:
        raise Refused("The folder's tokenizer is empty: it turns text into no tokens.")

    back = str(tokenizer.decode(ids, skip_special_tokens=True))
    if _letters(back) != _letters(SENTENCE):
        raise Refused(
            f"The tokenizer is damaged, or read as one of another kind: it turns “{SENTENCE}” into "
            f"“{back[:80]}”."
        )

    if len(tokenizer) > vocabulary:
        raise Refused(
            f"The tokenizer has {len(tokenizer):,} tokens, and the model only {vocabulary:,}. It is of "
            "another model."
        )

    if tokenizer.eos_token is None:
        raise Refused(
            "The tokenizer has no end token, so a model could never learn to stop. Add eos_token "
            "to its tokenizer_config.json, or choose another model."
        )

    return tokenizer


def _letters(text: str) -> list[str]:
    """The words of a text without what tokenizers may change: capitals, and spaces around signs."""
    return re.findall("[a-z]+", text.casefold())


def _tokenizer_class(folder: Path) -> str:
    file = folder / "tokenizer_config.json"
    if not file.exists():
        return ""

    config = json.loads(file.read_bytes())
    return str(config.get("tokenizer_class") or "")


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case ["gguf", file, out]:
                say(done=gguf_convert(Path(file), Path(out)))
            case ["unpack", folder, out]:
                from engine.loading.unpack import folder_unpack

                folder_unpack(Path(folder), Path(out), lambda share: say(progress=share))
                say(done={})
            case ["try", folder]:
                say(done=folder_try(Path(folder)))
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except Refused as error:
        say(error=str(error))
        return 1

    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
