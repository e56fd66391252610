"""One thread that writes all answers of a model, token by token in turn.

Which adapter a model has is a state of the model, so that no second thread may compute."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from engine.loading.architecture import reason
from engine.serving.sampling import Sampler, Sampling

# Tokens of a prompt that are read at once, before other answers get their turn.
CHUNK = 256


@dataclass(frozen=True)
class Token:
    """log_prob, likeliest: natural logarithms before any sampling, where they are wanted:
    [(token, log-probability)]."""

    id: int
    log_prob: float = 0.0
    likeliest: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True)
class End:
    """is_stop: whether the model came to its end; else the answer was cut. problem: why there is
    no more, "" where nothing is wrong."""

    is_stop: bool
    problem: str = ""


@dataclass
class Task:
    """prompt: token ids, at least one. adapter: its name, "" for none. ends: tokens at which the
    answer ends. say: called in the thread that writes, with each token but the end, and with
    End last. Setting `left` ends it before the next token."""

    prompt: list[int]
    adapter: str
    sampling: Sampling
    ends: set[int]
    say: Callable[[Token | End], None]
    left: threading.Event = field(default_factory=threading.Event)


class Writing:
    """One answer in the making."""

    def __init__(self, model: Any, task: Task) -> None:
        self.model = model
        self.task = task
        self.ids = torch.tensor([task.prompt], device=model.device)  # (1, tokens)
        self.read = 0
        self.count = 0
        self.sampler = Sampler(task.sampling, task.prompt, model.device)
        self.state = _state_prepare(model, self.ids)

    @torch.no_grad()
    def step(self) -> bool:
        """Read a part of the prompt, or write a token. Returns whether the answer has ended."""
        length = self.ids.shape[1]
        count = min(self._most_at_once(), length - self.read)
        logits = self._forward(self.read + count, count)
        self.read += count
        if self.read < length:
            return False

        return self._write(logits)

    def _most_at_once(self) -> int:
        """All of the prompt for models without a cache, and for layers with a state of their own or
        with a sliding window, which keep too little of what they read before."""
        cache = self.state.get("cache")
        kinds = [*getattr(cache, "is_linear", [True]), *getattr(cache, "is_sliding", [True])]
        if cache is None or any(kinds):
            return int(self.ids.shape[1])

        return CHUNK

    def _forward(self, end: int, count: int) -> torch.Tensor:
        """Logits behind the last of `count` tokens that end at `end`: (vocabulary,) in fp32."""
        is_first = self.read == 0
        state = dict(self.state)
        if state.get("attention_mask") is not None:
            state["attention_mask"] = self.ids.new_ones((1, end))

        inputs = self.model.prepare_inputs_for_generation(
            self.ids[:, :end],
            next_sequence_length=count if state.get("cache") is not None else None,
            is_first_iteration=is_first,
            **state,
        )
        outputs = self.model(**inputs, return_dict=True)
        self.state = self.model._update_model_kwargs_for_generation(outputs, state)
        logits: torch.Tensor = outputs.logits[0, -1].float()
        return logits

    def _write(self, logits: torch.Tensor) -> bool:
        token = self.sampler.choose(logits)
        if token in self.task.ends:
            self.task.say(End(is_stop=True))
            return True

        self.task.say(_token_report(token, logits, self.task.sampling.top_logprobs))
        self.ids = torch.cat([self.ids, self.ids.new_tensor([[token]])], dim=1)
        self.count += 1
        if self.count < self.task.sampling.max_tokens:
            return False

        self.task.say(End(is_stop=False))
        return True


def _state_prepare(model: Any, ids: torch.Tensor) -> dict[str, Any]:
    """What transformers' generation keeps from one step to the next: the cache above all."""

    def state_only(_model: Any, _ids: Any, *_more: Any, **state: Any) -> dict[str, Any]:
        return state

    found: dict[str, Any] = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=1,
        do_sample=False,
        custom_generate=state_only,
    )
    known = ("logits_processor", "stopping_criteria", "generation_config")
    return {key: value for key, value in found.items() if key not in known}


def _token_report(token: int, logits: torch.Tensor, top: int | None) -> Token:
    if top is None:
        return Token(token)

    log_probs = logits.log_softmax(-1)
    best = log_probs.topk(min(top, len(log_probs)))
    likeliest = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return Token(token, float(log_probs[token]), likeliest)


class Writer:
    """The thread. adapters: whether the model is a PeftModel. parallel: answers that are written in
    turn; others wait."""

    def __init__(self, model: Any, *, adapted: bool, parallel: int) -> None:
        self.model = model
        self.base = model.get_base_model() if adapted else model
        self.adapted = adapted
        self.parallel = parallel
        self.waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self.current: str | None = None

    def start(self) -> None:
        threading.Thread(target=self._run, name="writer", daemon=True).start()

    def add(self, task: Task) -> None:
        self.waiting.put(task)

    def _run(self) -> None:
        active: list[Writing] = []
        while True:
            self._fill(active)
            # Those with the same adapter one behind the other.
            for writing in sorted(active, key=lambda each: each.task.adapter):
                if self._has_ended(writing):
                    active.remove(writing)

    def _fill(self, active: list[Writing]) -> None:
        while len(active) < self.parallel:
            if active and self.waiting.empty():
                return

            task = self.waiting.get()
            if task.left.is_set():
                continue

            try:
                active.append(Writing(self.base, task))
            except Exception as error:
                task.say(End(is_stop=False, problem=reason(error)))

    def _has_ended(self, writing: Writing) -> bool:
        task = writing.task
        if task.left.is_set():
            return True

        try:
            self._select(task.adapter)
            return writing.step()
        except Exception as error:
            task.say(End(is_stop=False, problem=reason(error)))
            return True

    def _select(self, adapter: str) -> None:
        if not self.adapted or adapter == self.current:
            return

        if adapter:
            self.model.base_model.enable_adapter_layers()
            self.model.set_adapter(adapter)
        else:
            self.model.base_model.disable_adapter_layers()

        self.current = adapter
