"""What a forecast says: whether a train fits, on which kinds of devices, and with what changes it would."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

FITS = "fits"
TIGHT = "tight"
DOES_NOT_FIT = "does_not_fit"
VERDICTS = {FITS: "Fits", TIGHT: "Tight", DOES_NOT_FIT: "Will not fit"}
# The verdict of a train as a whole is that of the device on which it fits best.
ORDER = (FITS, TIGHT, DOES_NOT_FIT)


@dataclass(frozen=True)
class DeviceForecast:
    """What the train takes on one kind of device, in bytes, and whether that is there. `parts`:
    [{"name", "title", "bytes"}], the largest first. `low` and `high`: the total, give or take its
    error."""

    kind: str
    name: str
    workers: int
    memory: int
    usable: int
    total: int
    low: int
    high: int
    parts: list[dict[str, Any]]
    moment: str
    verdict: str
    basis: str
    error: float

    @property
    def title(self) -> str:
        return VERDICTS[self.verdict]


@dataclass
class Forecast:
    """`devices`: one for each kind of device that the workers have, the best verdict first. `missing`:
    why there is none, in words for people. `fixes`: buttons, each with what the train would take then.
    `computed`: what the formulas alone say for the best device, and `batch`, its largest batch. `away`:
    a machine that could run it was here lately and is not now, so what does not fit here may fit there."""

    devices: list[DeviceForecast] = field(default_factory=list)
    missing: str = ""
    fixes: list[dict[str, Any]] = field(default_factory=list)
    batch: dict[str, int] = field(default_factory=dict)
    computed: int = 0
    may_try: bool = False
    away: bool = False

    @property
    def verdict(self) -> str:
        """ "" where there is none."""
        return self.devices[0].verdict if self.devices else ""

    @property
    def cannot_fit(self) -> bool:
        return self.verdict == DOES_NOT_FIT and not self.away

    def refusal(self) -> str:
        """Why it cannot start, with the nearest that can."""
        device = self.devices[0]
        place = "" if device.kind == "cpu" else " on the GPU"
        text = (
            f"This train takes about {size_words(device.total)}, and a train can have "
            f"{size_words(device.usable)}{place}."
        )
        if not self.fixes:
            return f"{text} No smaller batch or length of it fits: choose a smaller base model."

        fix = self.fixes[0]
        return f"{text} {fix['label']}: {fix['effect']}."

    def as_dict(self) -> dict[str, Any]:
        devices = [asdict(device) | {"title": device.title} for device in self.devices]
        return {
            "verdict": self.verdict,
            "title": VERDICTS.get(self.verdict, ""),
            "missing": self.missing,
            "devices": devices,
            "fixes": self.fixes,
            "batch": self.batch,
            "may_try": self.may_try,
            "away": self.away,
        }

    def kept(self) -> dict[str, Any]:
        """What is recorded with the train: nothing where there was no verdict."""
        if not self.devices:
            return {}

        best = self.devices[0]
        return {
            "verdict": best.verdict,
            "title": best.title,
            "words": size_words(best.total),
            "device": best.name,
            "total": best.total,
            "error": best.error,
            "computed": self.computed,
            "memory": best.memory,
            "basis": best.basis,
        }


def verdict_of(low: int, high: int, usable: int) -> str:
    if high <= usable:
        return FITS

    return DOES_NOT_FIT if low > usable else TIGHT


def size_words(size: int) -> str:
    """As pages show memory: GB of 2^30 bytes, with a digit behind the point below 100, and MB below
    one."""
    value = size / 2**30
    if value < 0.95:
        return f"{size / 2**20:,.0f} MB"

    return f"{value:,.0f} GB" if value >= 100 else f"{value:.1f} GB"
