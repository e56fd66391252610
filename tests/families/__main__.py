"""`make families`: walk every family in processes of their own, and write the table to
docs/families.md.

python -m tests.families                 all families, and the table
python -m tests.families llama bert      only these, on the terminal
"""

from __future__ import annotations

import faulthandler
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tests.environment  # noqa: F401 - before any library: no hub, one thread

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "families.md"
# One process walks so many families: libraries take seconds to import, and a fault of one family
# must not reach far.
BATCH = 8
SECONDS_EACH = 240


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--batch"]:
        return _batch(arguments[1:])

    from tests.families.maker import families

    chosen = arguments or families()
    found = _walked(chosen)
    for family in chosen:
        verdict = found[family]
        print(f"{family:28}{verdict['verdict']:14}{verdict['words'] or verdict['worst']}")
    if not arguments:
        from tests.families.table import table_write

        table_write(TABLE, [found[family] for family in chosen])
    failed = [family for family in chosen if found[family]["verdict"] == "FAILS"]
    print(f"{len(chosen)} families, {len(failed)} fail{': ' + ', '.join(failed) if failed else ''}")
    return 1 if failed else 0


def _batch(names: list[str]) -> int:
    """In a process of its own: a line of JSON for each family."""
    from tests.families.walk import FAILS, Verdict, family_walk

    for name in names:
        # Not by a signal: a train has time limits of its own by the same one.
        faulthandler.dump_traceback_later(SECONDS_EACH, exit=True)
        with tempfile.TemporaryDirectory() as place:
            try:
                verdict = family_walk(name, Path(place))
            except Exception as error:
                verdict = Verdict(name, FAILS, f"{type(error).__name__}: {error}"[:500])
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(verdict.as_dict()), flush=True)
    return 0


def _walked(names: list[str]) -> dict[str, dict[str, object]]:
    """A verdict for each family, whatever happens to the process that walks it."""
    batches = [names[start : start + BATCH] for start in range(0, len(names), BATCH)]
    found: dict[str, dict[str, object]] = {}
    start = time.monotonic()
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        for verdicts in pool.map(lambda batch: list(_batch_walked(batch)), batches):
            found |= {str(verdict["family"]): verdict for verdict in verdicts}
            print(
                f"{len(found)} of {len(names)}, {time.monotonic() - start:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    return found


def _batch_walked(names: list[str]) -> Iterator[dict[str, object]]:
    """Goes on behind a family that ended its process."""
    rest = list(names)
    while rest:
        program = subprocess.Popen(
            [sys.executable, "-m", "tests.families", "--batch", *rest],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert program.stdout is not None
        for line in program.stdout:
            if not line.startswith("{"):
                continue
            verdict = json.loads(line)
            rest.remove(verdict["family"])
            yield verdict
        code = program.wait()
        if rest:
            words = f"its process ended with {code}, or it took more than {SECONDS_EACH} s"
            yield {
                "family": rest.pop(0),
                "verdict": "FAILS",
                "words": words,
                "adapted": "",
                "worst": {},
            }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
