"""What can be asked for answers: models, trains with their checkpoints, and exports.

Each is the weights of a base model, with an adapter or without. All that lie on the same weights are
answered by one model server."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from django.contrib.auth.models import User

from core.errors import UserError

_KEY = re.compile(r"(model|train|export)-(\d{1,18})(?:-step-(\d{1,18}))?")


@dataclass(frozen=True)
class Target:
    """kind: "model", "train" or "export". pk: of its row. step: of a train's checkpoint; None for
    what the train ended with, and while it runs for its newest checkpoint."""

    kind: str
    pk: int
    step: int | None = None

    @property
    def key(self) -> str:
        """ "model-5", "train-12", "train-12-step-200", "export-3": in addresses, forms and rows."""
        step = "" if self.step is None else f"-step-{self.step}"
        return f"{self.kind}-{self.pk}{step}"

    @classmethod
    def parse(cls, key: str) -> Target:
        """Raises UserError (404) for what is no key."""
        match = _KEY.fullmatch(key)
        if match is None or (match[3] and match[1] != "train"):
            raise not_there()

        return cls(match[1], int(match[2]), int(match[3]) if match[3] else None)


@dataclass(frozen=True)
class Placement:
    """Where a target's weights are: what the gateway needs to know of it.

    base_key: names the weights, such as "model-5"; targets with the same one share a model server.
    base_path: a folder of safetensors, or a GGUF file. adapter_key, adapter_path: "" for none; a
    peft folder or a GGUF file. reference_path: what the trained model answered, "" where nobody
    wrote that down. size_bytes: of the base's weights.
    """

    base_key: str
    base_path: str
    adapter_key: str = ""
    adapter_path: str = ""
    reference_path: str = ""
    size_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Served:
    """A target that somebody may ask, with its title ("Help desk · v2", "Train 12, step 200") and
    the title of the model below it. live: whether it is a train that still runs. base: the key of
    the target that is the untuned model below it, "" where it is that itself."""

    target: Target
    title: str
    base_title: str
    placement: Placement
    live: bool = False
    base: str = ""


@dataclass(frozen=True)
class Choice:
    """One line of a menu. group: "Models", "Trains", "Exports". parent: key of the train whose
    checkpoint it is."""

    key: str
    title: str
    group: str
    parent: str = ""


def target_find(key: str, reader: User) -> Served:
    """Raises UserError: 404 where there is none that `reader` may see, 409 where it cannot answer
    (its files are gone, it is archived, it scores texts and writes none, it has no checkpoint
    yet), with the reason."""
    raise NotImplementedError


def targets_choices(reader: User) -> list[Choice]:
    """All that `reader` may ask now, models first, each group with the newest first."""
    raise NotImplementedError


def not_there() -> UserError:
    return UserError("There is no such model.", code="not_found", status=404)
