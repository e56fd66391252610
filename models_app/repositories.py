"""Models as repositories of files, by the names under which programs pull them from the mirror:
`deepextension/<slug>` for the model, `deepextension/<slug>-adapter` for its adapter, and more that
other apps provide. A base model that came from a hub has its name there as well."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from core.ownership import may_change
from engine.contract.rundir import file_sha256
from engine.models.inspect import ModelProblem, hashes_digest
from models_app.adapters import ADAPTER_CONFIG, adapter_base
from models_app.models import ADAPTER_WEIGHTS, BaseModel
from models_app.passport import passport_stored
from models_app.repository_names import suffix_reserve
from models_app.services import may_read

NAMESPACE = "deepextension"
ADAPTER_SUFFIX = "-adapter"
# The card of a trained model names its train, base model, system prompt and parameters, which are
# its owner's.
CARD = "README.md"
# Characters of a commit, as hubs have them.
COMMIT_CHARACTERS = 40

logger = logging.getLogger("deepextension.models")


@dataclass(frozen=True)
class RepositoryFile:
    """A file on the disk (`path`), or one that is made for the asking (`content`)."""

    size_bytes: int
    sha256: str
    path: Path | None = None
    content: bytes = b""


@dataclass(frozen=True)
class Repository:
    """`identity`: namespace and name. `commit`: changes with any file. `revisions`: other names of
    that state. `card`: what model hubs call card data: licence, base_model."""

    identity: str
    files: dict[str, RepositoryFile]
    commit: str
    created_at: datetime
    is_private: bool
    card: dict[str, Any]
    revisions: tuple[str, ...] = ("main",)

    def has_revision(self, revision: str) -> bool:
        return revision == self.commit or revision in self.revisions


# Makes the repository of a model that `reader` may see, None where the model has none of that kind.
Provider = Callable[[BaseModel, Any], Repository | None]

_providers: dict[str, Provider] = {}


def repositories_provide(suffix: str, provider: Provider) -> None:
    """Have `deepextension/<slug><suffix>` answered by `provider`. For an app to call once, when it
    is ready."""
    _providers[suffix] = provider
    suffix_reserve(suffix)


def repository_find(namespace: str, name: str, revision: str, reader: Any) -> Repository | None:
    """The repository of that name that `reader` may see, None where there is none, or its files are
    gone or damaged."""
    try:
        return _repository(namespace, name, revision, reader)
    except (OSError, ValueError):
        return None


def _repository(namespace: str, name: str, revision: str, reader: Any) -> Repository | None:
    models = BaseModel.objects.visible_to(reader).filter(status=BaseModel.Status.READY)
    models = models.select_related("parent")

    if namespace != NAMESPACE:
        model = _of_hub(models, f"{namespace}/{name}", revision)
        return (
            _model_repository(model, f"{namespace}/{name}", reader) if model is not None else None
        )

    if model := models.filter(slug=name).first():
        return _model_repository(model, f"{NAMESPACE}/{name}", reader)

    for suffix, provider in _providers.items():
        model = models.filter(slug=name.removesuffix(suffix)).first()
        if name.endswith(suffix) and model is not None:
            return provider(model, reader)

    return None


def _of_hub(models: Any, identity: str, revision: str) -> BaseModel | None:
    """A base model that was downloaded under that name: the one of that commit, or else the
    newest."""
    rows = models.filter(source=BaseModel.Source.HUB, reference__startswith=identity)
    named = [row for row in rows.order_by("-pk") if row.reference.partition("@")[0] == identity]
    same = [row for row in named if row.revision == revision]
    return next(iter(same or named), None)


def _model_repository(model: BaseModel, identity: str, reader: Any) -> Repository | None:
    if not model.path.is_dir():
        return None

    hidden = {CARD} if model.is_trained and not may_change(model, reader) else set()
    try:
        listed = passport_stored(model)["files"]
    except (OSError, ValueError, ModelProblem) as problem:
        logger.warning("the files of model %s cannot be listed: %s", model.pk, problem)
        return None

    files = {
        name: RepositoryFile(facts["bytes"], facts["sha256"], path=model.path / name)
        for name, facts in listed.items()
        if name not in hidden
    }
    revisions = ("main", model.revision) if model.revision else ("main",)
    return Repository(
        identity=identity,
        files=files,
        commit=model.sha256[:COMMIT_CHARACTERS],
        created_at=model.created_at,
        is_private=not model.shared,
        card={"library_name": "transformers"} | _licence(model),
        revisions=revisions,
    )


def adapter_repository(model: BaseModel, reader: Any) -> Repository | None:
    """The adapter alone, its config naming a base model that programs can load. None for readers
    who may not see that: the adapter would be of no use to them."""
    base = adapter_base(model)
    if not model.has_adapter or base is None or not may_read(base, reader):
        return None

    weights = model.adapter_path / ADAPTER_WEIGHTS
    facts = weights.stat()
    config = adapter_config(model, base)
    files = {
        ADAPTER_CONFIG: RepositoryFile(
            len(config), hashlib.sha256(config).hexdigest(), content=config
        ),
        ADAPTER_WEIGHTS: RepositoryFile(
            facts.st_size, _hash(weights, facts.st_size, facts.st_mtime_ns), path=weights
        ),
    }
    return Repository(
        identity=f"{NAMESPACE}/{model.slug}{ADAPTER_SUFFIX}",
        files=files,
        commit=files_commit(files),
        created_at=model.created_at,
        is_private=not model.shared,
        card={"library_name": "peft", "base_model": base_identity(base)} | _licence(model),
    )


def adapter_config(model: BaseModel, base: BaseModel) -> bytes:
    """adapter_config.json with its base model's name in the mirror or on the hub, in place of what
    it was called here."""
    config = json.loads((model.adapter_path / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_identity(base)
    config["revision"] = base.revision or None
    return json.dumps(config, indent=2, ensure_ascii=False).encode()


def base_identity(base: BaseModel) -> str:
    """The name by which programs find it: on the hub where it is from there, else in the mirror."""
    if base.source == BaseModel.Source.HUB:
        return base.reference.partition("@")[0]

    return f"{NAMESPACE}/{base.slug}"


def files_commit(files: dict[str, RepositoryFile]) -> str:
    """A commit of files that have none: the same files have the same."""
    hashes = {name: file.sha256 for name, file in files.items()}
    return hashes_digest(hashes)[:COMMIT_CHARACTERS]


@lru_cache(maxsize=512)
def _hash(path: Path, size_bytes: int, modified_ns: int) -> str:
    """The sha256 of a file, as long as it does not change."""
    return file_sha256(path)


def _licence(model: BaseModel) -> dict[str, str]:
    return {"license": model.licence} if model.licence else {}


repositories_provide(ADAPTER_SUFFIX, adapter_repository)
