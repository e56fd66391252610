"""A short summary for every operation of the OpenAPI document, which lists of calls show beside
each."""

from __future__ import annotations

import re
from textwrap import shorten
from typing import Any

METHODS = ("get", "post", "put", "patch", "delete")
FOR_OPERATORS = "For operators: "
LONGEST = 72
# Where the first sentence of the description is no summary, or there is none.
SUMMARIES = {
    ("post", "/api/v1/auth/token/"): "Get a token",
    ("get", "/api/v1/chains/"): "List chains",
    ("get", "/api/v1/datasets/"): "List datasets",
    ("post", "/api/v1/datasets/"): "Upload a dataset",
    ("get", "/api/v1/datasets/{key}/"): "Show a dataset",
    ("patch", "/api/v1/datasets/{key}/"): "Change a dataset",
    ("post", "/api/v1/datasets/{key}/archive/"): "Archive a dataset",
    ("get", "/api/v1/datasets/{key}/doctor/"): "Show what the doctor found",
    ("get", "/api/v1/datasets/{key}/file/"): "Download the uploaded file",
    ("get", "/api/v1/datasets/{key}/lengths/"): "Count the tokens of each row",
    ("get", "/api/v1/datasets/{key}/problems/"): "List bad rows",
    ("post", "/api/v1/datasets/{key}/repairs/"): "Create a repaired version",
    ("post", "/api/v1/datasets/{key}/restore/"): "Restore an archived dataset",
    ("get", "/api/v1/datasets/{key}/rows/"): "List rows",
    ("get", "/api/v1/datasets/{key}/tokens/"): "Show rows as tokens",
    ("post", "/api/v1/datasets/import/"): "Import a dataset from Hugging Face",
    ("get", "/api/v1/jobs/"): "List jobs",
    ("get", "/api/v1/jobs/{id}/"): "Show a job",
    ("delete", "/api/v1/jobs/{id}/"): "Delete a job that has ended",
    ("get", "/api/v1/jobs/{id}/log/"): "Read the log",
    ("get", "/api/v1/jobs/{id}/log/search/"): "Search the log",
    ("post", "/api/v1/jobs/{id}/move/"): "Move a waiting job in its line",
    ("post", "/api/v1/jobs/{id}/stop/"): "Stop a job",
    ("get", "/api/v1/methods/"): "List methods",
    ("post", "/api/v1/methods/"): "Create a method (operators)",
    ("get", "/api/v1/methods/{key}/"): "Show a method",
    ("patch", "/api/v1/methods/{key}/"): "Change a method (operators)",
    ("delete", "/api/v1/methods/{key}/"): "Delete an unused method (operators)",
    ("get", "/api/v1/methods/{key}/versions/"): "List the versions of a method",
    ("get", "/api/v1/models/"): "List base models",
    ("post", "/api/v1/models/"): "Add a base model",
    ("get", "/api/v1/models/{key}/"): "Show a base model",
    ("patch", "/api/v1/models/{key}/"): "Rename or describe a base model",
    ("delete", "/api/v1/models/{key}/"): "Delete a base model",
    ("get", "/api/v1/queue/"): "Show the queue",
    ("post", "/api/v1/queue/pause/"): "Pause the queue (operators)",
    ("post", "/api/v1/queue/resume/"): "Resume the queue (operators)",
    ("get", "/api/v1/sweeps/"): "List sweeps",
    ("get", "/api/v1/trains/"): "List trains",
    ("post", "/api/v1/trains/"): "Start a train",
    ("get", "/api/v1/trains/{id}/"): "Show a train",
    ("patch", "/api/v1/trains/{id}/"): "Change name, notes or queue position",
    ("get", "/api/v1/trains/{id}/checkpoints/"): "List checkpoints",
    ("get", "/api/v1/trains/{id}/completions/"): "List answers from training with their rewards",
    ("post", "/api/v1/trains/{id}/copy/"): "Start a copy of a train",
    ("get", "/api/v1/trains/{id}/events/"): "Follow a train (server-sent events)",
    ("get", "/api/v1/trains/{id}/live/"): "Show the live state of a train",
    ("get", "/api/v1/trains/{id}/log/"): "Read the log",
    ("get", "/api/v1/trains/{id}/log/search/"): "Search the log",
    ("get", "/api/v1/trains/{id}/metrics/"): "List logged steps",
    ("get", "/api/v1/trains/{id}/model/"): "Download the adapter or model",
    ("post", "/api/v1/trains/{id}/move/"): "Move a waiting train in the queue",
    ("post", "/api/v1/trains/{id}/resume/"): "Resume a stopped or failed train",
    ("get", "/api/v1/trains/{id}/samples/"): "List sample answers, before and after",
    ("post", "/api/v1/trains/{id}/save/"): "Save a checkpoint now",
    ("post", "/api/v1/trains/{id}/stop/"): "Stop a train",
    ("get", "/api/v1/trains/compare/"): "Compare two to eight trains",
    ("post", "/api/v1/trains/plan/"): "Preview a train without starting it",
    ("post", "/api/v1/trains/sample/"): "Create the sample dataset and plan a short first train",
    ("post", "/api/v1/trains/try-rewards/"): "Try rewards on a few answers",
    ("get", "/api/v1/trains/try-rewards/{key}/"): "Show the result of a reward trial",
}


def summaries_add(
    result: dict[str, Any], generator: Any, request: Any, public: bool
) -> dict[str, Any]:
    """A postprocessing hook of drf-spectacular. A summary that a view sets itself stays."""
    for path, operations in result["paths"].items():
        for method in METHODS:
            operation = operations.get(method)

            if operation and not operation.get("summary"):
                operation["summary"] = SUMMARIES.get((method, path)) or first_sentence(operation)

    return result


def first_sentence(operation: dict[str, Any]) -> str:
    """The first sentence of the description, or the operation's name in words if it has none."""
    text = operation.get("description", "").strip()
    if not text:
        name = str(operation["operationId"])
        return name.replace("_", " ").capitalize()

    first_line = text.removeprefix(FOR_OPERATORS).partition("\n")[0]
    sentence = re.split(r"[.;:](?:\s|$)", first_line, maxsplit=1)[0].strip()
    sentence = sentence[:1].upper() + sentence[1:]

    if text.startswith(FOR_OPERATORS):
        sentence += " (operators)"

    return shorten(sentence, LONGEST, placeholder=" …")
