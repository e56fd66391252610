"""One chosen reward: a function, its weight and its own parameters."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class RewardChoice(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    function: str
    weight: float = Field(1.0, ge=-100, le=100)
    parameters: dict[str, Any] = Field(default_factory=dict)
