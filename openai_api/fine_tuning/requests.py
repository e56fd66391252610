"""A request for a fine-tuning job, checked."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import User

from core.api import by_id_or_slug
from core.text import clean_label
from datasets_app.models import Dataset
from models_app.models import BaseModel
from openai_api.errors import ApiProblem
from openai_api.files import file_of
from openai_api.fine_tuning.methods import MethodChoice, method_choice
from openai_api.identifiers import SUFFIX_LIMIT, suffix_clean, target_of
from serving.targets import Target
from training.models import TrainRun
from training.train.branching import SHAPE
from training.train.merging import merge_steps, models_of

MOST_PAIRS, LONGEST_KEY, LONGEST_VALUE = 16, 64, 512
LARGEST_SEED = 2**31 - 1
LONGEST_SLUG = 140


@dataclass(frozen=True)
class JobRequest:
    """branch: the checkpoint whose weights the train begins with, None for those of the model.
    digest: of all that was asked for."""

    model_name: str
    base_model: BaseModel
    branch: Target | None
    training_file: str
    dataset: Dataset
    validation_file: str
    evaluation_dataset: Dataset | None
    choice: MethodChoice
    suffix: str
    seed: int
    metadata: dict[str, str] | None
    digest: str


def job_request(body: dict[str, Any], user: User, *, device: str) -> JobRequest:
    """Raises ApiProblem with the field that is refused."""
    refused_check(body)
    choice = method_choice(body, device=device)
    model_name = text_of(body, "model", needed=True)
    base_model, branch = model_of(model_name, user)
    seed = seed_of(body)

    # The seed is a parameter of the train, too.
    choice.parameters.setdefault("seed", seed)
    if branch is not None:
        _shape_keep(choice, branch)

    training_file, dataset = _dataset_of(body, "training_file", user, needed=True)
    validation_file, evaluation_dataset = _dataset_of(body, "validation_file", user)
    assert dataset is not None

    return JobRequest(
        model_name=model_name,
        base_model=base_model,
        branch=branch,
        training_file=training_file,
        dataset=dataset,
        validation_file=validation_file,
        evaluation_dataset=evaluation_dataset,
        choice=choice,
        suffix=suffix_of(body),
        seed=seed,
        metadata=metadata_of(body),
        digest=digest_of(body),
    )


def _shape_keep(choice: MethodChoice, branch: Target) -> None:
    """The shapes of the weights that a train begins with, where the request leaves them open."""
    origin = TrainRun.objects.get(pk=branch.pk)
    if origin.method_id != choice.method.pk:
        return

    for name in SHAPE:
        # What a method fixes cannot be given.
        if name != "adapter" and name in origin.parameters:
            choice.parameters.setdefault(name, origin.parameters[name])


def digest_of(body: dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def refused_check(body: dict[str, Any]) -> None:
    """Raises ApiProblem for integrations, which would send what is trained elsewhere."""
    integrations = body.get("integrations")
    if not integrations:
        return

    items = integrations if isinstance(integrations, list) else [integrations]
    names = [str(item.get("type")) if isinstance(item, dict) else str(item) for item in items]
    named = ", ".join(name[:40] for name in names)
    text = f"There is no integration with {named} here. The events of the job have its metrics."
    raise ApiProblem(text, param="integrations")


def text_of(body: dict[str, Any], name: str, *, needed: bool = False) -> str:
    """Raises ApiProblem."""
    value = body.get(name)
    if value is None and not needed:
        return ""
    if not isinstance(value, str) or not value:
        raise ApiProblem(f"Give {name} as a text.", param=name)

    return value


def model_of(name: str, user: User) -> tuple[BaseModel, Target | None]:
    """(base model, the checkpoint to begin with) of the model that is to be trained. Raises
    ApiProblem."""
    target = target_of(name, user)
    if target.kind == "model":
        return BaseModel.objects.get(pk=target.pk), None
    if target.kind == "export":
        text = "An export cannot be trained. Train the model that it was made from."
        raise ApiProblem(text, param="model")

    run = TrainRun.objects.select_related("base_model").get(pk=target.pk)
    if target.step is None:
        merged = models_of(run, user).filter(status=BaseModel.Status.READY, archived_at=None)
        model = merged.first()
        if model is not None:
            return model, None

    step = target.step or next(iter(merge_steps(run)), None)
    if step is None:
        text = f"{name} has no whole checkpoint to begin with. Merge the train into a model first."
        raise ApiProblem(text, param="model")

    return run.base_model, Target("train", run.pk, step)


def _dataset_of(
    body: dict[str, Any], name: str, user: User, *, needed: bool = False
) -> tuple[str, Dataset | None]:
    """(what the request says, the dataset) of a file: its id, or the slug of a dataset that is here
    already. What is another person's is as if it were not there. Raises ApiProblem."""
    identity = text_of(body, name, needed=needed)
    if not identity:
        return "", None

    file = file_of(identity, user)
    if file is not None:
        if file.dataset is None:
            text = f"{identity} has the purpose {file.purpose}, and fine-tune is needed."
            raise ApiProblem(text, param=name, code="invalid_file_purpose")

        return identity, file.dataset

    offered = Dataset.objects.visible_to(user).filter(archived_at=None)
    is_slug = not identity.isdigit() and len(identity) <= LONGEST_SLUG
    dataset = by_id_or_slug(offered, identity) if is_slug else None
    if dataset is None:
        text = f"The file {identity[:100]!r} does not exist."
        raise ApiProblem(text, param=name, code="file_not_found")

    return identity, dataset


def suffix_of(body: dict[str, Any]) -> str:
    text = text_of(body, "suffix")
    if len(text) > SUFFIX_LIMIT:
        raise ApiProblem(f"At most {SUFFIX_LIMIT} characters.", param="suffix")

    return suffix_clean(clean_label(text, limit=SUFFIX_LIMIT))


def seed_of(body: dict[str, Any]) -> int:
    seed = body.get("seed")
    if seed is None:
        return secrets.randbelow(LARGEST_SEED)
    if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
        raise ApiProblem(f"Give a whole number from 0 to {LARGEST_SEED:,}.", param="seed")

    return seed


def metadata_of(body: dict[str, Any]) -> dict[str, str] | None:
    metadata = body.get("metadata")
    if metadata is None:
        return None

    if not isinstance(metadata, dict) or len(metadata) > MOST_PAIRS:
        raise ApiProblem(f"Give an object of at most {MOST_PAIRS} pairs.", param="metadata")

    for key, value in metadata.items():
        if len(key) > LONGEST_KEY or "\x00" in key:
            raise ApiProblem(f"Keys have at most {LONGEST_KEY} characters.", param="metadata")
        if not isinstance(value, str) or len(value) > LONGEST_VALUE or "\x00" in value:
            text = f"Values are texts of at most {LONGEST_VALUE} characters."
            raise ApiProblem(text, param="metadata")

    return metadata
