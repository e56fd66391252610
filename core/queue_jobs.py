"""The functions that a worker may call, and no others, even for those who can write to Redis.

RQ keeps a job in Redis as the dotted name of a function with its arguments, and imports whatever is
named there: `os.system` with a command would work, and JSON in place of pickle does not change that.
A job can also name functions to call when it ends, and addresses to send its result to. Therefore
only functions that were registered with `queue_job` are called, and all other instructions of a job
are ignored."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import rq
from rq.exceptions import NoSuchJobError
from rq.job import Job

logger = logging.getLogger("deepextension.queue")

F = TypeVar("F", bound=Callable[..., None])

REGISTERED: dict[str, Callable[..., None]] = {}


class JobRefused(Exception):
    """A job asks for something that the platform never puts into a queue."""


def queue_job(function: F) -> F:
    """Allow workers to call this function by its dotted name. Its module is `jobs` of an app."""
    name = f"{function.__module__}.{function.__qualname__}"
    REGISTERED[name] = function

    return function


class RegisteredJob(Job):
    """A job whose function is one of ours."""

    def restore(self, raw_data: Any) -> None:
        """Read the job from Redis, except for fields that the platform never writes.

        Raises NoSuchJobError for fields that cannot be read, so that a worker skips the job.
        """
        try:
            super().restore(raw_data)
        except NoSuchJobError:
            raise
        except Exception as error:
            # RQ parses two dozen fields, each with different errors, which would end the worker.
            logger.error("Job %s is unreadable and was skipped: %r", self.id, error)
            raise NoSuchJobError(f"Job {self.id} is unreadable.") from error

        self._success_callback_name = None
        self._failure_callback_name = None
        self._stopped_callback_name = None
        self.webhooks = []
        self.repeats_left = None
        self.retries_left = None

    @property
    def func(self) -> Callable[..., None]:
        """Raises JobRefused; the worker then moves the job to the failed ones."""
        name = str(self.func_name)
        if self.instance is not None or name not in REGISTERED:
            logger.error("Refused job %s: workers do not call %.200r", self.id, name)
            raise JobRefused(f"{name[:200]!r} is not a function that workers call.")

        return REGISTERED[name]


class Worker(rq.Worker):
    """Calls registered functions only."""

    job_class = RegisteredJob
