"""Generation for several prompts at once: left-padded into one batch."""

from __future__ import annotations

from typing import Any

import torch


def left_padded(
    prompts: list[list[int]], pad_token_id: int, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of different lengths, so that all end in the last column:

        A0 A1                    .  .  A0 A1          0  0  1  1
        B0 B1 B2 B3              B0 B1 B2 B3          1  1  1  1

    Returns (input_ids, attention_mask), each (prompts, tokens of the longest), int64."""
    width = max(len(prompt) for prompt in prompts)
    ids: list[list[int]] = []
    mask: list[list[int]] = []

    for prompt in prompts:
        padding = width - len(prompt)
        ids.append([pad_token_id] * padding + prompt)
        mask.append([0] * padding + [1] * len(prompt))

    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


@torch.no_grad()
def answers_generate(
    model: Any, prompts: list[list[int]], padding: int = 0, **options: Any
) -> list[list[int]]:
    """The tokens that `model` writes behind each prompt, with the end token and, behind it in rows
    that end before others, the padding of `generate`.

    `prompts`: token ids, at least one of each. `padding`: the token to the left of shorter prompts;
    it is masked. `options`: of `model.generate`, such as max_new_tokens."""
    input_ids, attention_mask = left_padded(prompts, padding, model.device)
    generated = model.generate(input_ids=input_ids, attention_mask=attention_mask, **options)
    # (prompts, tokens of the longest prompt + new tokens)
    answers: list[list[int]] = generated[:, input_ids.shape[1] :].tolist()

    return answers
