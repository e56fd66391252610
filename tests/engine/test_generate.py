"""Prompts that are answered in one left-padded batch get the answers that each gets alone."""

import torch

from engine.loading.batch_generation import answers_generate, left_padded
from engine.loading.pretrained import pretrained_load

PROMPTS = [[5, 9, 30], [8, 41, 3, 77, 12, 64], [7]]
GREEDY = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def test_prompts_end_in_the_last_column_and_padding_is_masked():
    input_ids, attention_mask = left_padded([[5, 6], [7, 8, 9, 4]], 1)
    assert input_ids.tolist() == [[1, 1, 5, 6], [7, 8, 9, 4]]
    assert attention_mask.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert input_ids.dtype == attention_mask.dtype == torch.int64


def test_a_batch_is_answered_as_each_prompt_alone(tiny):
    model = pretrained_load(tiny, dtype=torch.float32).eval()
    alone = [answers_generate(model, [prompt], **GREEDY)[0] for prompt in PROMPTS]
    assert answers_generate(model, PROMPTS, **GREEDY) == alone
    assert [len(answer) for answer in alone] == [8, 8, 8]
    assert len({tuple(answer) for answer in alone}) > 1
