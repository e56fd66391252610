"""Trains that cannot go well: each says why, in words a person can act on, and leaves nothing
half-done."""

import errno
import json
import shutil

import pytest
import torch
from transformers import AutoTokenizer

import engine.chat.template
import engine.recipes.sft as recipe
from engine.contract.rundir import EXIT_DISK_FULL
from engine.messages.failures import explain
from engine.run.main import run as engine_run
from tests.engine.runs import Run, prepare, toy_rows, train
from tests.tiny import tiny_model, tiny_tokenizer


@pytest.fixture
def copy(tiny, tmp_path):
    """A model folder that a test may spoil."""
    return shutil.copytree(tiny, tmp_path / "model")


def failed(run):
    assert run.code == 1
    assert [event["type"] for event in run.events].count("failed") == 1
    assert run.last["type"] == "failed"
    assert run.last["message"]
    assert run.last["advice"]
    assert not (run.directory / "model").exists()
    assert not (run.directory / "model.tmp").exists()
    return run.last["code"]


def test_a_dataset_that_changed(tiny, tmp_path):
    directory = prepare(tmp_path / "run", tiny)
    (directory / "data.jsonl").write_text("")
    run = Run(engine_run(directory), directory)
    assert failed(run) == "data_changed"
    assert "changed" in run.last["message"]


def test_a_dataset_that_is_gone(tiny, tmp_path):
    directory = prepare(tmp_path / "run", tiny)
    (directory / "data.jsonl").unlink()
    assert failed(Run(engine_run(directory), directory)) == "data_gone"


def test_a_base_model_that_is_gone(tmp_path):
    assert failed(train(tmp_path / "run", tmp_path / "nowhere")) == "model_gone"


def test_rows_that_all_lose_their_answer(tiny, tmp_path):
    run = train(
        tmp_path / "run",
        tiny,
        [
            {
                "messages": [
                    {"role": "user", "content": "long " * 50},
                    {"role": "assistant", "content": "Yes."},
                ]
            }
        ]
        * 4,
        max_tokens=16,
    )
    assert failed(run) == "no_rows"
    assert "4 rows would keep nothing of the answer" in run.last["message"]


def test_rows_whose_answer_is_lost_are_left_out_and_counted(tiny, tmp_path):
    lost = {
        "messages": [
            {"role": "user", "content": "long " * 50},
            {"role": "assistant", "content": "Yes."},
        ]
    }
    run = train(tmp_path / "run", tiny, [*toy_rows(8), lost, lost], max_tokens=40, max_steps=1)
    assert run.code == 0
    assert (run.of("started")[0]["train_rows"], run.of("started")[0]["left_out_rows"]) == (8, 2)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("config.json", "custom_pipelines", {"own": {"impl": "evil.py"}}),
        ("config.json", "_attn_implementation_internal", "evil/kernel"),
        ("tokenizer_config.json", "auto_map", {"AutoTokenizer": ["evil.T", None]}),
        ("config.json", "trust_remote_code", True),
    ],
)
def test_a_model_that_asks_for_code_of_its_own(copy, tmp_path, file, key, value):
    path = copy / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert failed(train(tmp_path / "run", copy)) == "bad_model"


def test_a_model_with_pickle_weights_only(copy, tmp_path):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    run = train(tmp_path / "run", copy)
    assert failed(run) == "bad_model"
    assert "pickle" in run.last["message"]


def test_a_model_whose_weights_lack_a_layer(copy, tmp_path):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    run = train(tmp_path / "run", copy)
    assert failed(run) == "bad_model"
    assert "layers.2" in run.last["message"]


def test_a_tokenizer_with_tokens_that_the_model_has_no_weights_for(copy, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(copy)
    run = train(tmp_path / "run", copy)
    assert failed(run) == "bad_model"
    # Not "of another model": it is the model's own, and was changed.
    assert "added to its tokenizer: [PAD]" in run.last["advice"]


def test_a_tokenizer_that_was_cut(copy, tmp_path):
    path = copy / "tokenizer.json"
    path.write_text(path.read_text()[:2000])
    run = train(tmp_path / "run", copy)
    assert failed(run) == "bad_model"
    assert "tokenizer cannot be read" in run.last["message"]


def test_a_template_that_loops_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(engine.chat.template, "RENDER_SECONDS", 0.3)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    assert (
        failed(train(tmp_path / "run", tiny_model(tmp_path / "model", chat_template=loop)))
        == "template_loops"
    )


def test_target_modules_that_the_model_does_not_have(tiny, tmp_path):
    run = train(tmp_path / "run", tiny, target_modules=["wings"])
    assert failed(run) == "no_such_modules"
    assert "wings" in run.last["message"]


@pytest.mark.parametrize(
    "given",
    [
        {"learning_rate": 0},
        {"lora_rank": 0},
        {"epochs": 0, "max_steps": None},
        {"colour": 1},
        {"more": {"output_dir": "/tmp/elsewhere"}},
        {"more": {"optim": "mine"}},
    ],
)
def test_parameters_out_of_bounds_or_unknown(tiny, tmp_path, given):
    run = train(tmp_path / "run", tiny, **given)
    assert failed(run) == "bad_parameters"
    assert next(iter(given)) in run.last["message"]


def test_a_spec_of_another_version(tiny, tmp_path):
    directory = prepare(tmp_path / "run", tiny)
    (directory / "spec.json").write_text('{"version": 99}')
    assert failed(Run(engine_run(directory), directory)) == "bad_spec"


def test_a_recipe_that_does_not_exist(tiny, tmp_path):
    assert failed(train(tmp_path / "run", tiny, recipe="alchemy")) == "bad_spec"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_eight_bit_loading_without_a_gpu(tiny, tmp_path):
    run = train(tmp_path / "run", tiny, quantization="8-bit")
    assert failed(run) == "no_gpu"


def test_a_loss_that_is_no_number_is_recorded_and_ends_the_train(tiny, tmp_path):
    run = _broken(tiny, tmp_path)
    assert failed(run) == "diverged"
    assert list(run.losses().values())[-3:] == [None, None, None]
    assert [event["code"] for event in run.of("warning")] == ["loss_not_finite"]
    assert "loss" in run.of("metrics")[-1]["nonfinite"]


def _broken(tiny, tmp_path):
    """A base model with a weight that is no number: every loss is NaN."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny, tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return train(tmp_path / "run", folder, max_steps=10)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "out_of_memory"),
        (
            RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
            ),
            "out_of_memory",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (RuntimeError("could not create a primitive"), "out_of_memory"),
        (
            RuntimeError(
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
            ),
            "out_of_memory",
        ),
        (RuntimeError("PytorchStreamWriter failed: unexpected pos 64 vs 0"), "disk_full"),
        (PermissionError(errno.EACCES, "denied", "/data"), "no_permission"),
        (FileNotFoundError(errno.ENOENT, "none", "/data"), "file_gone"),
        (RuntimeError("CUDA error: device-side assert triggered"), "gpu_error"),
        (ZeroDivisionError("division by zero"), "unknown"),
    ],
)
def test_errors_of_the_libraries_get_a_cause(error, code):
    failure = explain(error)
    assert failure.code == code
    assert failure.message
    assert failure.advice


def test_a_full_disk_while_saving_leaves_no_half_model(tiny, tmp_path, monkeypatch):
    def fill(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("engine.publish.model.model_publish", fill)
    run = train(tmp_path / "run", tiny, max_steps=1)
    assert failed(run) == "disk_full"


def test_an_unknown_error_is_named_and_its_traceback_is_in_the_log(
    tiny, tmp_path, monkeypatch, capfd
):
    def surprise(*arguments, **options):
        raise ZeroDivisionError("never seen before")

    monkeypatch.setattr(recipe, "prepare", surprise)
    run = train(tmp_path / "run", tiny)
    assert failed(run) == "unknown"
    assert "ZeroDivisionError: never seen before" in run.last["message"]
    assert "Traceback" in capfd.readouterr().err


def test_a_tokenizer_without_an_end_token(copy, tmp_path):
    tokenizer = tiny_tokenizer(tmp_path / "plain")
    tokenizer.eos_token = None
    tokenizer.save_pretrained(copy)
    assert failed(train(tmp_path / "run", copy)) == "no_end_token"


class SafetensorError(Exception):
    """Named as that of safetensors, whose errors have no cause to look at."""


def chained(outer: Exception, inner: Exception) -> Exception:
    try:
        try:
            raise inner
        except Exception as error:
            raise outer from error
    except Exception as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError(
            'Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: "No space '
            'left" })'
        ),
        RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos 64 vs 0"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        chained(
            RuntimeError("could not save the checkpoint"),
            OSError(errno.ENOSPC, "No space left on device"),
        ),
        chained(
            FileNotFoundError(errno.ENOENT, "gone", "model.tmp"),
            OSError(errno.ENOSPC, "No space left on device"),
        ),
        chained(
            PermissionError(errno.EACCES, "no", "x"), OSError(errno.EDQUOT, "Disk quota exceeded")
        ),
    ],
)
def test_a_full_disk_is_known_in_every_wrapping(error):
    assert explain(error).code == "disk_full"


def test_a_disk_without_room_for_the_last_event_is_told_by_the_exit_code(
    tiny, tmp_path, monkeypatch
):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    directory = prepare(tmp_path / "run", tiny)
    monkeypatch.setattr("engine.contract.rundir.EventWriter.write", full)
    monkeypatch.setattr("builtins.print", full)
    assert engine_run(directory) == EXIT_DISK_FULL
