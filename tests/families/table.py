"""docs/families.md, from the verdicts of a walk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.families.walk import FAILS, PADDED, REFUSED, TOLERANCE, TRAINS

HEAD = """\
# Model families

Every family of which transformers {version} has a causal language model, walked by `make families`: a tiny random
model of it is imported, trained with a LoRA adapter as the form has it and with all its weights, asked for samples
before and after, saved, and loaded by plain transformers and peft. The losses of each step and of held-out rows are
those of transformers' own Trainer on the same rows, within {tolerance:g}.

{counts}

- **trains**: rows lie end to end, without padding.
- **trains padded**: rows of a batch are padded to one length, since this family's layers would read across the border
  of two rows. The result is the same and takes longer.
- **refused**: at the import, with the words in the table.

What an adapter sits on is that of “All linear layers”. Experts of a mixture are adapted where their names are given
as target modules, and then without dropout, which peft cannot apply to them.

| family | verdict | LoRA adapter, or why it is refused |
|---|---|---|
"""


def table_write(path: Path, verdicts: list[dict[str, Any]]) -> None:
    path.write_text(table(verdicts))


def table(verdicts: list[dict[str, Any]]) -> str:
    import transformers

    counts = {
        kind: sum(verdict["verdict"] == kind for verdict in verdicts)
        for kind in (TRAINS, PADDED, REFUSED, FAILS)
    }
    counted = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    head = HEAD.format(
        version=transformers.__version__,
        tolerance=TOLERANCE,
        counts=f"Of {len(verdicts)} families: {counted}.",
    )
    rows = [
        f"| {verdict['family']} | {verdict['verdict']} | {_cell(verdict)} |\n"
        for verdict in verdicts
    ]
    return head + "".join(rows)


def _cell(verdict: dict[str, Any]) -> str:
    adapted = str(verdict["adapted"]).removeprefix("adapter on ").partition(";")[0]
    return (str(verdict["words"]) or adapted).replace("|", "/").replace("\n", " ")
