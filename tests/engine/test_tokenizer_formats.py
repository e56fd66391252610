"""Tokenizers that come as tokenizer.model alone: SentencePiece's format, and tiktoken's under the
same name."""

import base64
import json

import pytest
import sentencepiece
from transformers import AutoTokenizer

from engine.loading.architecture import Refused
from engine.models.inspect import folder_read
from engine.programs.convert import folder_try
from tests.engine.runs import toy_rows, train
from tests.tiny import CHAT_TEMPLATE, tiny_model

TEXT = "What colour is the sky? Zoë says: blue 🙂"
SENTENCES = [
    f"Ball {number}? It is {colour}, the sky."
    for number in range(30)
    for colour in ("red", "green", "blue")
]


def without_tokenizer(folder, architecture="llama"):
    tiny_model(folder, architecture)
    for path in folder.iterdir():
        if path.name not in ("config.json", "generation_config.json", "model.safetensors"):
            path.unlink()
    return folder


def sentencepiece_write(folder, **options):
    text = folder.parent / "sentences.txt"
    text.write_text("\n".join(SENTENCES * 3))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=310,
        hard_vocab_limit=False,
        byte_fallback=True,
        minloglevel=2,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        **options,
    )
    (folder / "tokenizer.vocab").unlink()


def tiktoken_write(folder):
    """As Llama 3 was published: a word in base64 and its rank, a line each."""
    words = [bytes([number]) for number in range(256)] + [b" t", b"th", b" th", b"in", b"is"]
    lines = [f"{base64.b64encode(word).decode()} {rank}" for rank, word in enumerate(words)]
    (folder / "tokenizer.model").write_text("\n".join(lines) + "\n")


def settings_write(folder, **settings):
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture(params=["llama", "gemma", "tiktoken"])
def folder(request, tmp_path):
    kind = request.param
    folder = without_tokenizer(tmp_path / kind, "gemma" if kind == "gemma" else "llama")
    if kind == "tiktoken":
        tiktoken_write(folder)
        settings_write(
            folder,
            tokenizer_class="PreTrainedTokenizerFast",
            eos_token="<|end|>",
            chat_template=CHAT_TEMPLATE,
        )
    else:
        # Gemma puts no space in front of a text.
        sentencepiece_write(folder, model_type="bpe", add_dummy_prefix=kind == "llama")
        settings_write(
            folder, tokenizer_class=f"{kind.capitalize()}Tokenizer", chat_template=CHAT_TEMPLATE
        )
    return folder


def test_it_is_imported_and_reads_what_its_library_reads(folder):
    assert folder_read(folder).chat_template
    assert folder_try(folder)["example"].startswith("<|im_start|>user")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"], skip_special_tokens=True).strip() == TEXT
    if folder.name != "tiktoken":
        own = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        assert tokenizer.tokenize(TEXT) == own.encode(TEXT, out_type=str)


def test_a_train_learns_with_it_and_saves_it_readable(folder, tmp_path):
    run = train(tmp_path / "run", folder, toy_rows(8), max_steps=2, sample_prompts=1)
    assert run.code == 0, run.last
    before, after = (
        AutoTokenizer.from_pretrained(path) for path in (folder, run.directory / "model")
    )
    assert before(TEXT)["input_ids"] == after(TEXT)["input_ids"]


def test_a_tokenizer_of_another_kind_than_the_model_says_is_refused_by_what_it_loses(tmp_path):
    """Qwen's tokenizer class reads a SentencePiece file as if it were its own, and drops every
    space."""
    folder = without_tokenizer(tmp_path / "qwen2", "qwen2")
    sentencepiece_write(folder, model_type="bpe")
    with pytest.raises(Refused, match="turns “What colour is the sky"):
        folder_try(folder)


def test_a_damaged_file_is_refused(tmp_path):
    folder = without_tokenizer(tmp_path / "damaged")
    (folder / "tokenizer.model").write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15")
    settings_write(folder, tokenizer_class="LlamaTokenizer")
    with pytest.raises(Refused, match="cannot load the tokenizer"):
        folder_try(folder)
