"""A vocabulary that llama.cpp's converter does not know is written where llama.cpp splits texts as
its tokenizer does."""

import json
from pathlib import Path

import pytest
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.scripts.gguf_new_metadata import MetadataDetails, copy_with_new_metadata
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from engine.exporting.gguf import gguf_file, gguf_write
from engine.exporting.pre_tokenizers import DIGIT, GPT_2, NAMES, pre_tokenizer_name
from engine.exporting.request import ExportRequest
from engine.proof.llama_cpp import LlamaQuestions, llama_ask
from engine.publish.tokenizer import PROBE
from tests.engine.gguf_files import bpe_model
from tests.tiny import SPECIALS

# What pre-tokenizers treat differently, each several times, so that the vocabulary has tokens that
# only some of them let through.
TEXTS = (
    PROBE,
    "12 345 6789 01234567, x2y3 3.14",
    "We'LL can't IT'S they'Ve 'tis",
    "a  b   c\t\td \n e\n\n\nf\r\n\r\ng;\nh ;;;\n\n  ",
    "हिन्दी कि̈ नमस्ते, e\u0301te\u0301 Vie\u0323\u0302t",
    "zebra (zebra) zebras ZEBRA",
)
WHOLE = "zebra"


def byte_level(*splits):
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not splits)
    return pre_tokenizers.Sequence([*splits, last]) if splits else last


def isolated(pattern: str):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


@pytest.fixture(scope="module")
def vocabulary() -> dict:
    """tokenizer.json of a tokenizer that was trained on whole texts, and has one token that no
    merges lead to."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([text for text in TEXTS for _ in range(4)], trainer)
    found = json.loads(raw.to_str())
    merges = found["model"]["merges"]
    found["model"]["merges"] = [pair for pair in merges if WHOLE not in "".join(pair)]
    vocab = found["model"]["vocab"]
    assert WHOLE in vocab or vocab.setdefault(WHOLE, len(vocab))
    return found


def tokenizer_of(vocabulary: dict, splitter, **model) -> PreTrainedTokenizerFast:
    raw = Tokenizer.from_str(json.dumps(vocabulary | {"model": vocabulary["model"] | model}))
    raw.pre_tokenizer = splitter
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )


def splitter_of(patterns: tuple[str, ...]):
    """As published tokenizers write it."""
    if patterns == (GPT_2,):
        return byte_level()
    if patterns == (DIGIT, GPT_2):
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, byte_level()])
    return byte_level(*map(isolated, patterns))


@pytest.fixture(scope="module")
def file(vocabulary, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    tokenizer = tokenizer_of(vocabulary, byte_level())
    model = bpe_model(folder / "model", "llama", tokenizer)
    (folder / "out").mkdir()
    gguf_write(ExportRequest(model), folder / "out", lambda share: None)
    return gguf_file(folder / "out")


def told(file: Path, name: str, out: Path) -> list[list[int]]:
    """llama.cpp's tokens of the texts, with the pre-tokenizer `name`."""
    reader, writer = GGUFReader(file), GGUFWriter(out, "llama")
    pre = {"tokenizer.ggml.pre": MetadataDetails(GGUFValueType.STRING, name)}
    copy_with_new_metadata(reader, writer, pre, [])
    return llama_ask(LlamaQuestions(str(out), "", list(TEXTS), [], [[1]], 1, [[]], [])).tokens


@pytest.mark.long
@pytest.mark.parametrize("known", NAMES, ids=NAMES.values())
def test_llama_cpp_splits_as_the_tokenizer_that_is_recognised(known, vocabulary, file, tmp_path):
    patterns, is_whole = known
    tokenizer = tokenizer_of(vocabulary, splitter_of(patterns), ignore_merges=is_whole)
    name = pre_tokenizer_name(tokenizer)
    assert name == NAMES[known]

    wanted = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    assert told(file, name, tmp_path / "out.gguf") == wanted
    others = set(NAMES.values()) - {name}
    assert all(wanted != tokens_of(vocabulary, other) for other in others)


def tokens_of(vocabulary: dict, name: str) -> list[list[int]]:
    ((patterns, is_whole),) = (known for known, found in NAMES.items() if found == name)
    tokenizer = tokenizer_of(vocabulary, splitter_of(patterns), ignore_merges=is_whole)
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]


UNKNOWN = {
    "another pattern": (byte_level(isolated(r"\p{L}+")), {}),
    "a text and no pattern": (byte_level(pre_tokenizers.Split("\n", "isolated")), {}),
    "pieces that are thrown away": (byte_level(pre_tokenizers.Split(Regex(GPT_2), "removed")), {}),
    "the pieces between": (
        byte_level(pre_tokenizers.Split(Regex(GPT_2), "isolated", invert=True)),
        {},
    ),
    "whole numbers": (
        pre_tokenizers.Sequence([pre_tokenizers.Digits(), byte_level()]),
        {},
    ),
    "one more step": (pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), byte_level()]), {}),
    "a space in front": (pre_tokenizers.ByteLevel(add_prefix_space=True), {}),
    "letters and not bytes": (pre_tokenizers.Metaspace(), {}),
    "words taken whole": (byte_level(), {"ignore_merges": True}),
    "bytes for what is missing": (byte_level(), {"byte_fallback": True}),
    "other signs at the end of words": (byte_level(), {"end_of_word_suffix": "</w>"}),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_llama_cpp_does_otherwise_has_no_name(vocabulary, what):
    splitter, model = UNKNOWN[what]
    assert pre_tokenizer_name(tokenizer_of(vocabulary, splitter, **model)) is None


def test_only_texts_that_stay_as_they_are_have_one(vocabulary):
    tokenizer = tokenizer_of(vocabulary, byte_level())
    for normalizer, name in (
        (normalizers.NFC(), "gpt-2"),
        (normalizers.Sequence([]), "gpt-2"),
        (normalizers.Lowercase(), None),
        (normalizers.Sequence([normalizers.Lowercase()]), None),
    ):
        tokenizer.backend_tokenizer.normalizer = normalizer
        assert pre_tokenizer_name(tokenizer) == name


def test_a_tokenizer_of_another_kind_has_none():
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    words.pre_tokenizer = byte_level()
    assert pre_tokenizer_name(PreTrainedTokenizerFast(tokenizer_object=words)) is None
    assert pre_tokenizer_name(object()) is None
