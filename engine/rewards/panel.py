"""Several reward functions over a batch of answers, and their weighted sum."""

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
    """Why a function could not score an answer. `row`: the index of the answer in its batch."""

    function: str
    row: int
    reason: str

    def __str__(self) -> str:
        return f"{reward_title(self.function)}, answer {self.row + 1}: {self.reason}"


@dataclass(frozen=True)
class Scores:
    """`values[name]`: one score an answer, None where there is none. `totals`: the weighted sums,
    None for an answer that one of the functions could not score: a sum would count the missing
    score as 0."""

    values: dict[str, list[float | None]]
    totals: list[float | None]
    failures: list[Failure]


class Panel:
    """The reward functions of a train. `names`: one for each function, in order; the second and later
    uses of the same function are numbered."""

    def __init__(self, choices: Sequence[RewardChoice], scorers: Sequence[Any]) -> None:
        self.choices = choices
        self.scorers = scorers
        self.names = _names([choice.function for choice in choices])

    @property
    def columns(self) -> set[str] | None:
        """Which columns of the rows the functions read; None for all, as functions of one's own
        may."""
        names: set[str] = set()
        for choice in self.choices:
            if choice.function.startswith(CUSTOM_PREFIX):
                return None

            names |= choice.reward().columns()

        return names

    @classmethod
    def of(cls, choices: Sequence[RewardChoice], resources: Mapping[str, Resource]) -> Panel:
        """Load what the functions need. Raises TrainError where something is missing."""
        return cls(choices, [_scorer(choice, resources) for choice in choices])

    def score(self, answers: Sequence[Answer]) -> Scores:
        values: dict[str, list[float | None]] = {}
        failures: list[Failure] = []
        totals: list[float | None] = [0.0] * len(answers)

        for name, choice, scorer in zip(self.names, self.choices, self.scorers, strict=True):
            column: list[float | None] = []
            values[name] = column

            for row, score in enumerate(_score_all(scorer, answers)):
                total = totals[row]

                if isinstance(score, Unscored):
                    failures.append(Failure(choice.function, row, str(score)))
                    column.append(None)
                    totals[row] = None
                elif total is not None:
                    column.append(score)
                    totals[row] = total + choice.weight * score
                else:
                    column.append(score)

        return Scores(values, totals, failures)


def _score_all(scorer: Any, answers: Sequence[Answer]) -> list[float | Unscored]:
    """One finite score an answer, or why there is none."""
    if hasattr(scorer, "score_all"):
        scores: Sequence[float | Unscored] = scorer.score_all(answers)
    else:
        scores = [_score(scorer, answer) for answer in answers]

    return [_finite(score) for score in scores]


def _finite(score: float | Unscored) -> float | Unscored:
    if isinstance(score, Unscored) or math.isfinite(score):
        return score

    return Unscored(f"It came to {score}.")


def _score(scorer: Any, answer: Answer) -> float | Unscored:
    try:
        return float(scorer.score(answer))
    except Unscored as reason:
        return reason
    except Exception as error:
        return Unscored(f"It failed: {type(error).__name__}: {str(error)[:200]}")


def _scorer(choice: RewardChoice, resources: Mapping[str, Resource]) -> Any:
    """An object with `score(answer)` or `score_all(answers)`. Raises TrainError."""
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

    reward = choice.reward()
    if isinstance(reward, RewardModel):
        return RewardModelScorer(resource(reward.resource))

    if obstacle := reward.obstacle():
        raise TrainError(
            "reward_unavailable", f"{reward.title}: {obstacle}", "Choose another reward."
        )

    return reward


def _names(functions: Sequence[str]) -> list[str]:
    uses: Counter[str] = Counter()
    names = []

    for function in functions:
        name = function.removeprefix(CUSTOM_PREFIX)
        uses[name] += 1
        names.append(name if uses[name] == 1 else f"{name}_{uses[name]}")

    return names
