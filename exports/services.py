"""Everything that changes an export. Pages, API and admin call these."""

from __future__ import annotations

import shutil
from typing import Any

from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import transaction

from accounts.operators import is_operator
from core.errors import UserError
from core.hub import repository_clean
from core.ollama import ollama_is_set_up, ollama_name_clean
from core.ownership import deletion_check, may_change, owner_check
from core.store import require_disk
from core.text import duration_words
from exports.formats import (
    QUANTIZATIONS,
    comparison_bytes,
    content_choices,
    is_quantized,
    obstacle,
    size_estimate,
)
from exports.models import Export
from jobs.adding import job_add
from jobs.kinds import BROKE_OFF, CANCELLED, TOO_LONG
from jobs.services import job_cancel, job_drop
from models_app.models import BaseModel

# The kind of background work, see jobs.kinds.
KIND = "model-export"
ENDINGS = {
    CANCELLED: "The export was cancelled.",
    TOO_LONG: (
        "The export took longer than the {limit} that it may take, and was ended. Ask your "
        "operator for more time (DEEPEXTENSION_BACKGROUND_MINUTES), then try again."
    ),
    BROKE_OFF: (
        "The export was cut off several times, perhaps for lack of memory. Try again when the "
        "server is less busy."
    ),
}

# Of a file of weights. Smaller ones make thousands of files of a large model.
LEAST_SHARD_BYTES = 100 * 10**6
MOST_SHARD_BYTES = 50 * 10**9
SHARD_BYTES = 5 * 10**9
# To start the programs, and to compare.
EXPECTED_SECONDS = 40
EXPECTED_BYTES_PER_SECOND = 2e7


Format = Export.Format
Status = Export.Status
Delivery = Export.Delivery


def export_add(
    *,
    model: BaseModel,
    by: User,
    format: str,
    quantization: str = "",
    shard_bytes: int | None = None,
    content: str = "",
    repository: str = "",
    private: bool = True,
    replace: bool = False,
) -> Export:
    """Export a model that `by` may see, in the background; whoever sees the model sees the result.
    To the hub only those upload who may change the model: what is uploaded names its train.

    quantization: of GGUF weights, f16 by default. shard_bytes: of safetensors. content, repository,
    private, replace: of what is uploaded to the hub; `replace` for a repository that is not empty.

    Raises UserError by field; with code wrong_state where the model cannot have this export, and
    duplicate where the same is there already."""
    if format not in Format.values:
        raise UserError({"format": [f"Choose one of {', '.join(Format.values)}."]})
    if reason := obstacle(model, format, by):
        raise UserError({"format": [reason]}, code="wrong_state")

    options: dict[str, Any] = {}
    destination = ""

    if format == Format.HUB:
        owner_check(model, by)
        content = content or "safetensors"
        destination = _repository(model, by, content, repository)
        options |= {"content": content, "private": private, "replace": replace}
    elif content or repository:
        field = "content" if content else "repository"
        raise UserError({field: ["Only an upload to the hub has one."]})

    if is_quantized(format, content):
        options["quantization"] = _quantization(quantization)
    elif quantization:
        raise UserError({"quantization": [f"{Format(format).label} has no quantisation."]})

    if "safetensors" in (format, content):
        options["shard_bytes"] = _shard_bytes(shard_bytes)
    elif shard_bytes is not None:
        raise UserError({"shard_bytes": ["Only safetensors are split into files."]})

    size = size_estimate(model, format, options.get("quantization", ""), content)
    require_disk(size + comparison_bytes(model, format))

    with transaction.atomic():
        # Two requests at once create one export.
        BaseModel.objects.select_for_update().get(pk=model.pk)
        _refuse_twin(model, format, options, destination)
        export = Export.objects.create(
            model=model,
            format=format,
            options=options,
            asked_by=by,
            destination=destination,
            delivery=Delivery.WANTED if destination else Delivery.NONE,
        )
        export_enqueue(export)

    return export


def _repository(model: BaseModel, by: User, content: str, repository: str) -> str:
    choices = content_choices(model, by)
    if content not in choices:
        raise UserError({"content": [f"Choose one of {', '.join(choices)}."]})
    if not repository.strip():
        raise UserError({"repository": ["Name the repository: your account/a name."]})

    return repository_clean(repository)


def _quantization(quantization: str) -> str:
    chosen = quantization.strip().lower() or "f16"
    if chosen not in QUANTIZATIONS:
        raise UserError({"quantization": [f"Choose one of {', '.join(QUANTIZATIONS)}."]})

    return chosen


def _shard_bytes(shard_bytes: int | None) -> int:
    wanted = SHARD_BYTES if shard_bytes is None else shard_bytes
    if not LEAST_SHARD_BYTES <= wanted <= MOST_SHARD_BYTES:
        raise UserError({"shard_bytes": ["Choose 100 MB to 50 GB."]})

    return wanted


def _refuse_twin(model: BaseModel, format: str, options: dict[str, Any], destination: str) -> None:
    """Raises UserError (duplicate): the same thing twice is a double click, not a wish. What was
    uploaded may be uploaded again."""
    same = Export.objects.filter(model=model, format=format, destination=destination)
    for twin in same.exclude(status=Status.FAILED):
        if twin.options != options or twin.delivery == Delivery.DONE:
            continue

        words = "is being made" if twin.status == Status.MAKING else "is there already"
        raise UserError(f"This export {words}: #{twin.pk}.", code="duplicate")


def export_key(pk: int) -> str:
    return f"{KIND}-{pk}"


def export_enqueue(export: Export) -> None:
    size = export.model.size_bytes
    job_add(
        KIND,
        export.pk,
        key=export_key(export.pk),
        name=str(export),
        owner_id=export.asked_by_id or export.model.owner_id,
        expected_seconds=EXPECTED_SECONDS + size / EXPECTED_BYTES_PER_SECOND,
    )


def export_check(export: Export, by: User) -> None:
    """Raises PermissionDenied where `by` may not change the export."""
    if not export_may_change(export, by):
        raise PermissionDenied


def export_may_change(export: Export, by: User) -> bool:
    """It belongs to whoever asked for it, and to whoever has the model."""
    return export.asked_by_id == by.pk or may_change(export.model, by)


def export_cancel(*, export: Export, by: User) -> Export:
    """End an export that waits or runs; it can be tried again. Raises UserError (wrong_state)."""
    export_check(export, by)

    if export.status != Status.MAKING:
        raise UserError("This export is not being made.", code="wrong_state")
    if not job_cancel(export_key(export.pk)):
        export_ended(export.pk, CANCELLED)

    export.refresh_from_db()
    return export


def export_ended(pk: int, reason: str, limit_seconds: float = 0) -> None:
    """Write down that an export ended before its time, for a reason of jobs.kinds."""
    making = Export.objects.filter(pk=pk, status=Status.MAKING)
    export = making.first()
    if export is None:
        return

    error = ENDINGS[reason].format(limit=duration_words(limit_seconds))
    if export.only_to_be_delivered:
        making.update(**delivery_failed(export, error))
        return

    making.update(status=Status.FAILED, error=error, phase="", progress=0)
    shutil.rmtree(export.folder, ignore_errors=True)


def _made_values(export: Export, error: str) -> dict[str, Any]:
    """Of an export whose delivery failed: what is for the hub alone has failed with it."""
    if export.format == Format.HUB:
        return {"status": Status.FAILED, "error": error, "phase": "", "progress": 0}

    return {"status": Status.READY, "phase": "", "progress": 1}


def delivery_failed(export: Export, error: str) -> dict[str, Any]:
    """The values of an export that could not be delivered."""
    values = {"delivery": Delivery.FAILED, "delivery_error": error}
    return values | _made_values(export, error)


def export_retry(*, export: Export, by: User) -> Export:
    """Begin a failed export again; one that is made and was not delivered is only delivered. Raises
    UserError (wrong_state)."""
    export_check(export, by)
    values: dict[str, Any] = {}
    if export.format == Format.HUB:
        # What is uploaded names the train, and goes in the name of whoever asks for it now.
        owner_check(export.model, by)
        values = {"delivery": Delivery.WANTED, "asked_by": by}

    _begin_again(
        Export.objects.filter(pk=export.pk, status=Status.FAILED),
        export,
        refusal="Only a failed export can be tried again.",
        **values,
    )

    return export


def export_compare(*, export: Export, by: User) -> Export:
    """Compare an export again, where that could not be done. Raises UserError (wrong_state)."""
    export_check(export, by)
    if export.status != Status.READY or export.proof.get("passed") is not None:
        raise UserError("Only what could not be compared is compared again.", code="wrong_state")

    _begin_again(
        Export.objects.filter(pk=export.pk, status=Status.READY),
        export,
        refusal="This export is not ready.",
        proof={},
    )

    return export


def export_deliver(
    *,
    export: Export,
    by: User,
    destination: str = "",
    replace: bool = False,
    anyway: bool = False,
) -> Export:
    """Create the model in Ollama under the name `destination`, or upload what is to go to the hub
    and did not get there: to `destination`, by default where it was to go.

    replace: a model of that name in Ollama; of the hub, a repository that is not empty. anyway:
    although it is not known to be the trained model. Raises UserError."""
    export_check(export, by)

    if export.status == Status.MAKING or not export.files:
        raise UserError("This export is not ready.", code="wrong_state")
    if export.proof_state != "passed" and not anyway:
        what = "differs from" if export.differs else "could not be compared with"
        raise UserError(
            f"This export {what} the trained model. See its page, then deliver it anyway or choose "
            "another one.",
            code="proof_failed",
        )

    if export.format == Format.OLLAMA:
        if not ollama_is_set_up():
            raise UserError(
                "No Ollama is configured. Ask your operator (DEEPEXTENSION_OLLAMA_URL), or "
                "download the folder.",
                code="wrong_state",
            )
        destination = _ollama_name(destination)
        _replacing_check(destination, by, replace)
    elif export.format == Format.HUB and export.delivery != Delivery.DONE:
        owner_check(export.model, by)
        destination = _repository(
            export.model, by, export.written_format, destination or export.destination
        )
    else:
        raise UserError("There is nowhere to deliver this export to.", code="wrong_state")

    _begin_again(
        Export.objects.filter(pk=export.pk).exclude(status=Status.MAKING),
        export,
        refusal="This export is not ready.",
        asked_by=by,
        delivery=Delivery.WANTED,
        destination=destination,
        options=export.options | {"anyway": anyway, "replace": replace, "begun": False},
    )

    return export


def _replacing_check(name: str, by: User, replace: bool) -> None:
    """Raises UserError where `by` may not replace the model of that name in Ollama, which all use:
    operators may, and those who have delivered it."""
    if not replace or is_operator(by):
        return

    delivered = Export.objects.filter(
        format=Format.OLLAMA, destination=name, delivery=Delivery.DONE
    ).select_related("model")
    if any(export_may_change(export, by) for export in delivered):
        return

    raise UserError(
        {"destination": [f"{name} in Ollama is not yours to replace. Choose another name."]}
    )


def _ollama_name(text: str) -> str:
    try:
        return ollama_name_clean(text)
    except UserError as error:
        raise UserError({"destination": error.fields["name"]}) from error


def _begin_again(waiting: Any, export: Export, *, refusal: str, **values: Any) -> None:
    """Have `waiting`, the row of `export` if it is in the right state, made once more."""
    with transaction.atomic():
        again = {
            "status": Status.MAKING,
            "error": "",
            "delivery_error": "",
            "phase": "",
            "progress": 0,
            "attempts": 0,
        }
        if not waiting.update(**again, **values):
            raise UserError(refusal, code="wrong_state")

        export.refresh_from_db()
        export_enqueue(export)


def export_delete(*, export: Export, by: User) -> None:
    """Remove an export with its files; what was delivered stays where it is. For those who asked
    for it, and those who may delete its model."""
    if export.asked_by_id != by.pk:
        deletion_check(export.model, by)

    pk = export.pk
    folder = export.folder

    export.delete()
    # One that runs notices that the row is gone, and clears up behind itself.
    job_drop(export_key(pk), also_running=False)
    shutil.rmtree(folder, ignore_errors=True)


def exports_delete(model: BaseModel, by: User) -> None:
    """Remove all exports of a model."""
    for export in Export.objects.filter(model=model):
        export_delete(export=export, by=by)


def exports_reconcile() -> None:
    """Put exports that wait onto the queue again, for a queue that forgot them; one that is there
    already is left as it is."""
    for export in Export.objects.filter(status=Status.MAKING).select_related("model"):
        export_enqueue(export)
