"""Ray jobs by its HTTP interface."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from typing import Any

from engine.cluster.api import ApiRefused, ClusterAway, RayApi
from engine.cluster.code import package

ENDED = frozenset({"STOPPED", "SUCCEEDED", "FAILED"})
SUCCEEDED = "SUCCEEDED"
# In a job's metadata: which train it is of.
TRAIN = "deepextension_train"
# The `python` of the environment in which Ray was started on the head.
ENTRYPOINT = "exec python -u -m engine.cluster.driver"
# Ray looks for a process that begins the job.
SUBMIT_SECONDS = 60.0
ENDING_SECONDS = 60.0
TICK_SECONDS = 0.5


@dataclass(frozen=True)
class JobState:
    """`message`: Ray's own words, of a job that failed the end of its log too."""

    status: str
    message: str = ""

    @property
    def is_ended(self) -> bool:
        return self.status in ENDED


def job_submit(api: RayApi, job: str, train: str, environment: dict[str, str]) -> None:
    """Raises ClusterAway and ApiRefused."""
    api = replace(api, timeout=SUBMIT_SECONDS)
    name, content = package()
    try:
        api.ask("GET", f"/api/packages/gcs/{name}")
    except ApiRefused:
        api.put(f"/api/packages/gcs/{name}", content)

    api.ask(
        "POST",
        "/api/jobs/",
        {
            "entrypoint": ENTRYPOINT,
            "submission_id": job,
            "runtime_env": {"working_dir": f"gcs://{name}", "env_vars": environment},
            "metadata": {TRAIN: train},
        },
    )


def job_state(api: RayApi, job: str) -> JobState | None:
    """None for one that the cluster does not know: it was restarted since."""
    try:
        found = api.get(f"/api/jobs/{job}")
    except ApiRefused as error:
        if error.status == 404:
            return None
        raise

    return JobState(str(found.get("status")), str(found.get("message") or ""))


def job_log(api: RayApi, job: str) -> str:
    """All of it. "" where it cannot be had."""
    try:
        return str(api.get(f"/api/jobs/{job}/logs").get("logs") or "")
    except ApiRefused:
        return ""


def job_stop(api: RayApi, job: str) -> None:
    with contextlib.suppress(ApiRefused):
        api.ask("POST", f"/api/jobs/{job}/stop")


def jobs_of(api: RayApi, train: str) -> list[str]:
    """Those of a train that have not ended."""
    found: list[dict[str, Any]] = api.get("/api/jobs/")
    return [
        str(entry["submission_id"])
        for entry in found
        if (entry.get("metadata") or {}).get(TRAIN) == train
        and entry.get("submission_id")
        and entry.get("status") not in ENDED
    ]


def jobs_end(api: RayApi, train: str) -> list[str]:
    """Stop what earlier attempts left, and wait until it has ended. Returns which those were. Raises
    ClusterAway where one does not end."""
    found = running = jobs_of(api, train)
    deadline = time.monotonic() + ENDING_SECONDS

    while running:
        # Again each time: one that was only about to begin may not have heard it.
        for job in running:
            job_stop(api, job)

        if time.monotonic() > deadline:
            raise ClusterAway(
                f"The Ray cluster at {api.address} does not end {running[0]}, an earlier attempt of "
                "this train."
            )

        time.sleep(TICK_SECONDS)
        running = jobs_of(api, train)

    return found
