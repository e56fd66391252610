"""The import of a base model: fetch, check, hash, and only then a folder that counts.

Everything happens in HOME/models/imports/<id>/; HOME/models/<id>/ appears by a rename, whole or not
at all. Only one import of a model runs at a time (a lock on its folder, which the kernel gives back
when the process dies), and it may be begun again at any point."""

from __future__ import annotations

import errno
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from django.db import InterfaceError, OperationalError

from accounts.services import hub_token_for
from core import hub
from core.errors import UserError
from core.folder_lock import folder_lock
from core.programs import ProgramKilled, ProgramProblem, Report, folder_bytes, program_run
from core.store import located_path, require_disk, runs_folder
from core.text import clean_label, clean_text
from engine.models.inspect import (
    ModelFacts,
    ModelProblem,
    config_read,
    folder_read,
    hooks_remove,
    kept_files,
    packing,
    tokenizer_digest,
    weight_files,
)
from jobs.progress import progress_report
from models_app.adapters import adapter_copy, weights_folder
from models_app.folders import folder_copy, folder_resolve
from models_app.models import ADAPTER_FOLDER, REFERENCE, UPLOADED, BaseModel
from models_app.passport import passport_complete

# More than the background workers give it (jobs.services): the last resort.
MOST_ATTEMPTS = 6
TRY_SECONDS = 180
# Of files of weights, whose tensors are matched one by one: 15 GB of experts took 27 s.
TRY_BYTES_PER_SECOND = 2e8
TRY_MEMORY_BYTES = 8 * 2**30
# One file of the result, 2 GB, and what the largest tensor needs on its way.
UNPACK_MEMORY_BYTES = 12 * 2**30
OUT_OF_MEMORY = (
    "Its files claim more than there is memory to read them. They may be damaged: get "
    "the model again."
)

logger = logging.getLogger("deepextension.models")


class Withdrawn(Exception):
    """The model was deleted while it was imported."""


def model_import(pk: int) -> None:
    """Run the import of that model if it waits for one; its row says how it went. May be called any
    number of times."""
    model = BaseModel.objects.filter(pk=pk, status=BaseModel.Status.IMPORTING).first()
    if model is None:
        return

    model.import_path.mkdir(parents=True, exist_ok=True, mode=0o700)
    with folder_lock(model.import_path) as locked:
        if not locked:
            return

        try:
            _begin(model)
            _fetch(model)
            _finish(model)
        except Withdrawn:
            _clear(model)
        except (ProgramProblem, ModelProblem, UserError) as error:
            _fail(model, error.message if isinstance(error, UserError) else str(error))
        except OSError as error:
            logger.exception("import of model %s", pk)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            _fail(
                model,
                "The disk is full. Free some space and try again."
                if full
                else "Its files cannot be read.",
            )
        except MemoryError:
            _fail(model, OUT_OF_MEMORY)
        except (OperationalError, InterfaceError):
            # The database is away, which is no fault of the model: the job is tried again.
            raise
        except Exception:
            logger.exception("import of model %s", pk)
            _fail(
                model,
                f"The {model.work} failed because of a fault in the platform. Ask your operator to "
                "look at the log.",
            )


def _begin(model: BaseModel) -> None:
    """An import that took its worker with it time and again is not begun for ever."""
    if model.attempts >= MOST_ATTEMPTS:
        raise ProgramProblem(
            f"The {model.work} was cut off several times, perhaps for lack of memory. Try again "
            "when the server is less busy."
        )

    _write(model, attempts=model.attempts + 1, error="")


def _write(model: BaseModel, **values: object) -> None:
    """Raises Withdrawn where the model is gone or no longer wants an import."""
    if not BaseModel.objects.filter(pk=model.pk, status=BaseModel.Status.IMPORTING).update(
        **values
    ):
        raise Withdrawn

    for name, value in values.items():
        setattr(model, name, value)

    if "phase" in values or "progress" in values:
        progress_report(model.phase, model.progress)


def _fail(model: BaseModel, reason: str) -> None:
    values = {
        "status": BaseModel.Status.FAILED,
        "error": clean_text(reason)[:1000],
        "phase": "",
        "progress": 0,
    }

    if BaseModel.objects.filter(pk=model.pk, status=BaseModel.Status.IMPORTING).update(**values):
        return
    if not BaseModel.objects.filter(pk=model.pk).exists():
        _clear(model)


def _clear(model: BaseModel) -> None:
    for folder in model.folders:
        shutil.rmtree(folder, ignore_errors=True)


def _fetch(model: BaseModel) -> None:
    """Fill import_path/files."""
    fetch: dict[str, Callable[[BaseModel, Path], None]] = {
        BaseModel.Source.FOLDER: _fetch_folder,
        BaseModel.Source.HUB: _fetch_hub,
        BaseModel.Source.GGUF: _fetch_gguf,
        BaseModel.Source.TRAIN: _fetch_trained,
    }

    files = model.import_path / "files"

    if model.source != BaseModel.Source.HUB:
        shutil.rmtree(files, ignore_errors=True)

    fetch[model.source](model, files)


def _fetch_folder(model: BaseModel, files: Path) -> None:
    folder = folder_resolve(str(located_path(model.reference)))
    size = sum((folder / name).stat().st_size for name in kept_files(folder))
    require_disk(size)
    _write(model, phase="Copying", progress=0)
    progress = ProgressWriter(model)
    folder_copy(folder, files, lambda done: progress(0.8 * done / max(1, size)))


def _fetch_hub(model: BaseModel, files: Path) -> None:
    _write(model, phase="Asking the hub")
    repository, _, revision = model.reference.partition("@")
    progress = ProgressWriter(model)
    total = 0

    def arguments(free_bytes: int) -> list[str]:
        # What an earlier try has downloaded is kept, and so is no obstacle.
        largest_bytes = free_bytes + folder_bytes(files)
        return [repository, revision, str(files), str(largest_bytes)]

    def on_report(report: Report) -> None:
        nonlocal total
        if "bytes" in report:
            total = int(str(report["bytes"]))
            _write(
                model,
                phase="Downloading",
                revision=str(report["revision"] or "")[:64],
                size_bytes=total,
            )

    def on_progress(done: int) -> None:
        share = min(1.0, done / total) if total else 0
        progress(0.8 * share)

    def on_retry(attempt: int) -> None:
        _write(model, phase=f"Connection cut, trying again ({attempt} of {hub.DOWNLOAD_TRIES})")

    hub.hub_download(
        "engine.programs.hub.model",
        arguments,
        home=model.import_path / "hub",
        token=hub_token_for(model.owner),
        progress=lambda: folder_bytes(files),
        on_report=on_report,
        on_progress=on_progress,
        on_retry=on_retry,
    )

    shutil.rmtree(files / ".cache", ignore_errors=True)


def _fetch_gguf(model: BaseModel, files: Path) -> None:
    source = model.import_path / UPLOADED
    if not source.is_file():
        raise ProgramProblem("The uploaded file is gone. Upload it again.")

    size = source.stat().st_size
    # Four-bit weights become sixteen-bit ones.
    require_disk(4 * size)
    _write(model, phase="Converting", progress=0)
    progress = ProgressWriter(model)
    facts = program_run(
        "engine.programs.convert",
        "gguf",
        str(source),
        str(files),
        seconds=900 + size / 1e6,
        memory_bytes=6 * 2**30 + 12 * size,
        too_long="The conversion took too long.",
        on_report=lambda news: progress(0.8 * news.get("progress", 0), now=True),
        on_tick=progress.again,
    )

    if not model.licence:
        _write(model, licence=clean_label(str(facts["licence"]), limit=100))


def _fetch_trained(model: BaseModel, files: Path) -> None:
    """A train's adapter merged into its base model, or the model that it trained whole."""
    run, options = _trained_run(model)
    size = _base_bytes(model)
    require_disk(size)
    _write(model, phase="Merging", progress=0)
    progress = ProgressWriter(model)
    done = program_run(
        "engine.merging",
        str(run),
        str(files),
        *options,
        "--precision",
        model.trained_from["precision"],
        # The slow way of rare families takes four bytes a weight, twice while it is saved.
        seconds=900 + size / 1e6,
        memory_bytes=6 * 2**30 + 5 * size,
        too_long="The merge took too long.",
        on_report=lambda news: progress(0.7 * news.get("progress", 0)),
        on_tick=progress.again,
    )

    _write(model, description=model.description or clean_text(str(done["remark"])))
    shutil.rmtree(_kept(model), ignore_errors=True)
    _kept(model).mkdir(mode=0o700)
    adapter_copy(weights_folder(model), _kept(model) / ADAPTER_FOLDER)


def _prove(model: BaseModel) -> None:
    """Hold what was written against what was trained. A proof that cannot be made does not keep the
    model back: its page says so."""
    if not model.is_trained:
        return

    _write(model, phase="Comparing with the trained model", progress=0.75)
    try:
        proof = _proof_make(model)
    except ProgramProblem as problem:
        proof = {"passed": None, "checks": [], "error": clean_text(str(problem))[:1000]}

    _write(model, proof=proof)


def _proof_make(model: BaseModel) -> Report:
    """What the proof found. One that was killed is made once more: memory may have been short for a
    moment, and a model that is there is not proved again. Raises ProgramProblem."""
    run, options = _trained_run(model)
    size = _base_bytes(model)
    progress = ProgressWriter(model)

    def proof_run() -> Report:
        return program_run(
            "engine.proof",
            str(run),
            str(model.import_path / "files"),
            *options,
            "--reference",
            str(_kept(model) / REFERENCE),
            # Two models in fp32 for a moment, of base models that are stored in half of that.
            seconds=1800 + size / 5e5,
            memory_bytes=8 * 2**30 + 6 * size,
            too_long="The comparison took too long.",
            on_report=lambda news: progress(0.75 + 0.2 * news.get("progress", 0)),
            on_tick=progress.again,
        )

    try:
        return proof_run()
    except ProgramKilled:
        return proof_run()


def _trained_run(model: BaseModel) -> tuple[Path, list[str]]:
    """(run directory, options that name the checkpoint)."""
    origin = model.trained_from
    options = ["--checkpoint", str(origin["step"])] if origin["step"] else []
    return runs_folder() / str(origin["train"]), options


def _base_bytes(model: BaseModel) -> int:
    base = BaseModel.objects.filter(pk=model.trained_from["base_model"]["id"]).first()
    return base.size_bytes if base is not None else 0


def _unpack(model: BaseModel, files: Path) -> None:
    """Weights of eight or four bits become bf16, in place of what was fetched."""
    if not packing(config_read(files, may_be_packed=True)):
        return

    size = sum((files / name).stat().st_size for name in weight_files(files))
    require_disk(4 * size)
    _write(model, phase="Unpacking", progress=0.8)
    progress, unpacked = ProgressWriter(model), model.import_path / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    program_run(
        "engine.programs.convert",
        "unpack",
        str(files),
        str(unpacked),
        seconds=900 + size / 1e6,
        memory_bytes=UNPACK_MEMORY_BYTES,
        too_long="Unpacking the weights took too long.",
        on_report=lambda news: progress(0.8 + 0.05 * news.get("progress", 0)),
        on_tick=progress.again,
    )

    shutil.rmtree(files)
    unpacked.rename(files)


def _finish(model: BaseModel) -> None:
    """Check what was fetched and make it count."""
    files = model.import_path / "files"
    _unpack(model, files)
    _write(model, phase="Checking", progress=0.85)
    # Before everything else, so that what is checked and hashed is what is kept.
    config_read(files)
    hooks_remove(files)
    facts = folder_read(files)
    tried = program_run(
        "engine.programs.convert",
        "try",
        str(files),
        seconds=TRY_SECONDS + facts.size_bytes / TRY_BYTES_PER_SECOND,
        memory_bytes=TRY_MEMORY_BYTES,
        on_tick=ProgressWriter(model).again,
        too_long="Its chat template or tokenizer never finishes, so a train with it would not "
        "either. Choose another model.",
    )

    _prove(model)
    _write(model, progress=0.95)
    values = _values(facts, model) | {
        "template_example": clean_text(tried["example"]),
        "sha256": passport_complete(model, files),
        "tokenizer_sha256": tokenizer_digest(files),
    }

    _kept_move(model)
    shutil.rmtree(model.path, ignore_errors=True)
    files.rename(model.path)
    _write(
        model, status=BaseModel.Status.READY, progress=1, phase="", error="", attempts=0, **values
    )
    shutil.rmtree(model.import_path, ignore_errors=True)


def _kept_move(model: BaseModel) -> None:
    """What is kept of a trained model beside its weights goes to its place."""
    if not model.is_trained:
        return

    shutil.rmtree(model.trained_path, ignore_errors=True)
    model.trained_path.parent.mkdir(exist_ok=True, mode=0o700)
    _kept(model).rename(model.trained_path)


def _kept(model: BaseModel) -> Path:
    return model.import_path / "kept"


def _values(facts: ModelFacts, model: BaseModel) -> dict[str, object]:
    return {
        "architecture": clean_label(facts.architecture, limit=100),
        "parameter_count": facts.parameter_count,
        "context_length": facts.context_length,
        "dtype": facts.dtype,
        "chat_template": clean_text(facts.chat_template),
        "licence": model.licence or clean_label(facts.licence, limit=100),
        "size_bytes": facts.size_bytes,
        "linear_modules": facts.linear_modules,
    }


class ProgressWriter:
    """Writes progress at most once a second, and notices that the model was withdrawn."""

    def __init__(self, model: BaseModel) -> None:
        self.model = model
        self.last = 0.0

    def __call__(self, progress: float, *, now: bool = False) -> None:
        if now or time.monotonic() - self.last >= 1:
            self.last = time.monotonic()
            _write(self.model, progress=round(progress, 3))

    def again(self) -> None:
        self(self.model.progress)
