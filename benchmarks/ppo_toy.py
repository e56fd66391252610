"""The toy task of both PPO trainers: a random Llama with a vocabulary of 64 words, rewarded for the
share of one word among 16."""

from __future__ import annotations

import json
from pathlib import Path

TARGET = "w7"
WORDS = [f"w{number}" for number in range(60)]
SPECIALS = ["<pad>", "<end>", "<user>", "<assistant>"]
LENGTH = 16
PROMPT_WORDS = 4
TEMPLATE = (
    "{% for m in messages %}{{ '<user> ' if m['role'] == 'user' else '<assistant> ' }}{{ "
    "m['content'] }} {% endfor %}"
)


def make(folder: Path, seed: int, prompts: int) -> None:
    """Write the model with its tokenizer to folder/model, and prompts of random words to
    folder/prompts.jsonl."""
    import random

    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate([*SPECIALS, *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=raw, pad_token="<pad>", eos_token="<end>", padding_side="left"
    )
    tokenizer.chat_template = TEMPLATE + "{% if add_generation_prompt %}<assistant>{% endif %}"
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )

    model = LlamaForCausalLM(config)
    (folder / "model").mkdir(parents=True)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    dice = random.Random(seed)
    rows = [{"prompt": " ".join(dice.choices(WORDS, k=PROMPT_WORDS))} for _ in range(prompts)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
