"""The libraries by which people pull models, against a server: they need a name and a token alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from models_app.models import BaseModel
from tests.live import ROOT
from tests.world import token_make

# In a process of its own: the hub's address is read when the library is imported.
PULL = """
import json, sys
import torch
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model_id, adapter_id = "deepextension/help-desk-v2", "deepextension/help-desk-v2-adapter"
tokenizer = AutoTokenizer.from_pretrained(model_id)
ids = tokenizer("What colour is the sky?", return_tensors="pt")["input_ids"]

def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits

merged = logits(AutoModelForCausalLM.from_pretrained(model_id))
base = AutoModelForCausalLM.from_pretrained("deepextension/tiny")
plain = logits(base)
by_adapter = logits(PeftModel.from_pretrained(base, adapter_id))
by_itself = logits(AutoPeftModelForCausalLM.from_pretrained(adapter_id))

def refused(revision="main", repository=model_id, file="config.json"):
    try:
        hf_hub_download(repository, file, revision=revision)
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        return type(error).__name__

info = HfApi().model_info(model_id, files_metadata=True)
print(json.dumps({
    "differs": float((merged - plain).abs().max()),
    "adapter": float((merged - by_adapter).abs().max()),
    "by itself": float((merged - by_itself).abs().max()),
    "folder": snapshot_download(model_id),
    "pinned": snapshot_download(model_id, revision=info.sha),
    "sizes": {file.rfilename: file.size for file in info.siblings},
    "files": HfApi().list_repo_files(adapter_id),
    "refused": [refused("v9"), refused(repository="deepextension/hidden"), refused(file="x.bin")],
}))
"""


def environment(url: str, token: str, cache: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return kept | {"HF_ENDPOINT": f"{url}/hub", "HF_TOKEN": token, "HF_HOME": cache}


@pytest.fixture
def run(live_server, trained, alice, bob, tmp_path):
    """Runs a program that knows the mirror's address and Alice's token."""
    BaseModel.objects.create(name="x", slug="hidden", source="gguf", status="ready", owner=bob)
    env = environment(live_server.url, token_make(alice), str(tmp_path / "cache"))

    def start(*command):
        ran = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=300
        )
        assert ran.returncode == 0, ran.stderr[-4000:]
        return ran.stdout

    return start


@pytest.mark.long
def test_models_and_adapters_are_pulled_by_name(run, trained, tmp_path):
    found = json.loads(run(sys.executable, "-c", PULL).splitlines()[-1])
    assert found["differs"] > 0.01
    assert found["adapter"] < 1e-4
    assert found["by itself"] < 1e-4
    assert found["folder"] == found["pinned"]
    assert found["sizes"] == {
        path.name: path.stat().st_size
        for path in trained.path.iterdir()
        if path.name != "passport.json"
    }
    assert set(found["files"]) == {"adapter_config.json", "adapter_model.safetensors"}
    assert found["refused"] == [
        "RevisionNotFoundError",
        "RepositoryNotFoundError",
        "RemoteEntryNotFoundError",
    ]


def test_the_command_line_downloads_a_folder(run, trained, tmp_path):
    program = str(Path(sys.executable).with_name("hf"))
    out = tmp_path / "out"
    run(program, "download", "deepextension/help-desk-v2", "--local-dir", str(out))
    for name in ("config.json", "model.safetensors"):
        assert (out / name).read_bytes() == (trained.path / name).read_bytes()
