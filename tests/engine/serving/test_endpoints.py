"""The endpoints that all backends of ours have. The tokenizer is a stand-in."""

import asyncio
import json
from types import SimpleNamespace

import pytest
import torch

from engine.serving.endpoints import Endpoints
from engine.serving.sampling import Sampler, Sampling

BOS = 1


def ids(text, *, begins, marks):
    return [BOS, 7] if begins else [7]


@pytest.mark.parametrize(("rendered", "tokens"), [(True, [7]), (False, [BOS, 7])])
def test_a_rendered_conversation_gets_no_second_first_token(rendered, tokens):
    """As in answers: its template writes the first one itself, where there is one."""
    variants = SimpleNamespace(by_key={"": SimpleNamespace(ids=ids)})
    asked = {"content": "text", "add_special": True, "rendered": rendered}

    async def read():
        return asked

    reply = asyncio.run(Endpoints(variants, "key").tokenize(SimpleNamespace(json=read)))
    assert json.loads(reply.body)["tokens"] == tokens


def test_a_temperature_next_to_zero_is_greedy():
    sampler = Sampler(Sampling(temperature=1e-40), [], torch.device("cpu"))
    assert sampler.choose(torch.tensor([1.0, 20.0, 3.0])) == 1
