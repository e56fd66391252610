"""An export is made: written, compared with the trained model, and delivered where that was asked.

Everything happens in HOME/exports/<id>/; its folder files/ appears by a rename, whole or not at
all. Only one process makes an export at a time, and it may be begun again at any point: what is
there already is neither written nor compared again."""

from __future__ import annotations

import errno
import hashlib
import logging
import shutil
import time
from pathlib import Path
from typing import Any

from django.db import InterfaceError, OperationalError
from django.utils import timezone

from accounts.services import hub_token_of_their_own
from core import hub
from core.errors import UserError
from core.folder_lock import folder_lock
from core.ollama import ollama_create
from core.ownership import may_change
from core.programs import ProgramKilled, ProgramProblem, Report, program_run
from core.store import require_disk
from core.text import clean_text
from exports.formats import comparison_bytes, size_estimate
from exports.models import Export
from exports.services import delivery_failed
from exports.system_prompt import system_prompt_of
from jobs.progress import progress_report
from models_app.adapters import adapter_base
from models_app.models import BaseModel

SYSTEM_PROMPT = "system.txt"
# More than the background workers give it (jobs.services): the last resort.
MOST_ATTEMPTS = 6
HASH_BLOCK = 1 << 20
# Shares of the whole.
WRITTEN, COMPARED = 0.55, 0.95

Status = Export.Status
Delivery = Export.Delivery
Format = Export.Format

logger = logging.getLogger("deepextension.exports")


class Withdrawn(Exception):
    """The export was deleted or cancelled while it was made."""


def export_make(pk: int) -> None:
    """Make that export if it waits for it; its row says how it went. May be called any number of
    times."""
    waiting = Export.objects.with_related().filter(pk=pk, status=Status.MAKING)
    export = waiting.first()
    if export is None:
        return

    export.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with folder_lock(export.folder) as locked:
        if not locked:
            return

        try:
            _begin(export)
            _make(export)
        except Withdrawn:
            _clear(export)
        except (ProgramProblem, UserError) as error:
            _fail(export, error.message if isinstance(error, UserError) else str(error))
        except OSError as error:
            logger.exception("export %s", pk)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            needed = size_estimate(
                export.model,
                export.written_format,
                export.options.get("quantization", ""),
            )
            _fail(
                export,
                f"The disk is full. The export takes about {needed / 1e9:.1f} GB: free some "
                "space and try again."
                if full
                else "Its files cannot be read.",
            )
        except (OperationalError, InterfaceError):
            # The database is away, which is no fault of the export: the job is tried again.
            raise
        except Exception:
            logger.exception("export %s", pk)
            _fail(
                export,
                "The export failed because of a fault in the platform. Ask your operator to look at "
                "the log.",
            )


def _begin(export: Export) -> None:
    """An export that took its worker with it time and again is not begun for ever."""
    if export.attempts >= MOST_ATTEMPTS:
        raise ProgramProblem(
            "The export was cut off several times, perhaps for lack of memory. Try again when the "
            "server is less busy."
        )

    _write(export, attempts=export.attempts + 1, error="")


def _make(export: Export) -> None:
    if not export.files_path.is_dir():
        _files_write(export)

    if not export.proof:
        _prove(export)

    _leftovers_remove(export)

    if not export.files:
        _write(export, phase="Hashing", progress=COMPARED)
        files = files_listed(export.files_path)
        _write(export, files=files, size_bytes=sum(file["size_bytes"] for file in files))

    delivered = _deliver(export) if export.delivery == Delivery.WANTED else {}
    made = {
        "status": Status.READY,
        "progress": 1,
        "phase": "",
        "error": "",
        "attempts": 0,
        "made_at": export.made_at or timezone.now(),
    }
    _write(export, **made, **delivered)


def _files_write(export: Export) -> None:
    model = export.model
    quantization = export.options.get("quantization", "")
    require_disk(size_estimate(model, export.written_format, quantization))
    _model_check(model)

    making = export.folder / "making"
    shutil.rmtree(making, ignore_errors=True)
    _write(export, phase="Writing", progress=0, proof={}, files=[])
    progress = ProgressWriter(export)

    done = program_run(
        "engine.exporting",
        export.written_format,
        str(model.path),
        str(making),
        *_write_options(export),
        seconds=900 + model.size_bytes / 1e6,
        memory_bytes=6 * 2**30 + 5 * model.size_bytes,
        too_long="Writing the files took too long.",
        work="Writing the files",
        on_report=lambda news: progress(WRITTEN * news.get("progress", 0), news.get("phase", "")),
        on_tick=progress.again,
    )

    _write(export, remark=clean_text(str(done.get("remark", "")))[:2000])
    making.rename(export.files_path)


def _leftovers_remove(export: Export) -> None:
    """What was needed on the way, and what a process that was killed has left beside the files."""
    for path in export.folder.iterdir():
        if path.is_dir() and path != export.files_path:
            shutil.rmtree(path, ignore_errors=True)

    (export.folder / SYSTEM_PROMPT).unlink(missing_ok=True)


def _model_check(model: BaseModel) -> None:
    if not model.path.is_dir():
        raise ProgramProblem(f"The files of {model.name} are gone. Add the model again.")


def _write_options(export: Export) -> list[str]:
    model = export.model
    # In one word, since a name may begin with a dash.
    options = [f"--name={model.name}"]
    if quantization := export.options.get("quantization"):
        options += ["--quantization", quantization]
    if shard_bytes := export.options.get("shard_bytes"):
        options += ["--shard-bytes", str(shard_bytes)]

    options += _system_options(export)
    if hub_id := _base_hub_id(model):
        options += ["--base-id", hub_id]

    return [*options, *_adapter_options(model)]


def _base_hub_id(model: BaseModel) -> str:
    """The name on the hub of what the model's adapter lies on, or nothing."""
    base = adapter_base(model)
    if base is None or base.source != BaseModel.Source.HUB:
        return ""

    hub_id, _, _ = base.reference.partition("@")
    return hub_id


def _system_options(export: Export) -> list[str]:
    """The system prompt that is written, for the program that writes and the one that compares.
    The prompts of a train are its owner's."""
    is_theirs = export.asked_by is None or may_change(export.model, export.asked_by)
    prompt = system_prompt_of(export.model) if is_theirs else ""
    file = export.folder / SYSTEM_PROMPT
    file.write_text(prompt, encoding="utf-8")
    return ["--system-file", str(file)]


def _adapter_options(model: BaseModel) -> list[str]:
    """The model's adapter and what it lies on; nothing where it has none."""
    base = adapter_base(model)
    if base is None or not model.has_adapter:
        return []

    return ["--adapter", str(model.adapter_path), "--base", str(base.path)]


def _prove(export: Export) -> None:
    """Compare what was written with the trained model. A comparison that cannot be made does not
    keep the export back: its page says so."""
    _write(export, phase="Comparing with the model", progress=WRITTEN)
    try:
        require_disk(comparison_bytes(export.model, export.written_format))
        proof = _proof_make(export)
    except UserError as error:
        proof = {"passed": None, "checks": [], "error": error.message}
    except ProgramProblem as problem:
        proof = {"passed": None, "checks": [], "error": clean_text(str(problem))[:1000]}

    _write(export, proof=proof | _model_verdict(export.model, proof))


def _model_verdict(model: BaseModel, proof: Report) -> Report:
    """An export that equals a model which is not the trained one is not the trained one either."""
    if model.proof_state != "failed":
        return {}

    check = {
        "name": "The model itself",
        "passed": False,
        "detail": "It differs from what was trained, as its page says.",
    }
    return {"passed": False, "checks": [check, *proof.get("checks", [])]}


def _proof_make(export: Export) -> Report:
    """What the comparison found. One that was killed is made once more: memory may have been short
    for a moment. Raises ProgramProblem."""
    model = export.model
    progress = ProgressWriter(export)

    def proof_run() -> Report:
        share = COMPARED - WRITTEN
        return program_run(
            "engine.proof.exported",
            export.written_format,
            str(export.files_path),
            "--model",
            str(model.path),
            "--reference",
            str(model.reference_path),
            *_system_options(export),
            *_adapter_options(model),
            # Two models in fp32 for a moment.
            seconds=1800 + model.size_bytes / 5e5,
            memory_bytes=8 * 2**30 + 6 * model.size_bytes,
            too_long="The comparison took too long.",
            work="The comparison",
            on_report=lambda news: progress(WRITTEN + share * news.get("progress", 0)),
            on_tick=progress.again,
        )

    try:
        return proof_run()
    except ProgramKilled:
        return proof_run()


def files_listed(folder: Path) -> list[dict[str, Any]]:
    """name, size_bytes and sha256 of every file below `folder`."""
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest = hashlib.sha256()
        with path.open("rb") as source:
            while block := source.read(HASH_BLOCK):
                digest.update(block)

        name = str(path.relative_to(folder))
        files.append(
            {"name": name, "size_bytes": path.stat().st_size, "sha256": digest.hexdigest()}
        )

    return files


def _deliver(export: Export) -> dict[str, Any]:
    """Bring it where it was to go; returns what became of that, as values of the row. Raises
    ProgramProblem."""
    if export.proof_state != "passed" and not export.options.get("anyway"):
        return {"delivery": Delivery.HELD}

    deliver = _to_ollama if export.format == Format.OLLAMA else _to_hub
    return {"delivery": Delivery.DONE, "address": deliver(export)}


def _to_hub(export: Export) -> str:
    """Returns the address of the repository."""
    _write(export, phase="Uploading", progress=0)
    progress = ProgressWriter(export)
    home = export.folder / "hub"

    def on_retry(attempt: int) -> None:
        progress(0, f"Trying again ({attempt} of {hub.DOWNLOAD_TRIES})")

    try:
        uploaded = hub.hub_upload(
            export.files_path,
            export.destination,
            home=home,
            token=hub_token_of_their_own(export.asked_by),
            public=not export.options.get("private", True),
            update=bool(export.options.get("replace")),
            again=bool(export.options.get("begun")),
            on_begun=lambda: _delivery_begun(export),
            on_progress=progress,
            on_retry=on_retry,
        )
    finally:
        shutil.rmtree(home, ignore_errors=True)

    return str(uploaded["address"])[:500]


def _to_ollama(export: Export) -> str:
    """Returns no address: that of the Ollama is its operator's."""
    _write(export, phase="Creating it in Ollama", progress=0)
    progress = ProgressWriter(export)
    total = 0

    def on_report(report: Report) -> None:
        nonlocal total
        total = report.get("bytes", total)
        if "sent" in report and total:
            progress(report["sent"] / total)
        if report.get("begun"):
            _delivery_begun(export)
        if "phase" in report:
            progress(progress.export.progress, str(report["phase"]).capitalize())

    ollama_create(
        export.files_path,
        export.destination,
        replace=bool(export.options.get("replace")),
        again=bool(export.options.get("begun")),
        on_report=on_report,
        on_tick=progress.again,
    )

    return ""


def _delivery_begun(export: Export) -> None:
    """What is found at the destination from now on may be of this export: a worker that is killed
    after it was delivered does not take it for somebody else's."""
    _write(export, options=export.options | {"begun": True})


def _write(export: Export, **values: object) -> None:
    """Raises Withdrawn where the export is gone or no longer wanted."""
    if not Export.objects.filter(pk=export.pk, status=Status.MAKING).update(**values):
        raise Withdrawn

    for name, value in values.items():
        setattr(export, name, value)

    if "phase" in values or "progress" in values:
        progress_report(export.phase, export.progress)


def _fail(export: Export, reason: str) -> None:
    """What was written stays where only the delivery failed."""
    reason = clean_text(reason)[:1000]
    is_made = export.only_to_be_delivered
    if is_made:
        values = delivery_failed(export, reason)
    else:
        values = {"status": Status.FAILED, "error": reason, "phase": "", "progress": 0}

    if Export.objects.filter(pk=export.pk, status=Status.MAKING).update(**values):
        if not is_made:
            _clear(export)
        return

    if not Export.objects.filter(pk=export.pk).exists():
        _clear(export)


def _clear(export: Export) -> None:
    shutil.rmtree(export.folder, ignore_errors=True)


class ProgressWriter:
    """Writes progress at most once a second, and notices that the export was withdrawn."""

    def __init__(self, export: Export) -> None:
        self.export = export
        self.last = 0.0

    def __call__(self, progress: float, phase: str = "") -> None:
        is_new = bool(phase) and phase != self.export.phase
        if is_new or time.monotonic() - self.last >= 1:
            self.last = time.monotonic()
            _write(self.export, progress=round(progress, 3), phase=phase[:40] or self.export.phase)

    def again(self) -> None:
        self(self.export.progress)
