"""Samples: the model answers a few prompts before and after the train, greedily, so that people can
read what it has learned."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from engine.chat.render import Renderer
from engine.chat.template import Message
from engine.loading.batch_generation import answers_generate
from engine.rows.examples import Example
from engine.run.job import Job

BATCH = 8
# Of a plain text the model gets the first part as its prompt, at most this many tokens.
TEXT_PROMPT_TOKENS = 32


@dataclass(frozen=True)
class Prompt:
    """One sample prompt: `shown` and `reference` for people, `ids` for the model."""

    shown: str
    reference: str
    ids: list[int]


@dataclass(frozen=True)
class Written:
    """An answer without the token that ends it. stopped: whether the model wrote that token; else
    it was cut."""

    ids: list[int]
    stopped: bool


class Stop(StoppingCriteria):
    """Writing ends once `wanted` says so."""

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self.wanted = wanted

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return torch.full(
            (input_ids.shape[0],), self.wanted(), dtype=torch.bool, device=input_ids.device
        )


def prompts_of(examples: list[Example], renderer: Renderer, max_tokens: int) -> list[Prompt]:
    """The last question of each conversation, or the beginning of each text. Long prompts lose
    their beginning."""
    prompts = []

    for example in examples:
        if example.messages is None:
            prompts.append(_text_prompt(example, renderer, max_tokens))
        else:
            prompts.append(_question_prompt(example, renderer, max_tokens))

    return prompts


def _question_prompt(example: Example, renderer: Renderer, max_tokens: int) -> Prompt:
    ids = renderer.prompt_ids(example.asked, example.tools)
    return Prompt(shown(example.asked), example.answer, ids[-max_tokens:])


def _text_prompt(example: Example, renderer: Renderer, max_tokens: int) -> Prompt:
    text = example.text or ""
    ids = renderer.tokenizer(text)["input_ids"]
    count = max(1, min(TEXT_PROMPT_TOKENS, len(ids) // 2, max_tokens))
    beginning = renderer.tokenizer.decode(ids[:count], skip_special_tokens=True)

    return Prompt(beginning, text.removeprefix(beginning), list(ids[:count]))


def shown(messages: list[Message]) -> str:
    """The text of a single question, or a longer conversation with the role before each turn."""
    if [message["role"] for message in messages] == ["user"]:
        return str(messages[0]["content"])

    turns = [f"{turn['role'].capitalize()}: {_turn_text(turn)}" for turn in messages]
    return "\n\n".join(turns)


def _turn_text(message: Message) -> str:
    """The content of a turn and its tool calls, a line each."""
    calls = [call["function"] for call in message.get("tool_calls", ())]
    lines = [message["content"], *(json.dumps(call, ensure_ascii=False) for call in calls)]
    return "\n".join(line for line in lines if line)


def write(
    job: Job, model: Any, tokenizer: Any, prompts: list[Prompt], stage: str, step: int
) -> None:
    """Answer all prompts and write the answers as sample events.

    Before the train a stop ends this; after it only a signal does, since what was learned is saved
    by then. Answers that were interrupted are not reported."""
    model.eval()
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        answers = _answers(job, model, tokenizer, [prompt.ids for prompt in batch], stage)

        if _is_stopped(job, stage):
            return

        for index, (prompt, answer) in enumerate(zip(batch, answers, strict=True), start):
            text = tokenizer.decode(answer.ids, skip_special_tokens=True).strip()
            job.emit(
                "sample",
                index=index,
                stage=stage,
                step=step,
                prompt=prompt.shown,
                reference=prompt.reference,
                text=text,
                tokens=len(answer.ids),
                stopped=answer.stopped,
            )

            end = "" if answer.stopped else f" (cut at {len(answer.ids):,} tokens)"
            job.say(f"sample {index + 1} {stage}: {_short(prompt.shown)} → {_short(text)}{end}")


def _is_stopped(job: Job, stage: str) -> bool:
    return job.terminated if stage == "after" else job.stopping


def _answers(
    job: Job, model: Any, tokenizer: Any, prompts: list[list[int]], stage: str
) -> list[Written]:
    """Greedy answers, whatever the base model's own settings for generation are."""
    with greedy(model):
        answers = answers_generate(
            model,
            prompts,
            tokenizer.pad_token_id,
            max_new_tokens=job.parameters.sample_max_tokens,
            do_sample=False,
            use_cache=True,
            stopping_criteria=StoppingCriteriaList([Stop(lambda: _is_stopped(job, stage))]),
        )

    ends = model.generation_config.eos_token_id
    stops = {ends} if isinstance(ends, int) else set(ends or [])
    return [_until(answer, stops) for answer in answers]


@contextmanager
def greedy(model: Any) -> Iterator[None]:
    """In the block the model has no settings for generation but its special tokens.

    Base models bring beams, penalties and forbidden repetitions of their own, which `generate`
    would use."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    owners = [owner for owner in (model, base) if "generation_config" in vars(owner)]
    before = [owner.generation_config for owner in owners]
    own = model.generation_config
    plain = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=own.bos_token_id,
        eos_token_id=own.eos_token_id,
        pad_token_id=own.pad_token_id,
    )

    for owner in owners:
        owner.generation_config = plain

    try:
        yield
    finally:
        for owner, config in zip(owners, before, strict=True):
            owner.generation_config = config


def _until(ids: list[int], stops: set[int]) -> Written:
    end = next((index for index, token in enumerate(ids) if token in stops), None)
    return Written(ids if end is None else ids[:end], stopped=end is not None)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else f"{line[:79]}…"
