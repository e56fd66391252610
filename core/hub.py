"""Names on the Hugging Face hub, and the surroundings of the programs that download from it
(engine.programs.hub)."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from django.conf import settings

from core.errors import UserError
from core.processes import proxy_environment
from core.programs import ProgramProblem

# What the hub takes for a name: no path, no URL, no scheme. The branch is where it keeps datasets
# made from scripts.
_PART = r"[A-Za-z0-9_](?:[.-]?[A-Za-z0-9_])*"
_REFERENCE = re.compile(rf"{_PART}/{_PART}(?:@(?:{_PART}|refs/convert/parquet))?", re.ASCII)
_ADDRESS = re.compile(r"https://(?:huggingface\.co|hf\.co)/(?:datasets/)?")
_LONGEST = 200

DOWNLOAD_TRIES = 4
# Before the second try; twice as long before each one after that.
RETRY_SECONDS = 5.0
STANDSTILL_SECONDS = 300

Result = TypeVar("Result")


def reference_clean(text: str, kind: str, example: str) -> str:
    """org/name[@revision] out of what somebody typed or copied. Raises UserError {"reference":
    …}."""
    reference = _ADDRESS.sub("", text.strip()).rstrip("/")
    if len(reference) > _LONGEST or not _REFERENCE.fullmatch(reference):
        raise UserError(
            {
                "reference": [
                    f"Write the {kind}'s name as on Hugging Face, such as {example} or "
                    f"{example}@main."
                ]
            }
        )

    return reference


def hub_environment(home: Path, token: str) -> dict[str, str]:
    """For a program that downloads. A home of its own: no token and no cache that a person of this
    machine left.

    `token`: that of the person whom the download is for, see accounts.services.hub_token_for; ""
    for none."""
    environment = proxy_environment() | {
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }

    return environment | ({"HF_TOKEN": token} if token else {})


def free_bytes() -> int:
    """How much a download may write: what the disk has free above the reserve."""
    reserve: int = settings.DISK_RESERVE_BYTES
    return shutil.disk_usage(settings.HOME).free - reserve


def download_with_retries(
    download: Callable[[], Result], before_retry: Callable[[int, float], None]
) -> Result:
    """What `download` returns, begun again where it failed for a reason that may pass.

    before_retry: called with the number of the next try (2 …) and the seconds to wait before it; it
    does the waiting. Raises the last ProgramProblem.
    """
    attempt = 1
    while True:
        try:
            return download()
        except ProgramProblem as problem:
            if not problem.passing or attempt == DOWNLOAD_TRIES:
                raise

        before_retry(attempt + 1, RETRY_SECONDS * 2 ** (attempt - 1))
        attempt += 1


class Standstill:
    """Ends a download of which nothing arrived for STANDSTILL_SECONDS."""

    def __init__(self) -> None:
        self.moved_at = time.monotonic()

    def moved(self) -> None:
        """Something arrived."""
        self.moved_at = time.monotonic()

    def check(self) -> None:
        """Raises ProgramProblem (passing)."""
        if time.monotonic() - self.moved_at > STANDSTILL_SECONDS:
            raise ProgramProblem("The download stands still. Try again later.", passing=True)
