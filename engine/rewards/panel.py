"""Several reward functions over a batch of answers, and what their weighted sum is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.rewards.base import Answer, Unscored
from engine.rewards.custom import CustomScorer
from engine.rewards.model import RewardModel, RewardModelScorer
from engine.rewards.parameters import RewardChoice
from engine.rewards.registry import CUSTOM_PREFIX, reward_title

if TYPE_CHECKING:
    from engine.contract.rundir import Resource


@dataclass(frozen=True)
class Failure:
    """`row`: the place of the answer in its batch, from 0."""

    function: str
    row: int
    reason: str

    def __str__(self) -> str:
        return f"{reward_title(self.function)}, answer {self.row + 1}: {self.reason}"


@dataclass(frozen=True)
class Scores:
    """`values[name]`: one score an answer, None where there is none; `totals`: the weighted sums,
    None for an answer that one of the functions could not score: a sum without it would count it as
    0."""

    values: dict[str, list[float | None]]
    totals: list[float | None]
    failures: list[Failure]


class Panel:
    """`names`: one a function, in order; a function that was chosen twice is numbered."""

    def __init__(self, choices: Sequence[RewardChoice], scorers: Sequence[Any]) -> None:
        self.choices = choices
        self.scorers = scorers
        self.names = _names([choice.function for choice in choices])

    @classmethod
    def of(cls, choices: Sequence[RewardChoice], resources: Mapping[str, Resource]) -> Panel:
        """Load what the functions need. Raises TrainError where something is missing."""
        return cls(choices, [_scorer(choice, resources) for choice in choices])

    def score(self, answers: Sequence[Answer]) -> Scores:
        values: dict[str, list[float | None]] = {}
        failures: list[Failure] = []
        totals: list[float | None] = [0.0] * len(answers)

        for name, choice, scorer in zip(self.names, self.choices, self.scorers, strict=True):
            found = _score_all(scorer, answers)
            values[name] = []
            for row, score in enumerate(found):
                if isinstance(score, Unscored):
                    failures.append(Failure(choice.function, row, str(score)))
                    values[name].append(None)
                    totals[row] = None
                    continue

                values[name].append(score)
                if (total := totals[row]) is not None:
                    totals[row] = total + choice.weight * score

        return Scores(values, totals, failures)


def _score_all(scorer: Any, answers: Sequence[Answer]) -> Sequence[float | Unscored]:
    if hasattr(scorer, "score_all"):
        found: Sequence[float | Unscored] = scorer.score_all(answers)
    else:
        found = [_score(scorer, answer) for answer in answers]

    return [
        score
        if isinstance(score, Unscored) or math.isfinite(score)
        else Unscored(f"It came to {score}.")
        for score in found
    ]


def _score(scorer: Any, answer: Answer) -> float | Unscored:
    try:
        return float(scorer.score(answer))
    except Unscored as reason:
        return reason
    except Exception as error:
        return Unscored(f"It failed: {type(error).__name__}: {str(error)[:200]}")


def _scorer(choice: RewardChoice, resources: Mapping[str, Resource]) -> Any:
    from engine.messages.failures import TrainError

    def resource(key: str) -> Resource:
        if key not in resources:
            raise TrainError(
                "bad_spec", f"The spec names no {key}.", "Copy the train and start it again."
            )

        return resources[key]

    if choice.function.startswith(CUSTOM_PREFIX):
        slug = choice.function.removeprefix(CUSTOM_PREFIX)
        return CustomScorer(slug, resource(f"reward_function:{slug}"), choice.parameters)

    made = choice.make()
    if isinstance(made, RewardModel):
        return RewardModelScorer(resource(made.resource))

    if obstacle := made.obstacle():
        raise TrainError(
            "reward_unavailable", f"{made.title}: {obstacle}", "Choose another reward."
        )

    return made


def _names(functions: Sequence[str]) -> list[str]:
    seen: Counter[str] = Counter()
    names = []
    for function in functions:
        plain = function.removeprefix(CUSTOM_PREFIX)
        seen[plain] += 1
        names.append(plain if seen[plain] == 1 else f"{plain}_{seen[plain]}")

    return names
