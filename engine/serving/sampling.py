"""Which token comes next."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Sampling:
    """temperature: 0 for the likeliest token. top_k: 0 for all tokens, top_p: 1 for all, min_p: 0
    for all. repeat_penalty: logits of tokens that occurred are divided by it. presence_penalty,
    frequency_penalty: taken from the logits of tokens that the answer has, once, and as often as
    they occur. seed: None for another one each time. stops: texts at which the answer ends.
    max_tokens: of the answer. top_logprobs: how many likeliest tokens are told with each token;
    None for no log-probabilities."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stops: list[str] = field(default_factory=list)
    max_tokens: int = 0
    top_logprobs: int | None = None


# Below this the likeliest token is all but certain, and logits divided by it are no numbers.
LEAST_TEMPERATURE = 1e-5


class Sampler:
    """Chooses the tokens of one answer. llama.cpp's order: penalties, top-k, top-p, min-p, and the
    temperature last."""

    def __init__(self, sampling: Sampling, prompt: list[int], device: torch.device) -> None:
        self.sampling = sampling
        self.known = set(prompt)
        self.written: Counter[int] = Counter()
        self.generator = torch.Generator(device)

        if sampling.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(sampling.seed % 2**63)

    def choose(self, logits: torch.Tensor) -> int:
        """logits: (vocabulary,) in fp32, of which a copy is changed."""
        logits = self._penalised(logits.clone())
        is_greedy = self.sampling.temperature < LEAST_TEMPERATURE
        token = int(logits.argmax()) if is_greedy else self._drawn(logits)

        self.known.add(token)
        self.written[token] += 1
        return token

    def _penalised(self, logits: torch.Tensor) -> torch.Tensor:
        wanted = self.sampling

        if wanted.repeat_penalty != 1:
            places = torch.tensor(sorted(self.known), device=logits.device)
            values = logits[places]
            by = wanted.repeat_penalty
            logits[places] = torch.where(values > 0, values / by, values * by)

        if self.written and (wanted.presence_penalty or wanted.frequency_penalty):
            places = torch.tensor(list(self.written), device=logits.device)
            counts = torch.tensor(list(self.written.values()), device=logits.device)
            logits[places] -= wanted.presence_penalty + wanted.frequency_penalty * counts

        return logits

    def _drawn(self, logits: torch.Tensor) -> int:
        wanted = self.sampling
        values, places = logits.sort(descending=True)  # (vocabulary,) each

        if wanted.top_k > 0:
            values = values[: wanted.top_k]
        if wanted.top_p < 1:
            chances = values.softmax(-1)
            before = chances.cumsum(-1) - chances
            values = values[: max(1, int((before < wanted.top_p).sum()))]
        if wanted.min_p > 0:
            chances = values.softmax(-1)
            values = values[: max(1, int((chances >= wanted.min_p * chances[0]).sum()))]

        chances = (values / wanted.temperature).softmax(-1)
        drawn = torch.multinomial(chances, 1, generator=self.generator)
        return int(places[drawn])
