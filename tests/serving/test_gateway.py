"""Leases of real model servers, and what happens to those who have one."""

import asyncio
import json

from serving.answering import CHAT, Data, State, answer, answer_stream, prompt_pieces

QUESTION = {
    "model": "whoever",
    "messages": [{"role": "user", "content": "What colour is the sky?"}],
    "max_tokens": 12,
    "temperature": 0,
}


async def asked(placement, **more):
    states, words = [], ""
    async for part in answer_stream(placement, CHAT, QUESTION | more):
        if isinstance(part, State):
            states.append(part)
        else:
            assert isinstance(part, Data)
            chunk = json.loads(part.payload)
            for choice in chunk["choices"]:
                words += choice["delta"].get("content") or ""
    return states, words


def test_a_model_is_prepared_loaded_and_answers(house, base):
    states, words = house.run(asked(base))
    phases = [state.phase for state in states]
    print(states)
    assert phases[-1] == "ready"
    assert "loading" in phases
    assert words

    again, same = house.run(asked(base))
    assert [state.phase for state in again] == ["ready"]
    assert same == words


def test_base_and_adapter_share_a_server(house, base, tuned):
    async def both():
        return await asyncio.gather(asked(base), asked(tuned), asked(base))

    (_, first), (_, second), (_, third) = house.run(both())
    assert first == third
    assert first != second
    state = house.state()
    print(state)
    assert len(state["models"]) == 1
    pieces = house.run(prompt_pieces(base, QUESTION["messages"]))
    print(pieces)
    assert [piece.text for piece in pieces if piece.special][:2] == ["<bos>", "<|im_start|>"]
    reply = house.run(answer(tuned, CHAT, QUESTION))
    assert reply["choices"][0]["message"]["content"] == second
