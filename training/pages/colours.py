"""Which colour a train has in a comparison.

There are five colours; a sixth train takes one of them with a dashed line. A train's colour follows
from its number, so that it is the same in most comparisons, and stays with it when others are added
or taken out: the address of a comparison carries the colours along."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from core.requests import integer_of

COLOURS = 5
SLOTS = 2 * COLOURS


def colours_parse(text: str, ids: Iterable[int]) -> dict[int, int]:
    """{id: slot} of "1,4,2", in the order of `ids`; what is no free slot is left out."""
    chosen: dict[int, int] = {}
    for pk, part in zip(ids, text.split(","), strict=False):
        slot = integer_of(part, least=1, most=SLOTS)
        if slot is not None and slot not in chosen.values():
            chosen[pk] = slot

    return chosen


def colours_choose(ids: Iterable[int], chosen: Mapping[int, int]) -> dict[int, int]:
    """{id: slot} for every one of `ids`: those chosen already, and for each other one the first
    free slot from its own on. Slots 1 to COLOURS are plain, the others dashed."""
    slots = {pk: chosen[pk] for pk in ids if pk in chosen}
    for pk in sorted(ids):
        if pk not in slots:
            slots[pk] = _free(pk, set(slots.values()))

    return {pk: slots[pk] for pk in ids}


def _free(pk: int, taken: set[int]) -> int:
    own = pk % COLOURS
    plain = [(own + step) % COLOURS + 1 for step in range(COLOURS)]
    dashed = [slot + COLOURS for slot in plain]
    return next((slot for slot in [*plain, *dashed] if slot not in taken), plain[0])


def colour_of(slot: int) -> int:
    return (slot - 1) % COLOURS + 1


def is_dashed(slot: int) -> bool:
    return slot > COLOURS
