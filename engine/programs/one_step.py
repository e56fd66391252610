"""Makes one step of a train, to see what it takes: memory and seconds.

    python -m engine.programs.one_step FOLDER

FOLDER holds spec.json of a train, and one_step.json: {"tokens" and "longest": of all rows of its largest
batch together, and of the longest, "batch": how many rows that has, "rows": how many a step takes, "limit":
tokens at which a row is cut, "packed": whether rows fill sequences up to it, "prompts": whether the rows'
prompts count alone, "steps", "iterations": how many steps learn from the same answers}. Rows that make up
such batches are taken from the dataset, and the engine trains on them in FOLDER for so many steps.

Reports, as core.programs reads it, {"done": {"peak_bytes", "step_seconds": of the last one, or, where
several learn from the same answers, of one in the mean, "device", "batch": the largest that was really
computed, {"rows", "tokens", "longest", "answer"}}}, or {"error": text}."""

from __future__ import annotations

import heapq
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

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
from engine.forecast.batches import Batch
from engine.forecast.workload import TWO_SIDED, WRITING
from engine.messages.failures import explain
from engine.rewards.registry import CUSTOM_PREFIX
from engine.rows.examples import Example
from engine.run.main import run

ORDER = "one_step.json"
ROWS = "rows.jsonl"
# Each batch that was computed, a line each: ranks are processes of their own.
BATCHES = "batches.jsonl"
# Rows of a length so near to the wanted one are as good as any: no better ones are looked for.
NEAR = 0.02
# Rows are looked at for so long: a step of the best that were found says more than none.
LOOK_SECONDS = 120.0
# Packed sequences are never quite full, so that more rows are taken than fill them.
PACKED_SPARE = 1.25
# Rewards that ask somebody else, or run what a person wrote: they cost, and take no memory here.
ASKING = ("llm_judge",)
ONE_REWARD = [{"function": "length_window", "weight": 1.0, "parameters": {}}]


class Row(NamedTuple):
    """number: among the rows that can be trained on. tokens: that are computed of it, of its prompt alone
    where answers are written. is_good: False for an answer that is rated bad."""

    number: int
    tokens: int
    values: dict[str, Any]
    is_good: bool


class Nearest:
    """The `size` rows whose lengths are nearest to `tokens`, of all that were offered."""

    def __init__(self, tokens: float, size: int) -> None:
        self.tokens = tokens
        self.size = size
        # The farthest first; rows of one distance in the order of the file.
        self.heap: list[tuple[float, int, Row]] = []

    def offer(self, row: Row) -> None:
        entry = (-abs(row.tokens - self.tokens), -row.number, row)
        if len(self.heap) < self.size:
            heapq.heappush(self.heap, entry)
        elif self.size:
            heapq.heappushpop(self.heap, entry)

    @property
    def is_met(self) -> bool:
        """Whether no row that is still to come is much nearer."""
        if len(self.heap) < self.size:
            return False

        return not self.heap or -self.heap[0][0] <= NEAR * self.tokens

    @property
    def rows(self) -> list[Row]:
        """The nearest first."""
        return [entry[-1] for entry in sorted(self.heap, reverse=True)]


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
    data.write_text("".join(json.dumps(row.values, ensure_ascii=False) + "\n" for row in rows))

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
    with answers_in_full(spec.recipe), batches_written(folder, spec):
        code = run(folder)

    events = list(all_events(folder))
    if code != EXIT_FINISHED:
        raise RuntimeError(
            str(events[-1].get("message", "")) or "The step did not come to its end."
        )

    return measured(events, int(order["iterations"])) | {"batch": largest_computed(folder)}


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


@contextmanager
def batches_written(folder: Path, spec: Spec) -> Iterator[None]:
    """Have the size of each batch that is trained on written to BATCHES."""
    from engine.run.trainer import TrainerHooks

    packed_rows = int(spec.parameters["batch_size"]) if spec.parameters.get("packing") else None

    def write(inputs: Any) -> None:
        batch = batch_of(inputs, spec.recipe, packed_rows)
        with (folder / BATCHES).open("a") as stream:
            stream.write(json.dumps(asdict(batch)) + "\n")

    TrainerHooks.on_batch = staticmethod(write)
    try:
        yield
    finally:
        TrainerHooks.on_batch = None


def batch_of(inputs: Any, recipe: str, packed_rows: int | None) -> Batch:
    """The size of a trainer's inputs. packed_rows: how many sequences they have where rows are packed:
    inputs do not tell these from rows."""
    if recipe in WRITING:
        rows, prompt = inputs["prompt_ids"].shape
        answer = inputs["completion_ids"].shape[1]
        return Batch(rows, rows * (prompt + answer), prompt + answer, answer)

    sequences, columns = inputs["input_ids"].shape
    if "cu_seq_lens_q" not in inputs:
        rows = sequences // 2 if recipe in TWO_SIDED else sequences
        return Batch(rows, rows * columns, columns)

    rows = packed_rows or len(inputs["cu_seq_lens_q"]) - 1
    return Batch(rows, columns, int(inputs["max_length_q"]))


def largest_computed(folder: Path) -> dict[str, int]:
    """The batch with most tokens, with the longest row of all of them."""
    batches = [Batch(**json.loads(line)) for line in (folder / BATCHES).open()]
    largest = max(batches, key=lambda batch: batch.tokens)
    return asdict(replace(largest, longest=max(batch.longest for batch in batches)))


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
    if spec.recipe == "sft" and not order["packed"]:
        # Which rows make up a batch was decided when they were chosen.
        ordered = {"train_sampling_strategy": "sequential"}
        changes["more"] = {**(spec.parameters.get("more") or {}), **ordered}
    if "rewards" in spec.parameters:
        own = [
            choice
            for choice in spec.parameters["rewards"]
            if choice["function"] not in ASKING and not choice["function"].startswith(CUSTOM_PREFIX)
        ]
        changes["rewards"] = own or ONE_REWARD

    return {**spec.parameters, **changes}


def rows_choose(spec: Spec, order: dict[str, Any]) -> list[Row]:
    """Rows of which each batch has one that is as long as the longest of the wanted batch, and others
    with which it has as many tokens; as near to that as the dataset has them. Of rated answers both
    kinds. No more of the dataset is read than that takes, and for LOOK_SECONDS at most."""
    deadline = time.monotonic() + LOOK_SECONDS
    batch, longest = int(order["batch"]), int(order["longest"])
    # All steps that are made learn from the same answers.
    wanted = int(order["rows"]) * (1 if order["prompts"] else int(order["steps"]))
    batches = -(-wanted // batch)
    others = (int(order["tokens"]) - longest) / max(1, batch - 1)

    long = Nearest(longest, batches)
    # Rows may be among both.
    rest = Nearest(others, batches * batch)
    rated = {is_good: Nearest(longest, 1) for is_good in _ratings(spec)}
    filling = Filling(PACKED_SPARE * wanted * int(order["limit"]) if order["packed"] else 0)

    for row in _rows(spec, order):
        filling.offer(row)
        for nearest in (long, rest, *([rated[row.is_good]] if rated else [])):
            nearest.offer(row)

        is_met = filling.is_met if order["packed"] else rest.is_met
        is_met = is_met and long.is_met and all(nearest.is_met for nearest in rated.values())
        if is_met or time.monotonic() > deadline:
            break

    if not long.rows:
        raise RuntimeError("No row of the dataset can be trained on.")
    if order["packed"]:
        return [*long.rows[:1], *filling.rows]

    chosen = _in_batches(long.rows, rest.rows, batch, wanted)
    for is_good, nearest in rated.items():
        if nearest.rows and all(row.is_good is not is_good for row in chosen):
            chosen[-1] = nearest.rows[0]

    # A step that writes answers takes all its prompts, and any other at least a batch.
    least = int(order["rows"]) if order["prompts"] else batch
    while len(chosen) < least:
        chosen += chosen[: least - len(chosen)]

    return chosen


class Filling:
    """The first rows, until they have `tokens` together."""

    def __init__(self, tokens: float) -> None:
        self.left = tokens
        self.rows: list[Row] = []

    @property
    def is_met(self) -> bool:
        return self.left <= 0

    def offer(self, row: Row) -> None:
        if not self.is_met:
            self.rows.append(row)
            self.left -= row.tokens


def _in_batches(long: list[Row], rest: list[Row], batch: int, wanted: int) -> list[Row]:
    """At most `wanted` rows in the order of the batches: one of the long rows in each, as far as there are
    any, and then others."""
    taken = {row.number for row in long}
    others = [row for row in rest if row.number not in taken]
    chosen: list[Row] = []

    while (long or others) and len(chosen) < wanted:
        first, long = long[:1], long[1:]
        size = batch - len(first)
        chosen += first + others[:size]
        others = others[size:]

    return chosen[:wanted]


def _ratings(spec: Spec) -> tuple[bool, ...]:
    return (True, False) if spec.recipe == "kto" else ()


def _rows(spec: Spec, order: dict[str, Any]) -> Iterator[Row]:
    """Those that can be trained on, in the order of the file."""
    renderer = Renderer(
        tokenizer_load(Path(spec.base_model_path)),
        system_prompt=spec.system_prompt,
        warn=lambda code, message: None,
    )
    data = spec.dataset
    limit = int(order["limit"])
    rows = good_rows(Path(data.path), data.file_type, data.format, data.column_map)

    for row in rows:
        try:
            tokens = _length(renderer, row.example, limit, prompts=bool(order["prompts"]))
        except TemplateProblem:
            continue

        if tokens:
            yield Row(row.number, tokens, row.values, row.example.label is not False)


def _length(renderer: Renderer, example: Example, limit: int, *, prompts: bool) -> int:
    """Tokens that are computed of a row; 0 where it is left out, as one that keeps nothing to learn."""
    if prompts:
        length = len(renderer.prompt_ids(example.asked, example.tools))
        return length if length <= limit else 0

    rendered = [renderer.tokens(variant) for variant in variants(example)]
    kept = [tokens.ids[:limit] for tokens in rendered]
    is_alike = len(kept) > 1 and kept[0] == kept[1]
    if is_alike or not any(any(tokens.learned[1:limit]) for tokens in rendered):
        return 0

    return max(map(len, kept))


def measured(events: list[dict[str, Any]], iterations: int) -> dict[str, Any]:
    steps = [event for event in events if event["type"] == "metrics" and event["split"] == "train"]
    started = next(event for event in events if event["type"] == "started")
    seconds = list(_seconds(steps, int(started["train_rows"])))
    step_seconds = None
    if seconds:
        # Answers are written in the first of so many steps.
        step_seconds = (seconds[0] + (iterations - 1) * seconds[-1]) / iterations
        step_seconds = round(step_seconds if iterations > 1 else seconds[-1], 3)

    return {
        "peak_bytes": round(steps[-1]["values"]["peak_memory_gb"] * 2**30),
        "step_seconds": step_seconds,
        "device": started["device"],
    }


def _seconds(steps: list[dict[str, Any]], train_rows: int) -> Iterator[float]:
    """Of each step. Its rows are not those that were ordered where they are packed, or where several
    steps learn from the same answers: the trainer's epochs say how many it counted."""
    epoch = 0.0
    for step in steps:
        rate = step["values"].get("samples_per_second")
        if rate:
            yield (step["epoch"] - epoch) * train_rows / rate

        epoch = step["epoch"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
