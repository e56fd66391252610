"""Which columns of the list of trains somebody wants to see."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from core.errors import UserError
from training.models import TrainListColumns


@dataclass(frozen=True)
class Column:
    """`css`: what its cells' classes end in. `sort`: what ?ordering= calls it. The train's name is
    always shown and is none of these."""

    name: str
    title: str
    css: str
    sort: str
    is_number: bool = False
    by_default: bool = True
    note: str = ""

    @property
    def head_classes(self) -> str:
        return f"head-{self.css}{' num' if self.is_number else ''}"


COLUMNS = (
    Column("status", "Status", "status", "status"),
    Column("method", "Method", "method", "method"),
    Column("base_model", "Base model", "model", "base_model"),
    Column("dataset", "Dataset", "data", "dataset"),
    Column(
        "last_value",
        "Last value",
        "loss",
        "last_value",
        is_number=True,
        note="The last loss, or the last reward",
    ),
    Column("best_value", "Best eval", "best", "best_value", is_number=True, by_default=False),
    Column("started_at", "Started", "started", "started_at", is_number=True, by_default=False),
    Column("duration", "Duration", "duration", "duration_seconds", is_number=True),
    Column("owner", "Owner", "owner", "owner"),
)
NAMES = tuple(column.name for column in COLUMNS)


def columns_shown(user: Any) -> list[str]:
    """Names of the columns that this person sees, in their fixed order."""
    chosen = TrainListColumns.objects.filter(user=user.pk).first()
    if chosen is None:
        return [column.name for column in COLUMNS if column.by_default]

    return [name for name in NAMES if name in chosen.columns]


def columns_choose(*, user: Any, names: Iterable[str]) -> list[str]:
    """Show these columns from now on. Raises UserError for one that there is not."""
    wanted = set(names)
    if unknown := sorted(wanted - set(NAMES)):
        raise UserError(
            {"columns": [f"There is no column {unknown[0][:40]!r}. There are: {', '.join(NAMES)}."]}
        )

    shown = [name for name in NAMES if name in wanted]
    TrainListColumns.objects.update_or_create(user=user, defaults={"columns": shown})
    return shown


def columns_reset(*, user: Any) -> list[str]:
    """Back to the columns that everybody begins with."""
    TrainListColumns.objects.filter(user=user).delete()
    return columns_shown(user)
