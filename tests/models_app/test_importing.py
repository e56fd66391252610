"""Imports for real: files copied, programs run, rows written."""

import fcntl
import json
import os
from pathlib import Path

import pytest

from core.errors import UserError
from core.programs import ProgramKilled
from engine.programs.convert import Refused, folder_try
from models_app import importing
from models_app.folder_list import folders_offered
from models_app.importing import MOST_ATTEMPTS, ProgressWriter, model_import
from models_app.models import BaseModel
from models_app.services import model_add_folder, model_delete, model_retry
from tests.engine.runs import train
from tests.packed import eight_bits_make, four_bits_make

LOOP = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99) %}"
    + 3 * "{% endfor %}"
)


def imported(model: BaseModel) -> BaseModel:
    model_import(model.pk)
    model.refresh_from_db()
    return model


def test_a_folder_becomes_a_base_model(alice, tiny_folder, home):
    model = imported(model_add_folder(owner=alice, reference=str(tiny_folder), name="Tiny"))
    assert (model.status, model.error, model.progress, model.phase) == ("ready", "", 1, "")
    assert model.path == home / "models" / str(model.pk)
    assert (model.architecture, model.context_length, model.dtype) == (
        "LlamaForCausalLM",
        512,
        "fp32",
    )
    assert model.linear_modules[0] == "down_proj"
    assert len(model.sha256) == len(model.tokenizer_sha256) == 64
    assert model.template_example.startswith("<|im_start|>user\nWhat is the capital of France?")
    assert not model.import_path.exists()
    assert (model.path / "model.safetensors").read_bytes() == (
        tiny_folder / "model.safetensors"
    ).read_bytes()


@pytest.fixture
def quick(monkeypatch):
    """For tests of the row's life: the folder is not tried with transformers."""
    monkeypatch.setattr(importing, "program_run", lambda *arguments, **options: {"example": ""})


def test_what_is_no_part_of_the_model_is_left_behind(alice, tiny_folder, quick):
    (tiny_folder / "pytorch_model.bin").write_bytes(b"pickle")
    (tiny_folder / "modeling_evil.py").write_text("raise SystemExit")
    model = imported(model_add_folder(owner=alice, reference=str(tiny_folder)))
    assert model.status == "ready"
    assert not {"pytorch_model.bin", "modeling_evil.py"} & {
        path.name for path in model.path.iterdir()
    }


def test_a_folder_that_goes_bad_after_it_was_added_fails_with_the_reason(alice, tiny_folder):
    model = model_add_folder(owner=alice, reference=str(tiny_folder))
    config = json.loads((tiny_folder / "config.json").read_text())
    (tiny_folder / "config.json").write_text(json.dumps(config | {"trust_remote_code": True}))
    imported(model)
    assert model.status == "failed"
    assert "trust_remote_code" in model.error
    assert not model.path.exists()


def test_code_that_is_not_needed_is_left_behind_and_never_run(alice, tiny_folder, tmp_path):
    """As Phi-3 and DeepSeek are published: transformers has a class of its own for what their code
    did once."""
    ran = tmp_path / "ran"
    for name in ("configuration_own", "modeling_own"):
        (tiny_folder / f"{name}.py").write_text(f"open({str(ran)!r}, 'w')\nclass Own: pass\n")
    hooks = {"AutoConfig": "configuration_own.Own", "AutoModelForCausalLM": "modeling_own.Own"}
    config = json.loads((tiny_folder / "config.json").read_text())
    (tiny_folder / "config.json").write_text(
        json.dumps(config | {"auto_map": hooks, "text": [{"auto_map": hooks, "kept": 1}]})
    )
    folder_try(tiny_folder)
    model = imported(model_add_folder(owner=alice, reference=str(tiny_folder)))
    assert (model.status, model.error) == ("ready", "")
    assert not ran.exists()
    assert not list(model.path.glob("*.py"))
    copied = json.loads((model.path / "config.json").read_text())
    assert copied == config | {"text": [{"kept": 1}]}


@pytest.mark.parametrize("make", [eight_bits_make, four_bits_make])
def test_weights_of_a_few_bits_become_a_model_that_can_be_trained(alice, inbox, tmp_path, make):
    folder = make(inbox / "packed")
    assert folders_offered()[0].obstacle == ""
    model = imported(model_add_folder(owner=alice, reference=str(folder)))
    assert (model.status, model.error) == ("ready", "")
    assert "quantization_config" not in json.loads((model.path / "config.json").read_text())
    assert not model.import_path.exists()
    run = train(tmp_path / "run", model.path, max_steps=1)
    assert run.code == 0, run.last


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("chat_template.jinja", "{{ cycler.__init__.__globals__ }}", "chat template cannot render"),
        ("chat_template.jinja", "{{ raise_exception('only with tools') }}", "only with tools"),
        ("chat_template.jinja", "{% for", "chat template cannot render"),
        ("tokenizer.json", "{}", "cannot load the tokenizer"),
        ("config.json", '{"model_type": "evil"}', r"cannot read config\.json"),
        ("config.json", '{"model_type": "vit"}', "no language model"),
        ("config.json", '{"model_type": "t5"}', "no language model"),
        ("tokenizer_config.json", '{"tokenizer_class": "HomemadeTokenizer"}', "HomemadeTokenizer"),
    ],
)
def test_what_transformers_cannot_use_is_refused_with_the_reason(tiny_folder, file, text, reason):
    (tiny_folder / file).write_text(text)
    with pytest.raises(Refused, match=reason):
        folder_try(tiny_folder)


def test_a_template_that_wants_all_memory_fails_with_the_reason(alice, tiny_folder):
    (tiny_folder / "chat_template.jinja").write_text("{{ 'x' * 10**11 }}")
    model = imported(model_add_folder(owner=alice, reference=str(tiny_folder)))
    assert model.status == "failed"
    assert "too much memory" in model.error
    assert not model.path.exists()


@pytest.mark.long
@pytest.mark.usefixtures("fresh_programs")
def test_a_template_that_loops_for_ever_is_ended_and_sees_no_secret(
    alice, tiny_folder, monkeypatch, settings
):
    """With a look into the environment of the program that the template holds."""
    monkeypatch.setattr("models_app.importing.TRY_SECONDS", 8)
    monkeypatch.setenv("SECRET_KEY", "key-of-the-platform-0123456789abcdef")
    monkeypatch.setenv("HF_TOKEN", "hf_token_of_the_platform")
    settings.HF_TOKEN = "hf_token_of_the_platform"
    seen, look = [], ProgressWriter.again

    def watch(beat):
        seen.extend(
            (child / "environ").read_bytes() + (child / "cmdline").read_bytes()
            for child in children()
        )
        look(beat)

    monkeypatch.setattr(ProgressWriter, "again", watch)
    (tiny_folder / "chat_template.jinja").write_text(LOOP)
    model = imported(model_add_folder(owner=alice, reference=str(tiny_folder)))
    assert model.status == "failed"
    assert "never finishes" in model.error
    assert any(b"engine.programs.convert" in text for text in seen)
    assert not any(b"key-of-the-platform" in text or b"hf_token_of" in text for text in seen)
    assert not any(
        b"engine.programs.convert" in (child / "cmdline").read_bytes() for child in children()
    )


def children():
    """/proc folders of this process's children."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                yield folder
        except OSError:
            continue


def test_a_failed_import_can_be_tried_again(alice, tiny_folder, quick):
    model = model_add_folder(owner=alice, reference=str(tiny_folder))
    (tiny_folder / "tokenizer.json").rename(tiny_folder / "away.json")
    assert imported(model).status == "failed"
    (tiny_folder / "away.json").rename(tiny_folder / "tokenizer.json")
    model_retry(model=model, by=alice)
    assert model.status == "importing"
    assert imported(model).status == "ready"
    with pytest.raises(UserError, match="Only a failed import"):
        model_retry(model=model, by=alice)


def test_an_import_that_kills_its_worker_is_not_begun_for_ever(alice, tiny_folder, monkeypatch):
    model = model_add_folder(owner=alice, reference=str(tiny_folder))

    def die(model):
        raise SystemExit

    monkeypatch.setattr("models_app.importing._fetch", die)
    for _ in range(MOST_ATTEMPTS):
        with pytest.raises(SystemExit):
            model_import(model.pk)
    assert imported(model).status == "failed"
    assert "cut off several times" in model.error


@pytest.mark.parametrize(("kills", "passed"), [(1, True), (2, None)])
def test_a_proof_that_is_killed_is_made_once_more(make_model, monkeypatch, kills, passed):
    origin = {"train": 1, "step": 0, "base_model": {"id": 0}}
    model = make_model(source="train", status="importing", trained_from=origin)
    killed = iter(range(kills))

    def program(*arguments, **more):
        if next(killed, None) is not None:
            raise ProgramKilled("Reading the files was killed.")
        return {"passed": True, "checks": []}

    monkeypatch.setattr(importing, "program_run", program)
    importing._prove(model)
    model.refresh_from_db()
    assert model.proof["passed"] is passed
    assert ("was killed" in model.proof.get("error", "")) == (kills == 2)


def test_two_workers_do_not_import_one_model(alice, tiny_folder, quick):
    model = model_add_folder(owner=alice, reference=str(tiny_folder))
    model.import_path.mkdir(parents=True)
    with (model.import_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert imported(model).status == "importing"
    assert imported(model).status == "ready"


def test_a_model_deleted_meanwhile_leaves_nothing(alice, tiny_folder, monkeypatch):
    model = model_add_folder(owner=alice, reference=str(tiny_folder))
    path, import_path, fetch = model.path, model.import_path, importing._fetch

    def fetch_then_delete(row):
        fetch(row)
        model_delete(model=BaseModel.objects.get(pk=row.pk), by=alice)

    monkeypatch.setattr(importing, "_fetch", fetch_then_delete)
    model_import(model.pk)
    assert not BaseModel.objects.exists()
    assert not path.exists()
    assert not import_path.exists()


def test_a_full_disk_is_said(alice, tiny_folder, settings):
    model = model_add_folder(owner=alice, reference=str(tiny_folder))
    settings.DISK_RESERVE_BYTES = 10**18
    imported(model)
    assert model.status == "failed"
    assert "Not enough disk space" in model.error
