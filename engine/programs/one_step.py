"""Makes one step of a train, to see what it takes: memory and seconds.

    python -m engine.programs.one_step FOLDER

FOLDER holds spec.json of a train, and one_step.json: {"tokens": of each row of its largest batch,
"rows": how many a step takes, "prompts": whether the rows' prompts count alone, "steps"}. Rows of about
that length are taken from the dataset, and the engine trains on them in FOLDER for so many steps, of which
the last one is measured. Reports, as core.programs reads it, {"done": {"peak_bytes", "step_seconds",
"device", "tokens": of the longest row that was taken}}, or {"error": text}."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from engine.chat.lengths import good_rows, variants
from engine.chat.render import Renderer, tokenizer_load
from engine.chat.template import TemplateProblem
from engine.contract.rundir import (
    EXIT_FINISHED,
    DataFile,
    Spec,
    all_events,
    file_sha256,
    read_spec,
    write_spec,
)
from engine.forecast.workload import WRITING
from engine.messages.failures import explain
from engine.rewards.registry import CUSTOM_PREFIX
from engine.rows.examples import Example
from engine.run.main import run

ORDER = "one_step.json"
ROWS = "rows.jsonl"
# So many rows are looked at: enough to find some of the wanted length.
ROWS_LOOKED_AT = 4000
# Beside those of the measured batch, so that nothing is short of rows.
SPARE_ROWS = 4
# Rewards that ask somebody else, or run what a person wrote: they cost, and take no memory here.
ASKING = ("llm_judge",)
ONE_REWARD = [{"function": "length_window", "weight": 1.0, "parameters": {}}]

Row = tuple[int, dict[str, Any], bool]


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0])
    try:
        print(json.dumps({"done": one_step(folder)}), flush=True)
    except Exception as error:
        print(json.dumps({"error": explain(error).message}), flush=True)
        return 1

    return 0


def one_step(folder: Path) -> dict[str, Any]:
    """What the step took. Raises what the engine raises, and RuntimeError where it failed."""
    order = json.loads((folder / ORDER).read_text())
    spec = read_spec(folder)
    rows = rows_choose(spec, order)
    data = folder / ROWS
    data.write_text("".join(json.dumps(values, ensure_ascii=False) + "\n" for _, values, _ in rows))

    source = spec.dataset
    short = DataFile(str(data), file_sha256(data), "jsonl", source.format, source.column_map)
    write_spec(
        folder,
        replace(
            spec,
            dataset=short,
            evaluation_dataset=None,
            parameters=parameters_of_a_step(spec, order),
        ),
    )
    with answers_in_full(spec.recipe):
        code = run(folder)

    events = list(all_events(folder))
    if code != EXIT_FINISHED:
        raise RuntimeError(
            str(events[-1].get("message", "")) or "The step did not come to its end."
        )

    return measured(events, order, max(tokens for tokens, _, _ in rows))


@contextmanager
def answers_in_full(recipe: str) -> Iterator[None]:
    """Have answers written to the longest that they may be: the model as it is now may end them early, and
    that which has learned may not."""
    if recipe not in WRITING:
        yield
        return

    from engine.recipes.rollouts import RolloutTrainer

    RolloutTrainer.writes_in_full = True
    try:
        yield
    finally:
        RolloutTrainer.writes_in_full = False


def parameters_of_a_step(spec: Spec, order: dict[str, Any]) -> dict[str, Any]:
    """The train's own, with nothing around the steps."""
    changes: dict[str, Any] = {
        "epochs": None,
        "max_steps": int(order["steps"]),
        "max_samples": None,
        "evaluation_split": 0.0,
        "sample_prompts": 0,
        "save_strategy": "end",
        "save_total_limit": 1,
        "keep_best": False,
        "early_stop_after": None,
        "time_limit_minutes": None,
        "logging_steps": 1,
        "on_trouble": "warn",
        "on_out_of_memory": "fail",
    }
    if "max_tokens" in spec.parameters:
        changes["max_tokens"] = max(16, int(order["tokens"]))
    if "rewards" in spec.parameters:
        own = [
            choice
            for choice in spec.parameters["rewards"]
            if choice["function"] not in ASKING and not choice["function"].startswith(CUSTOM_PREFIX)
        ]
        changes["rewards"] = own or ONE_REWARD

    return {**spec.parameters, **changes}


def rows_choose(spec: Spec, order: dict[str, Any]) -> list[Row]:
    """Rows whose lengths are nearest to the wanted one from above; the longest where there are too few,
    and repeated where there are fewer than a step takes. Of rated answers both kinds."""
    seen = list(_rows(spec, prompts=bool(order["prompts"])))
    if not seen:
        raise RuntimeError("No row of the dataset can be trained on.")

    wanted = int(order["tokens"])
    needed = int(order["rows"]) * int(order["steps"]) + SPARE_ROWS
    nearest = sorted(seen, key=lambda row: (row[0] < wanted, abs(row[0] - wanted)))
    chosen = nearest[:needed]

    if spec.recipe == "kto":
        for rating in (True, False):
            if all(row[2] is not rating for row in chosen):
                chosen[-1:] = [row for row in nearest if row[2] is rating][:1] or chosen[-1:]

    while len(chosen) < needed:
        chosen += chosen[: needed - len(chosen)]

    return chosen


def _rows(spec: Spec, *, prompts: bool) -> Any:
    """(tokens, values, whether it is a good answer) of the first rows."""
    renderer = Renderer(
        tokenizer_load(Path(spec.base_model_path)),
        system_prompt=spec.system_prompt,
        warn=lambda code, message: None,
    )
    data = spec.dataset
    rows = good_rows(Path(data.path), data.file_type, data.format, data.column_map)

    for row in islice(rows, ROWS_LOOKED_AT):
        try:
            tokens = _length(renderer, row.example, prompts=prompts)
        except TemplateProblem:
            continue

        if tokens:
            yield tokens, row.values, row.example.label is not False


def _length(renderer: Renderer, example: Example, *, prompts: bool) -> int:
    if prompts:
        return len(renderer.prompt_ids(example.asked, example.tools))

    return max(len(renderer.tokens(variant).ids) for variant in variants(example))


def measured(events: list[dict[str, Any]], order: dict[str, Any], tokens: int) -> dict[str, Any]:
    steps = [event for event in events if event["type"] == "metrics" and event["split"] == "train"]
    started = next(event for event in events if event["type"] == "started")
    values = steps[-1]["values"]
    rate = values.get("samples_per_second") or 0.0

    return {
        "peak_bytes": round(values["peak_memory_gb"] * 2**30),
        "step_seconds": round(int(order["rows"]) / rate, 3) if rate else None,
        "device": started["device"],
        "tokens": tokens,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
