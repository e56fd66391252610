"""Names on the Hugging Face hub, and downloads and uploads by the programs of engine.programs.hub."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from django.conf import settings

from core.errors import UserError
from core.processes import proxy_environment
from core.programs import TICK_SECONDS, OnReport, ProgramProblem, Report, program_run

# Work that fails for a passing cause is tried again after RETRY_SECONDS, then after twice as
# long, and so on. A program picks up what the one before it left.
DOWNLOAD_TRIES = 4
RETRY_SECONDS = 5.0
STANDSTILL_SECONDS = 300
MEMORY_BYTES = 4 << 30

# The names that the hub accepts: no path, no URL, no scheme. The branch has the datasets that the
# hub converted from scripts.
_PART = r"[A-Za-z0-9_](?:[.-]?[A-Za-z0-9_])*"
_REFERENCE = re.compile(rf"{_PART}/{_PART}(?:@(?:{_PART}|refs/convert/parquet))?", re.ASCII)
_ADDRESS = re.compile(r"https://(?:huggingface\.co|hf\.co)/(?:datasets/)?")
_LONGEST = 200
_REPOSITORY = re.compile(rf"{_PART}/{_PART}", re.ASCII)
# The hub's own limit of a name.
LONGEST_REPOSITORY = 96


def reference_clean(text: str, kind: str, example: str) -> str:
    """org/name[@revision] from what somebody typed or copied.

    kind, example: for the message. Raises UserError for the field "reference".
    """
    reference = _ADDRESS.sub("", text.strip()).rstrip("/")
    if len(reference) > _LONGEST or not _REFERENCE.fullmatch(reference):
        message = (
            f"Write the {kind}'s name as on Hugging Face, such as {example} or {example}@main."
        )
        raise UserError({"reference": [message]})

    return reference


def hub_download(
    program: str,
    arguments: Callable[[int], Sequence[str]],
    *,
    home: Path,
    token: str,
    progress: Callable[[], int],
    on_report: OnReport,
    on_progress: Callable[[int], None] = lambda progress: None,
    on_retry: Callable[[int], None] = lambda attempt: None,
) -> Report:
    """Run a program of engine.programs.hub, again where it may go well later, and return what it
    reports under "done".

    arguments: the program's, from the bytes that are free on the disk when a try begins.
    home, token: see hub_environment.
    progress: grows as long as the download proceeds; one that does not for STANDSTILL_SECONDS is
    ended and counts as a failed try.
    on_progress: called about once a second with that, during the waits between tries too.
    on_retry: called with the number of the next try before the wait for it.

    What the callbacks raise ends the download. Raises ProgramProblem of the last try.
    """

    def download() -> Report:
        standstill = _Standstill("The download", progress, on_progress)
        free = shutil.disk_usage(settings.HOME).free - settings.DISK_RESERVE_BYTES

        return program_run(
            program,
            *arguments(free),
            seconds=None,
            memory_bytes=MEMORY_BYTES,
            work="The download",
            environment=hub_environment(home, token),
            on_report=on_report,
            on_tick=standstill.check,
        )

    return _tried(download, on_retry, lambda: on_progress(progress()))


def repository_clean(text: str) -> str:
    """org/name of a repository to upload to, from what somebody typed or copied. Raises UserError
    for the field "repository"."""
    repository = _ADDRESS.sub("", text.strip()).rstrip("/")
    if len(repository) > LONGEST_REPOSITORY or not _REPOSITORY.fullmatch(repository):
        raise UserError({"repository": ["Write a name on Hugging Face, such as my-team/my-model."]})

    return repository


def hub_upload(
    folder: Path,
    repository: str,
    *,
    home: Path,
    token: str,
    public: bool = False,
    update: bool = False,
    again: bool = False,
    on_begun: Callable[[], None] = lambda: None,
    on_progress: Callable[[float], None] = lambda share: None,
    on_retry: Callable[[int], None] = lambda attempt: None,
) -> Report:
    """Upload the folder of an export as one commit; returns {"address", "commit", "private"}.

    repository: org/name; it is made where there is none, private unless `public`. update: whether
    one that holds files may be written to. again: whether an upload of this folder has begun before;
    where it had come to its end, its result is returned.
    home, token: see hub_environment.
    on_begun: called before the first change on the hub, once a try.
    on_progress: called about once a second with the share that is done, 0 to 1. on_retry: as of
    hub_download.

    What the callbacks raise ends the upload. Raises ProgramProblem of the last try."""
    options = [*(["--public"] if public else []), *(["--update"] if update else [])]
    has_begun = again

    def begun() -> None:
        nonlocal has_begun
        has_begun = True
        on_begun()

    def upload() -> Report:
        progress = _UploadProgress(begun)
        standstill = _Standstill(
            "The upload", lambda: progress.read_bytes, lambda _: on_progress(progress.share)
        )

        return program_run(
            "engine.programs.hub.push",
            str(folder),
            repository,
            *options,
            *(["--again"] if has_begun else []),
            seconds=None,
            memory_bytes=MEMORY_BYTES,
            work="The upload",
            # Somebody asks for this very upload, whatever else is to do without a network.
            environment=hub_environment(home, token) | {"HF_HUB_OFFLINE": "0"},
            on_report=progress.take,
            on_tick=standstill.check,
        )

    return _tried(upload, on_retry, lambda: None)


class _UploadProgress:
    """What the program of an upload has reported. on_begun: see hub_upload."""

    def __init__(self, on_begun: Callable[[], None]) -> None:
        self.on_begun = on_begun
        self.size_bytes = 0
        self.read_bytes = 0

    def take(self, report: Report) -> None:
        if report.get("begun"):
            self.on_begun()

        self.size_bytes = int(report.get("bytes", self.size_bytes))
        self.read_bytes = int(report.get("read", self.read_bytes))

    @property
    def share(self) -> float:
        """Each file is read twice."""
        return min(1.0, self.read_bytes / (2 * self.size_bytes)) if self.size_bytes else 0.0


def _tried(
    work: Callable[[], Report], on_retry: Callable[[int], None], on_wait: Callable[[], None]
) -> Report:
    """Do the work, again where it may go well later. Raises ProgramProblem of the last try."""
    for attempt in range(1, DOWNLOAD_TRIES + 1):
        try:
            return work()
        except ProgramProblem as problem:
            if not problem.passing or attempt == DOWNLOAD_TRIES:
                raise

        on_retry(attempt + 1)
        _pause(RETRY_SECONDS * 2 ** (attempt - 1), on_wait)

    raise AssertionError("the last try returns or raises")


class _Standstill:
    """Notices work that no longer proceeds. `work`: as the beginning of a sentence."""

    def __init__(
        self, work: str, progress: Callable[[], int], on_progress: Callable[[int], None]
    ) -> None:
        self.work = work
        self.progress = progress
        self.on_progress = on_progress
        self.last = progress()
        self.changed_at = time.monotonic()

    def check(self) -> None:
        now = self.progress()

        if now != self.last:
            self.last = now
            self.changed_at = time.monotonic()
        elif time.monotonic() - self.changed_at > STANDSTILL_SECONDS:
            raise ProgramProblem(f"{self.work} stands still. Try again later.", passing=True)

        self.on_progress(now)


def _pause(seconds: float, on_tick: Callable[[], None]) -> None:
    while seconds > 0:
        tick = min(TICK_SECONDS, seconds)
        time.sleep(tick)
        on_tick()
        seconds -= tick


def hub_environment(home: Path, token: str) -> dict[str, str]:
    """For a program that speaks to the hub.

    home: a folder of its own, so that it finds no token and no cache that somebody left on this
    machine. token: that of the person whom the work is for, see
    accounts.services.hub_token_for; "" for none.
    """
    environment = proxy_environment() | {
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }

    if token:
        environment["HF_TOKEN"] = token

    return environment
