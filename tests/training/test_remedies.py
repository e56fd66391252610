"""A failed train's card: lines that prove the cause, and a form with the remedy filled in."""

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from engine.contract.rundir import LOG
from methods.models import TrainingMethod
from methods.services import method_defaults, methods_install
from training.train.remedies import evidence, remedies


@pytest.fixture
def failed(make_train, db):
    """A train of LoRA that failed for that reason, with that log."""
    methods_install()
    method = TrainingMethod.objects.get(slug="lora")

    def failed(code: str, log: str = "", **parameters):
        given = (
            method_defaults(method)
            | {"batch_size": 8, "gradient_accumulation_steps": 2}
            | parameters
        )
        run = make_train(
            method=method, status="failed", error_code=code, error="It broke.", parameters=given
        )
        run.directory.mkdir(parents=True, exist_ok=True)
        (run.directory / LOG).write_text(log)
        return run

    return failed


@pytest.mark.parametrize(
    ("code", "parameters", "changes"),
    [
        ("out_of_memory", {}, {"batch_size": 4, "gradient_accumulation_steps": 4}),
        ("out_of_memory", {"batch_size": 1}, {"gradient_checkpointing": True}),
        # Checkpoints of these have answers in batches of that size.
        ("out_of_memory", {"num_generations": 4}, {"gradient_checkpointing": True}),
        ("out_of_memory", {"ppo_epochs": 4}, {"gradient_checkpointing": True}),
        (
            "out_of_memory",
            {"batch_size": 3, "gradient_checkpointing": True, "max_tokens": 512},
            {"max_tokens": 256},
        ),
        ("diverged", {"learning_rate": 2e-4}, {"learning_rate": 2e-5}),
        ("disk_full", {}, {"save_strategy": "end", "save_total_limit": 1}),
        ("batch_too_large", {}, {"batch_size": 1, "gradient_accumulation_steps": 1}),
        ("no_gpu", {"quantization": "4-bit"}, {"quantization": "none"}),
        ("no_such_modules", {"target_modules": ["nope"]}, {"target_modules": "all-linear"}),
        ("bad_option", {"more": {"adam_beta1": 2}}, {"more": {}}),
        ("time_limit", {"time_limit_minutes": 30}, {"time_limit_minutes": 60}),
    ],
)
def test_the_gentlest_remedy_comes_first(failed, code, parameters, changes):
    assert remedies(failed(code, **parameters))[0].changes == changes


@pytest.mark.parametrize(
    ("code", "parameters"),
    [("unknown", {}), ("killed", {}), ("data_gone", {}), ("bad_option", {"more": {}})],
)
def test_where_only_a_person_can_tell_nothing_is_offered(failed, code, parameters):
    assert remedies(failed(code, **parameters)) == []


def test_what_the_method_fixes_is_no_remedy(failed):
    run = failed("diverged")
    run.method.overrides = {"learning_rate": {"fixed": True, "default": 1e-4}}
    run.method.save()
    assert remedies(run) == []


def test_copy_with_this_fix_opens_the_form_with_it(failed, client, alice):
    client.force_login(alice)
    run = failed(
        "out_of_memory",
        "loading\nRuntimeError: can't allocate memory: 9 bytes\n\nFailed: The machine ran out\n",
    )
    page = client.get(run.get_absolute_url()).content.decode()
    assert "can&#x27;t allocate memory" in page
    assert "Batch size 4, gradient accumulation 4" in page

    address = remedies(run)[0].address(run)
    assert json.loads(parse_qs(urlsplit(address).query)["with"][0]) == remedies(run)[0].changes
    draft = client.get(address).context["draft"]
    assert (draft.parameters["batch_size"], draft.parameters["gradient_accumulation_steps"]) == (
        4,
        4,
    )
    assert draft.parameters["lora_rank"] == run.parameters["lora_rank"]
    assert draft.origin == run


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"nonsense": 1}', "[" * 100_000, '{"batch_size": "<b>"}']
)
def test_a_made_up_fix_breaks_nothing(failed, client, alice, text):
    client.force_login(alice)
    run = failed("out_of_memory")
    address = remedies(run)[0].address(run).partition("?")[0]
    answer = client.get(address, {"copy": run.pk, "with": text})
    assert answer.status_code == 200
    assert b"<b>" not in answer.content


def test_the_log_proves_the_cause_and_progress_bars_do_not(failed):
    log = (
        "step 1\nLoading: 1%\rLoading: 99%\rloaded\nMemoryError\nafterwards\n\nFailed: out of "
        "memory\nLower it\n"
    )
    assert evidence(failed("out_of_memory", log)) == ["MemoryError"]
    assert evidence(failed("unknown", log)) == ["step 1", "loaded", "MemoryError", "afterwards"]
    assert evidence(failed("data_gone")) == []
