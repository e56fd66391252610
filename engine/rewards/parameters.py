"""One chosen reward: a function, its weight and its own parameters."""

from __future__ import annotations

import difflib
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from engine.rewards.base import Reward
from engine.rewards.registry import CUSTOM_PREFIX, REWARDS


class RewardChoice(BaseModel):
    """`function`: a slug of engine.rewards.registry, or custom:<slug> for one that was
    registered."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    function: str = Field(max_length=120)
    weight: float = Field(1.0, ge=-100, le=100)
    parameters: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def check_function(self) -> Self:
        """The function must be known and its parameters must fit; those left out are filled in."""
        if self.function.startswith(CUSTOM_PREFIX):
            return self

        kind = REWARDS.get(self.function)
        if kind is None:
            raise _refuse(_unknown(self.function))

        try:
            reward = kind.model_validate(self.parameters)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise _refuse(f"{kind.title}: {reward_problem(kind, first)}") from error

        self.parameters = reward.model_dump(mode="json")
        return self

    def reward(self) -> Reward:
        """The function with its parameters. Not for custom ones."""
        return REWARDS[self.function].model_validate(self.parameters)


def _unknown(function: str) -> str:
    similar = difflib.get_close_matches(function, REWARDS, n=1)
    hint = f"Did you mean {similar[0]}?" if similar else f"There are: {', '.join(REWARDS)}."
    return f"There is no reward {function!r}. {hint}"


def reward_problem(kind: type[Reward], detail: ErrorDetails) -> str:
    """One of pydantic's errors about a function's parameters as a sentence."""
    name = str(detail["loc"][0]) if detail["loc"] else ""
    title = name
    if name in kind.model_fields:
        title = kind.model_fields[name].title or name

    if detail["type"] == "rule":
        message = str(detail["ctx"]["message"])
        return f"{title}: {message}" if title else message

    if detail["type"] == "extra_forbidden":
        known = ", ".join(kind.model_fields) or "none"
        return f"there is no parameter {name!r}; there are: {known}."

    if detail["type"] == "missing":
        return f"{title} is needed."

    message = detail["msg"].removeprefix("Input should be ").removeprefix("String should ")
    return f"{title} must be {message}."


def _refuse(message: str) -> PydanticCustomError:
    return PydanticCustomError("rule", "{message}", {"message": message, "field": "rewards"})
