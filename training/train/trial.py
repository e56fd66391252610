"""Try these rewards: a few rows of the dataset are answered by the base model, or by a person, and
the rewards score each answer.

A trial is a folder that a background worker fills and that is deleted a day later; nothing of it is
kept in the database."""

from __future__ import annotations

import json
import re
import shutil
import time
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User

from core.errors import UserError
from core.processes import judge_environment
from core.programs import ProgramProblem, TimeLimitReached, folder_bytes, program_run
from core.store import trials_folder
from datasets_app.models import Dataset
from datasets_app.preview import rows_seen
from engine.rewards.registry import uses_judge
from engine.rewards.trial import RESULT, TRIAL, answers_read, result_write
from engine.rows.examples import Example
from jobs.adding import job_add
from jobs.kinds import BROKE_OFF, CANCELLED, TOO_LONG
from jobs.progress import progress_report
from jobs.services import job_cancel, job_drop
from methods.models import TrainingMethod
from methods.services import parameters_validate
from models_app.models import BaseModel
from training.train.reward_resources import resources_of
from training.train.services import ingredients_check

ROWS = 5
ROWS_LOOKED_AT = 50
PROGRAM = "engine.rewards"
SECONDS = 300
# Of data: what the libraries take, and for each byte of a model's files.
MEMORY_BYTES = 8 << 30
# There where NVIDIA's driver is.
NVIDIA = Path("/dev/nvidiactl")
BYTES_A_MODEL_BYTE = 6
# Its presence in a trial's folder ends the trial.
CANCEL = "cancel"
KEPT_SECONDS = 86_400
KEY = re.compile(r"[0-9]{1,18}-[0-9a-f]{32}")
# The first tokens of an answer show how a reward scores it, without a wait for hundreds.
LONGEST_ANSWER = 160
ANSWER_CHARACTERS = 20_000


def trial_start(
    *,
    by: User,
    method: TrainingMethod,
    base_model: BaseModel,
    dataset: Dataset,
    parameters: dict[str, Any],
    system_prompt: str = "",
    answers: list[str] | None = None,
    device: str = "cpu",
) -> str:
    """Begin a trial and return its key. `answers`: typed by a person, in the order of the rows;
    without them the base model answers.

    One at a time: the person's earlier trials are deleted. Raises UserError by field.
    """
    ingredients_check(
        method=method, base_model=base_model, dataset=dataset, evaluation_dataset=None
    )
    resolved = parameters_validate(method, parameters, device=device)
    if "rewards" not in resolved:
        raise UserError({"method": [f"{method.name} has no rewards to try."]})

    typed = answers or []
    if len(typed) > ROWS or any(len(text) > ANSWER_CHARACTERS for text in typed):
        message = f"Give at most {ROWS} answers of at most {ANSWER_CHARACTERS:,} characters each."
        raise UserError({"answers": [message]})

    resources = resources_of(resolved, by)
    trial = {
        "base_model_path": str(base_model.path),
        "rewards": resolved["rewards"],
        "rows": _trial_rows(dataset, typed),
        "resources": {name: asdict(resource) for name, resource in resources.items()},
        "system_prompt": system_prompt,
        "max_completion_tokens": min(resolved["max_completion_tokens"], LONGEST_ANSWER),
        "temperature": resolved["temperature"],
        "seed": resolved["seed"],
    }

    _drop_old(by)
    key = f"{by.pk}-{uuid.uuid4().hex}"
    folder = trials_folder() / key
    folder.mkdir(parents=True, mode=0o700)
    (folder / TRIAL).write_text(json.dumps(trial, ensure_ascii=False))
    job_add(
        "reward-trial",
        key,
        key=f"trial-{key}",
        name=dataset.title,
        owner_id=by.pk,
        expected_seconds=SECONDS,
        # The trial ends itself sooner and keeps what it has.
        limit_seconds=2 * SECONDS,
    )

    return key


def _trial_rows(dataset: Dataset, typed: list[str]) -> list[dict[str, Any]]:
    """answer: None where the base model is to answer."""
    examples = _first_examples(dataset)
    rows: list[dict[str, Any]] = []

    for index, example in enumerate(examples):
        answer = typed[index] if index < len(typed) else None
        rows.append(
            {
                "prompt": example.asked,
                "reference": example.answer,
                "answer": answer,
            }
        )

    return rows


def _first_examples(dataset: Dataset) -> list[Example]:
    """The first ones with a question, from the beginning of the file: reading more takes too
    long."""
    try:
        seen = rows_seen(dataset, 0, ROWS_LOOKED_AT)
    except UserError as error:
        raise UserError({"dataset": [f"{dataset.name}: {error.message}"]}) from error

    examples = [row.example for row in seen if row.example is not None]
    return [example for example in examples[:ROWS] if example.asked]


def trial_read(*, by: User, key: str) -> dict[str, Any] | None:
    """{"done", "cancelled", "rows", "answers", "error"}, with the answers that are known so far;
    None for a trial that is not there, or not this person's."""
    folder = _folder_of(by, key)
    if folder is None:
        return None

    cancelled = (folder / CANCEL).exists()
    # The result is read before the answers: no answer is written after it.
    result = _json(folder / RESULT)
    trial = _json(folder / TRIAL) or {}
    error = ""
    if result is not None and not cancelled:
        error = result.get("error", "")

    return {
        "done": result is not None or cancelled,
        "cancelled": cancelled,
        "rows": len(trial.get("rows", [])),
        "answers": answers_read(folder),
        "error": error,
    }


def trial_cancel(*, by: User, key: str) -> bool:
    """End a trial; what it has answered stays readable. False for one that is not there, or not
    this person's."""
    folder = _folder_of(by, key)
    if folder is None:
        return False
    if not (folder / RESULT).exists():
        (folder / CANCEL).touch()
        job_cancel(f"trial-{key}")

    return True


def _folder_of(by: User, key: str) -> Path | None:
    if not KEY.fullmatch(key) or not key.startswith(f"{by.pk}-"):
        return None

    folder = trials_folder() / key
    return folder if folder.is_dir() else None


def _json(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None

    return content


def trial_run(key: str) -> str:
    """Background work: let the engine answer and score, until it is done, cancelled, or out of
    time. Returns why it ended early, or nothing."""
    folder = trials_folder() / key
    if not KEY.fullmatch(key) or not folder.is_dir() or (folder / CANCEL).exists():
        return "Cancelled."

    def on_tick() -> None:
        if not folder.is_dir() or (folder / CANCEL).exists():
            raise _Cancelled

    reason = ""
    progress_report("Answering and scoring")

    try:
        program_run(
            PROGRAM,
            str(folder),
            seconds=SECONDS,
            memory_bytes=_memory_bytes(folder),
            work="The trial",
            environment={
                "HF_HUB_OFFLINE": "1",
                "TOKENIZERS_PARALLELISM": "false",
                **_judge_key(folder),
            },
            on_tick=on_tick,
        )
    except _Cancelled:
        reason = "Cancelled."
    except TimeLimitReached:
        reason = _out_of_time(folder)
    except ProgramProblem as problem:
        reason = f"{problem} Try it with fewer rewards."

    if reason and folder.is_dir() and not (folder / RESULT).exists():
        result_write(folder, reason)

    return reason


def trial_error(key: str) -> str:
    """Why a trial that is over did not come to its end; nothing where somebody cancelled it."""
    folder = trials_folder() / key
    if (folder / CANCEL).exists():
        return ""

    return str((_json(folder / RESULT) or {}).get("error", ""))


class _Cancelled(Exception):
    """The trial was cancelled, or dropped for a later one, while it ran."""


def _memory_bytes(folder: Path) -> int | None:
    """What the trial may use: for the libraries, and for its models, each of which is read in half
    of fp32 and held in fp32 beside it for a moment. None where there is a GPU, whose driver maps
    many times what a process uses."""
    if NVIDIA.exists():
        return None

    trial = _json(folder / TRIAL) or {}
    models = {str(trial.get("base_model_path", ""))}

    for resource in trial.get("resources", {}).values():
        models |= {str(resource.get("path", "")), str(resource.get("base_path", ""))}

    model_bytes = sum(folder_bytes(Path(model)) for model in models if model)
    return MEMORY_BYTES + BYTES_A_MODEL_BYTE * model_bytes


def _out_of_time(folder: Path) -> str:
    limit = f"{SECONDS // 60} minutes" if SECONDS >= 120 else f"{SECONDS} seconds"
    sentences = [f"The trial reached its limit of {limit}."]

    kept = len(answers_read(folder))
    if kept > 1:
        sentences.append(f"The {kept} answers that it has are kept.")

    sentences.append("Shorter answers take less time.")
    return " ".join(sentences)


def _judge_key(folder: Path) -> dict[str, str]:
    """The judge's key, only where a judge scores."""
    try:
        rewards = json.loads((folder / TRIAL).read_text())["rewards"]
    except (OSError, ValueError, KeyError):
        return {}

    return judge_environment() if uses_judge(rewards) else {}


TRIAL_ENDINGS = {
    CANCELLED: "The trial was cancelled.",
    TOO_LONG: f"The trial took longer than {SECONDS} s and was ended. Shorter answers help.",
    BROKE_OFF: "The trial crashed. Try it with fewer rewards.",
}


def trial_ended(key: str, reason: str) -> None:
    """Record that a trial ended early, for a reason of jobs.kinds."""
    folder = trials_folder() / key
    if folder.is_dir() and not (folder / RESULT).exists():
        result_write(folder, TRIAL_ENDINGS[reason])


def _drop_old(by: User) -> None:
    """Delete this person's trials, and everybody's that are a day old."""
    for folder in trials_folder().glob("*-*"):
        # Trials of a step lie beside them.
        if not KEY.fullmatch(folder.name):
            continue

        try:
            is_old = time.time() - folder.stat().st_mtime > KEPT_SECONDS
        except FileNotFoundError:
            continue

        if is_old or folder.name.startswith(f"{by.pk}-"):
            shutil.rmtree(Path(folder), ignore_errors=True)
            job_drop(f"trial-{folder.name}")
