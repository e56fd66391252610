"""What a model server cannot do is refused by the name of the field, before it answers."""

from __future__ import annotations

from collections.abc import Iterable

from openai_api.errors import ApiProblem

# Ability of a model server -> why there is none, or what it is called in a refusal.
REASONS = {
    "tools": "The chat template of this model has no place for tools. Leave 'tools' out.",
    "embeddings": "This model answers with text and has no embeddings, as all models here.",
}
CALLED = {
    "json_schema": "answers by a JSON schema",
    "json_object": "answers that are JSON",
    "logprobs": "log-probabilities",
    "n": "several answers at once",
    "min_p": "min_p",
    "penalties": "penalties",
    "seed": "seeds",
}


def abilities_check(needs: dict[str, str], abilities: Iterable[str], backend: str) -> None:
    """needs: {ability: the field of the request that needs it}. Raises ApiProblem for the first one
    that is not there."""
    for ability, param in needs.items():
        if ability in abilities:
            continue

        without = (
            f"This model is served by {backend}, which has no {CALLED.get(ability, ability)}. "
            f"Leave '{param}' out."
        )
        raise ApiProblem(REASONS.get(ability, without), param=param, code="unsupported_parameter")
