"""Everything that changes a base model. Pages, API, admin and commands call these."""

from __future__ import annotations

import re
import shutil
from typing import Any

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError, QuerySet
from django.utils import timezone

from core.errors import UserError
from core.hub import reference_clean
from core.listing import slug_free
from core.ownership import deletion_check, may_change, may_see, owner_check
from core.store import require_disk, stored_path
from core.text import clean_label, clean_text, duration_words
from core.upload import ReceivedFile
from engine.models.inspect_gguf import GgufProblem, header_check
from jobs.adding import job_add
from jobs.kinds import BROKE_OFF, CANCELLED, TOO_LONG
from jobs.services import job_cancel, job_drop
from models_app.adapters import adapters_keep
from models_app.folders import folder_check, folder_resolve
from models_app.models import CUT_OFF, UPLOADED, BaseModel
from models_app.repository_names import suffixes_reserved
from models_app.standing import in_use_text
from models_app.versions import title_check, version_clean, version_set

DESCRIPTION_LIMIT = 20_000
# A name under the API's address, and so no slug.
RESERVED_SLUGS = {"folders"}
SAVE_TRIES = 10

# The kinds of background work, see jobs.kinds.
IMPORT = "model-import"
MERGE = "model-merge"
# A download may take hours, and nobody knows before it began.
EXPECTED_SECONDS = 7200
# {work}: import or merge.
ENDINGS = {
    CANCELLED: "The {work} was cancelled.",
    TOO_LONG: (
        "The {work} took longer than the {limit} that it may take, and was ended. Ask your "
        "operator for more time (DEEPEXTENSION_BACKGROUND_MINUTES), then try again."
    ),
    BROKE_OFF: CUT_OFF,
}

# What everybody may know of a trained model's origin.
PUBLIC_ORIGIN = ("method", "step", "precision")

Status = BaseModel.Status


def model_add(
    *,
    owner: User | None,
    source: str,
    reference: str = "",
    file: ReceivedFile | None = None,
    name: str = "",
) -> BaseModel:
    """The three ways in one, as forms and the API have them. Raises UserError by field."""
    if source == BaseModel.Source.FOLDER:
        return model_add_folder(owner=owner, reference=reference, name=name)
    if source == BaseModel.Source.HUB:
        return model_add_hub(owner=owner, reference=reference, name=name)
    if file is None:
        raise UserError({"file": ["Choose a GGUF file."]})

    return model_add_gguf(owner=owner, file=file, name=name)


def model_add_folder(*, owner: User | None, reference: str, name: str = "") -> BaseModel:
    """Copy a local folder below an allowed root, in the background. Raises UserError {"reference":
    …}."""
    folder = folder_resolve(reference.strip())
    folder_check(folder)
    return _add(owner, BaseModel.Source.FOLDER, stored_path(folder), name or folder.name)


def model_add_hub(*, owner: User | None, reference: str, name: str = "") -> BaseModel:
    """Download org/name[@revision] in the background. Raises UserError {"reference": …}."""
    reference = reference_clean(reference, "model", "Qwen/Qwen3-0.6B")
    identity, _, _ = reference.partition("@")
    _, _, hub_name = identity.partition("/")

    return _add(owner, BaseModel.Source.HUB, reference, name or hub_name)


def model_add_gguf(*, owner: User | None, file: ReceivedFile, name: str = "") -> BaseModel:
    """Take an uploaded GGUF file and convert it in the background. Raises UserError {"file": …}; it
    is then gone."""
    file_name = clean_label(str(file.name or ""), limit=200) or "model.gguf"
    stem = re.sub(r"(?i)\.gguf$", "", file_name)
    with file:
        gguf_check(file)
        # The weights once more at sixteen bits, beside what was uploaded.
        require_disk(4 * file.size_bytes, field="file")
        with transaction.atomic():
            model = _add(owner, BaseModel.Source.GGUF, file_name, name or stem)
            try:
                shutil.rmtree(model.import_path, ignore_errors=True)
                model.import_path.mkdir(parents=True, mode=0o700)
                file.keep_as(model.import_path / UPLOADED)
            except BaseException:
                shutil.rmtree(model.import_path, ignore_errors=True)
                raise

    return model


def model_add_trained(
    *,
    owner: User | None,
    name: str,
    licence: str,
    trained_from: dict[str, Any],
    version: str = "",
) -> BaseModel:
    """Make a model of what a train learned, in the background.

    `trained_from`: {"train": id, "name", "method", "step": of a checkpoint or 0, "precision",
    "base_model": {"id", "name"}}. name: the train's where it is blank. version: the next number of
    that name where it is blank. Raises UserError {"version": …}, and with code duplicate where the
    same is there already."""
    same = BaseModel.objects.filter(
        owner=owner,
        source=BaseModel.Source.TRAIN,
        archived_at=None,
        trained_from__train=trained_from["train"],
        trained_from__step=trained_from["step"],
        trained_from__precision=trained_from["precision"],
    )
    _refuse_twin(
        same,
        field="",
        added="This model has been added already",
        failed="This model has been added already, and that failed",
    )

    reference = f"train {trained_from['train']}"
    if trained_from["step"]:
        reference += f", step {trained_from['step']}"

    with transaction.atomic():
        name = clean_label(name, limit=120) or clean_label(trained_from["name"], limit=120)
        model = BaseModel(
            owner=owner,
            name=name or "model",
            version=version_clean(version),
            source=BaseModel.Source.TRAIN,
            reference=reference,
            licence=licence,
            trained_from=trained_from,
            parent_id=trained_from["base_model"]["id"],
        )
        version_set(model)
        _save_with_slug(model)
        model_enqueue(model)

    return model


def trained_from(model: BaseModel, reader: Any) -> dict[str, Any]:
    """Where a trained model is from, as far as `reader` may know: the train and the base model of a
    shared model may be somebody's own."""
    origin: dict[str, Any] = model.trained_from
    if reader is not None and may_change(model, reader):
        return origin

    return {key: value for key, value in origin.items() if key in PUBLIC_ORIGIN}


def may_read(model: BaseModel, reader: Any) -> bool:
    return reader is not None and may_see(model, reader)


def parent_of(model: BaseModel, reader: Any) -> BaseModel | None:
    """The model that it was trained from, where `reader` may see that."""
    parent = model.parent
    return parent if parent is not None and may_read(parent, reader) else None


def gguf_check(file: ReceivedFile) -> None:
    """Raises UserError {"file": …} for what is no GGUF file, or claims to hold what it cannot."""
    assert file.path is not None

    if not file.size_bytes:
        raise UserError({"file": ["The file is empty."]})

    try:
        header_check(file.path)
    except GgufProblem as problem:
        raise UserError({"file": [str(problem)]}) from problem


def _add(owner: User | None, source: BaseModel.Source, reference: str, name: str) -> BaseModel:
    is_upload = source == BaseModel.Source.GGUF
    if not is_upload:
        same = BaseModel.objects.filter(
            owner=owner, source=source, reference=reference, archived_at=None
        )
        _refuse_twin(
            same,
            field="reference",
            added="You have added it already",
            failed="You have added it already, and its import failed",
        )

    label = clean_label(name, limit=120)
    if not label:
        field = "name" if is_upload else "reference"
        raise UserError({field: ["Give the model a name."]})

    with transaction.atomic():
        model = BaseModel(owner=owner, name=label, source=source, reference=reference)
        _save_with_slug(model)
        model_enqueue(model)

    return model


def _refuse_twin(same: QuerySet[BaseModel], *, field: str, added: str, failed: str) -> None:
    """Raises UserError (duplicate) where there is a model of the same already: the same thing twice
    is a double click, not a wish. added, failed: what is said of one that is there or is being
    imported, and of one whose import failed."""
    message = ""
    if twin := same.exclude(status=Status.FAILED).first():
        message = f"{added}: {twin.title}."
    elif twin := same.first():
        message = f"{failed}: {twin.title}. Try that one again."

    if message:
        raise UserError({field: [message]}, code="duplicate")


def _save_with_slug(model: BaseModel) -> None:
    # A slug drops dots, and 2.1 is not 21.
    name = model.title.replace(".", "-") if model.version else model.name

    for attempt in range(1, SAVE_TRIES + 1):
        model.slug = slug_free(
            BaseModel.objects.all(),
            name,
            fallback="model",
            reserved=RESERVED_SLUGS,
            endings=suffixes_reserved(),
        )
        try:
            with transaction.atomic():
                model.save()

            return
        except IntegrityError:
            # Somebody else took the slug at this moment.
            if attempt == SAVE_TRIES:
                raise


def job_kind(model: BaseModel) -> str:
    """What is done to make it: the kind of its job."""
    return MERGE if model.is_trained else IMPORT


def job_key(model: BaseModel) -> str:
    return f"{job_kind(model)}-{model.pk}"


def model_enqueue(model: BaseModel) -> None:
    job_add(
        job_kind(model),
        model.pk,
        key=job_key(model),
        name=model.title,
        owner_id=model.owner_id,
        expected_seconds=EXPECTED_SECONDS,
    )


def model_import_cancel(*, model: BaseModel, by: User) -> BaseModel:
    """End the import or merge of a model; it can be tried again. Raises UserError (wrong_state) for
    a model that is not being made."""
    owner_check(model, by)

    if model.status != Status.IMPORTING:
        raise UserError(
            f"This model is not being {'merged' if model.is_trained else 'imported'}.",
            code="wrong_state",
        )
    if not job_cancel(job_key(model)):
        import_ended(model.pk, CANCELLED)

    model.refresh_from_db()
    return model


def import_ended(pk: int, reason: str, limit_seconds: float = 0) -> None:
    """Write down that an import or merge ended before its time, for a reason of jobs.kinds."""
    importing = BaseModel.objects.filter(pk=pk, status=Status.IMPORTING)
    model = importing.first()
    if model is None:
        return

    error = ENDINGS[reason].format(work=model.work, limit=duration_words(limit_seconds))
    importing.update(status=Status.FAILED, error=error, phase="", progress=0)

    if reason == CANCELLED:
        # Nobody waits for it any more, and it may be large. The uploaded file stays for another
        # try.
        shutil.rmtree(model.import_path / "files", ignore_errors=True)
        shutil.rmtree(model.import_path / "unpacked", ignore_errors=True)


def model_update(
    *, model: BaseModel, by: User, name: str | None = None, description: str | None = None
) -> BaseModel:
    """Rename a model or describe it; its slug, by which programs know it, stays."""
    owner_check(model, by)
    values: dict[str, str] = {}

    if name is not None:
        values["name"] = clean_label(name, limit=120)
        if not values["name"]:
            raise UserError({"name": ["Give the model a name."]})
        if model.is_trained:
            title_check(model, values["name"], model.version)

    if description is not None:
        values["description"] = clean_text(description)[:DESCRIPTION_LIMIT]

    return _write(model, **values)


def model_archive(*, model: BaseModel, by: User) -> BaseModel:
    """Offer it no longer for new trains; what was trained from it keeps its base. Twice is
    harmless."""
    owner_check(model, by)
    return _write(model, archived_at=model.archived_at or timezone.now())


def model_restore(*, model: BaseModel, by: User) -> BaseModel:
    """Offer it for new trains again."""
    owner_check(model, by)
    return _write(model, archived_at=None)


def model_retry(*, model: BaseModel, by: User) -> BaseModel:
    """Begin a failed import again. Raises UserError (wrong_state) for a model whose import did not
    fail."""
    owner_check(model, by)

    if model.source == BaseModel.Source.GGUF and not (model.import_path / UPLOADED).is_file():
        raise UserError("The uploaded file is gone. Upload it again.", code="wrong_state")

    failed = BaseModel.objects.filter(pk=model.pk, status=Status.FAILED)
    with transaction.atomic():
        is_failed = failed.update(
            status=Status.IMPORTING,
            error="",
            progress=0,
            phase="",
            attempts=0,
        )
        if not is_failed:
            raise UserError(f"Only a failed {model.work} can be tried again.", code="wrong_state")

        model_enqueue(model)

    model.refresh_from_db()
    return model


def model_delete(*, model: BaseModel, by: User) -> None:
    """Remove a model with its files. Raises UserError (in_use), naming what stands on it: trains,
    models trained from it, exports."""
    deletion_check(model, by)
    key = job_key(model)
    folders = model.folders

    try:
        with transaction.atomic():
            model.delete()
    except ProtectedError as error:
        # What stood on it may have gone meanwhile.
        reason = in_use_text(model, by) or f"{model.title} is in use."
        raise UserError(reason, code="in_use") from error

    # An import that runs notices that the row is gone, and clears up behind itself.
    job_drop(key, also_running=False)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _write(model: BaseModel, **values: Any) -> BaseModel:
    if values:
        # Not save(): the import writes other fields of this row at the same time.
        BaseModel.objects.filter(pk=model.pk).update(**values)
        model.refresh_from_db()

    return model


def models_reconcile() -> None:
    """Put imports that wait onto the queue again, for a queue that forgot them; one that is there
    already is left as it is. Keep what earlier versions did not keep of trained models."""
    for model in BaseModel.objects.filter(status=Status.IMPORTING):
        model_enqueue(model)

    adapters_keep()
