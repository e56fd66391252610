"""The table of reward functions, which form, API, docs and engine read. It imports no training
library."""

from __future__ import annotations

from engine.rewards.answers import ExactAnswer, NumericAnswer
from engine.rewards.base import Reward
from engine.rewards.graders import StringCheck, TextSimilarity
from engine.rewards.judge import LlmJudge
from engine.rewards.model import RewardModel
from engine.rewards.similarity import ChrF, RougeL
from engine.rewards.structure import Contains, JsonValid, Regex, TagFormat
from engine.rewards.style import Language, LengthWindow, NoRepetition

# In the order in which a person should think of them.
REWARDS: dict[str, type[Reward]] = {
    kind.slug: kind
    for kind in (
        NumericAnswer,
        ExactAnswer,
        TagFormat,
        Regex,
        JsonValid,
        Contains,
        LengthWindow,
        RougeL,
        ChrF,
        StringCheck,
        TextSimilarity,
        Language,
        NoRepetition,
        RewardModel,
        LlmJudge,
    )
}

CUSTOM_PREFIX = "custom:"


def reward_title(function: str) -> str:
    """The name of a function for people."""
    if function in REWARDS:
        return REWARDS[function].title

    return function.removeprefix(CUSTOM_PREFIX)


def uses_judge(rewards: object) -> bool:
    """Whether any of these, as the parameter `rewards` has them in JSON, asks the operator's
    judge."""
    entries = rewards if isinstance(rewards, list) else []
    functions = [entry.get("function") for entry in entries if isinstance(entry, dict)]
    return LlmJudge.slug in functions
