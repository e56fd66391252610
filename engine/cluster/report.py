"""How a rank ended on a cluster, as its worker tells the driver: an exception that Ray carries."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from engine.messages.failures import Failure


@dataclass(frozen=True)
class Report:
    """`lost`: the rank lost another one, which is the cause; `log`: the end of its own log."""

    failure: Failure
    rank: int
    node: str
    lost: bool = False
    log: str = ""


class RankFailed(Exception):
    """With a report as JSON: its only argument, so that it can be sent."""

    @classmethod
    def of(cls, report: Report) -> RankFailed:
        return cls(json.dumps(asdict(report)))

    def report(self) -> Report:
        values: dict[str, Any] = json.loads(str(self.args[0]))
        return Report(**values | {"failure": Failure(**values["failure"])})


def report_in(error: BaseException | None) -> Report | None:
    """What a rank told, in whatever Ray has wrapped it; None where it could not tell anything."""
    seen: set[int] = set()
    waiting = [error]

    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue

        seen.add(id(current))
        if isinstance(current, RankFailed):
            return current.report()

        inner = [getattr(current, name, None) for name in ("_base_exc", "cause")]
        found = [*inner, current.__cause__, current.__context__]
        waiting += [each for each in found if isinstance(each, BaseException)]

    return None
