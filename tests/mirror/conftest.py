"""A home with a tiny base model and one that was trained from it, each with its files."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from engine.models.inspect import folder_digest
from models_app.models import BaseModel
from tests.tiny import tiny_model
from tests.world import token_make


@pytest.fixture(autouse=True)
def home(tmp_path, settings) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    settings.HOME = folder
    return folder


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """{base, adapter, merged}: a model, an adapter that changes it, and both in one."""
    folder = tmp_path_factory.mktemp("mirrored")
    base = tiny_model(folder / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(weight, 0.1)

    tuned.save_pretrained(folder / "adapter")
    merged = Path(shutil.copytree(base, folder / "merged"))
    tuned.merge_and_unload().save_pretrained(merged)
    return folder


@pytest.fixture
def base(files, alice) -> BaseModel:
    return _model(files / "base", owner=alice, name="Tiny", slug="tiny", source="gguf")


@pytest.fixture
def trained(files, base, alice) -> BaseModel:
    origin = {"train": 1, "step": 0, "method": "LoRA", "base_model": {"id": base.pk}}
    model = _model(
        files / "merged",
        owner=alice,
        name="Help desk",
        version="2",
        slug="help-desk-v2",
        source="train",
        parent=base,
        trained_from=origin,
        licence="apache-2.0",
    )
    shutil.copytree(files / "adapter", model.adapter_path)
    return model


def _model(folder: Path, **fields) -> BaseModel:
    model = BaseModel.objects.create(status="ready", reference="tiny.gguf", **fields)
    shutil.copytree(folder, model.path)
    (model.path / "passport.json").write_text(json.dumps({"train": {"name": "a secret"}}))
    BaseModel.objects.filter(pk=model.pk).update(sha256=folder_digest(model.path))
    model.refresh_from_db()
    return model


@pytest.fixture
def pull(client):
    """(address below /hub/, owner of the token, method and headers) -> the answer."""

    def ask(path, user=None, method="get", **headers):
        if user is not None:
            headers["Authorization"] = f"Bearer {token_make(user)}"

        return getattr(client, method)(f"/hub/{path}", headers=headers)

    return ask
