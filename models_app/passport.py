"""Where a model is from, for programs: `passport.json` beside its weights, and what the platform
adds to it for whoever asks.

Of a trained model the merge writes it (engine.merging.passport); here it gets the hashes of the
finished files and the proof."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from django.http import Http404, JsonResponse

from core.errors import UserError
from core.ownership import may_change
from engine.models.inspect import folder_hashes, hashes_digest
from models_app.adapters import adapter_base
from models_app.models import BaseModel
from models_app.services import may_read, parent_of

PASSPORT = "passport.json"
PASSPORT_VERSION = 2
Json = dict[str, Any]


def passport_complete(model: BaseModel, folder: Path) -> str:
    """Write the passport of the finished files in `folder`. Returns the sha256 over all files."""
    hashes = folder_hashes(folder)
    passport: Json = {"version": PASSPORT_VERSION} | _read(folder)
    passport["files"] = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256}
        for name, sha256 in hashes.items()
    }

    if model.is_trained:
        passport["proof"] = model.proof
    else:
        passport["source"] = _source(model)

    _write(folder, passport)
    return hashes_digest(hashes)


def _write(folder: Path, passport: Json) -> None:
    """Whole or not at all, also where two write at once."""
    text = json.dumps(passport, indent=2, ensure_ascii=False)
    with NamedTemporaryFile(
        "w", dir=folder, suffix=".tmp", encoding="utf-8", delete=False
    ) as unfinished:
        try:
            unfinished.write(f"{text}\n")
            unfinished.close()
            Path(unfinished.name).replace(folder / PASSPORT)
        except BaseException:
            Path(unfinished.name).unlink(missing_ok=True)
            raise


def _read(folder: Path) -> Json:
    path = folder / PASSPORT
    passport = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not isinstance(passport, dict):
        raise ValueError(f"{PASSPORT} holds no object.")

    return passport


def _source(model: BaseModel) -> Json:
    """Where a model was added from: of a local folder the name alone, never this machine's path."""
    reference = model.reference
    if model.source == BaseModel.Source.FOLDER:
        reference = Path(reference).name

    return {
        "kind": model.source,
        "reference": reference,
        "revision": model.revision or None,
        "licence": model.licence or None,
    }


def passport_stored(model: BaseModel) -> Json:
    """The passport of a ready model as it lies on the disk. A model that was made before there were
    passports gets one now, for which all its files are read once. Raises OSError or ModelProblem
    where its files are gone, and ValueError where the passport is damaged."""
    passport = _read(model.path)
    if "files" not in passport:
        passport_complete(model, model.path)
        passport = _read(model.path)

    return passport


def passport_of(model: BaseModel, reader: Any) -> Json:
    """The passport with what the database knows, as far as `reader` may know it: the train, the
    base model and the data of a shared model may be somebody's own."""
    stored = passport_stored(model)
    parent = parent_of(model, reader)
    knows_all = may_change(model, reader)

    passport: Json = {"model": _names(model), "licences": {"model": model.licence or None}}
    if parent is not None:
        passport["licences"]["base_model"] = parent.licence or None

    datasets = model.trained_from.get("datasets", {})
    if knows_all:
        return passport | {"datasets": datasets} | stored if datasets else passport | stored

    if "train" in stored:
        train = stored["train"]
        stored["train"] = {name: train[name] for name in ("method", "recipe") if name in train}
        # Hashes name nothing. Parameters may: prompts of a judge, reward models, functions.
        for name in ("parameters", "system_prompt", "command"):
            stored.pop(name, None)
        if "code" in stored:
            stored["code"].pop("resources", None)
        if parent is None:
            # The model whose adapter was carried on.
            stored.pop("carried_on", None)

        base = adapter_base(model)
        if base is None or not may_read(base, reader):
            stored.pop("base_model", None)

    return passport | stored


def _names(model: BaseModel) -> Json:
    return {
        "id": model.pk,
        "slug": model.slug,
        "name": model.name,
        "version": model.version or None,
        "architecture": model.architecture,
        "parameter_count": model.parameter_count,
        "dtype": model.dtype,
        "sha256": model.sha256,
        "tokenizer_sha256": model.tokenizer_sha256,
        "created_at": model.created_at.isoformat(),
    }


def passport_ready(model: BaseModel, reader: Any) -> Json:
    """The same, for those who ask by address. Raises UserError where there is none."""
    if model.status != BaseModel.Status.READY:
        raise UserError("This model is not ready.", code="wrong_state")

    try:
        return passport_of(model, reader)
    except (OSError, ValueError) as error:
        message = "The files of this model are gone or damaged."
        raise UserError(message, code="wrong_state") from error


def passport_download(model: BaseModel, reader: Any) -> JsonResponse:
    """Raises Http404 where there is none."""
    try:
        passport = passport_ready(model, reader)
    except UserError as error:
        raise Http404(error.message) from error

    response = JsonResponse(passport, json_dumps_params={"indent": 2, "ensure_ascii": False})
    response["Content-Disposition"] = f'attachment; filename="{model.slug}-passport.json"'
    return response
