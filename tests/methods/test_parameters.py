"""What parameters_validate takes, and what it says about the rest."""

import math

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import UserError
from engine.schema.registry import RECIPES, more_options
from methods.models import TrainingMethod
from methods.services import (
    method_defaults,
    method_schema,
    parameters_validate,
    parameters_warnings,
)


def refusals(method: TrainingMethod, device: str = "cpu", **parameters) -> dict[str, str]:
    with pytest.raises(UserError) as caught:
        parameters_validate(method, parameters, device=device)
    assert caught.value.code == "invalid"
    assert caught.value.status == 400
    return {name: " ".join(texts) for name, texts in caught.value.fields.items()}


def test_nothing_given_is_the_defaults(lora):
    assert parameters_validate(lora, {}) == method_defaults(lora)


def test_defaults_differ_by_method_and_device(lora, sft):
    assert (method_defaults(lora)["adapter"], method_defaults(lora)["learning_rate"]) == (
        "lora",
        2e-4,
    )
    assert (method_defaults(sft)["adapter"], method_defaults(sft)["learning_rate"]) == (
        "none",
        2e-5,
    )
    assert method_defaults(lora, device="cpu")["gradient_accumulation_steps"] == 1
    assert method_defaults(lora, device="cuda")["gradient_accumulation_steps"] == 8


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("learning_rate", 0, "above 0 and at most 1; 0 is not"),
        ("learning_rate", -1, "above 0"),
        ("learning_rate", "abc", "must be a number"),
        ("learning_rate", "1e400", "finite"),
        ("learning_rate", float("1e400"), "finite"),
        ("learning_rate", math.nan, "finite"),
        ("learning_rate", 10**400, "must be a number"),
        ("learning_rate", 1.5, "at most 1"),
        ("learning_rate", True, "must be a number"),
        ("learning_rate", None, "must be a number"),
        ("learning_rate", [2e-4], "must be a number"),
        ("learning_rate", {}, "must be a number"),
        ("epochs", 0, "above 0"),
        ("epochs", -3, "above 0"),
        ("epochs", 1001, "at most 1,000"),
        ("max_steps", 0, "at least 1"),
        ("max_steps", -1, "at least 1"),
        ("batch_size", 0, "at least 1"),
        ("batch_size", "2.5", "whole number"),
        ("batch_size", 2.5, "whole number"),
        ("batch_size", True, "whole number"),
        ("batch_size", 10**20, "at most 4,096"),
        ("batch_size", "", "must be a whole number"),
        ("lora_rank", 0, "at least 1"),
        ("lora_rank", 513, "at most 512"),
        ("lora_dropout", 0.6, "at most 0.5"),
        ("max_tokens", 15, "at least 16"),
        ("seed", -1, "at least 0"),
        ("seed", 2**32, "at most"),
        ("evaluation_split", 0.51, "at most 50%"),
        ("scheduler", "sine", "must be one of linear, cosine"),
        ("scheduler", 3, "must be one of"),
        ("packing", "perhaps", "true or false"),
        ("target_modules", 3, "all-linear, or a list"),
        ("target_modules", [1, 2], "all-linear, or a list"),
        ("more", [], "object of option names"),
        ("more", "optim=sgd", "object of option names"),
    ],
)
def test_it_names_the_field_and_what_would_do(lora, name, value, words):
    texts = refusals(lora, **{name: value})
    assert set(texts) == {name}
    assert words in texts[name]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("learning_rat", "learning_rate"), ("lr", ""), ("LoraRank", ""), ("batchsize", "batch_size")],
)
def test_an_unknown_name_is_refused_with_what_was_meant(lora, name, hint):
    text = refusals(lora, **{name: 1})[name]
    assert text.startswith(f"Unknown parameter '{name}'.")
    assert (f"Did you mean {hint}?" in text) == bool(hint)


def test_all_mistakes_are_told_at_once(lora):
    assert set(refusals(lora, learning_rate=0, batch_size="x", nonsense=1)) == {
        "learning_rate",
        "batch_size",
        "nonsense",
    }


def test_epochs_and_max_steps_exclude_each_other(lora):
    assert "not both" in refusals(lora, epochs=3, max_steps=10)["max_steps"]
    assert "epochs or max steps" in refusals(lora, epochs=None)["epochs"]
    resolved = parameters_validate(lora, {"max_steps": 10})
    assert (resolved["max_steps"], resolved["epochs"]) == (10, None)


def test_what_a_method_fixes_cannot_be_changed(lora, sft):
    assert "is fixed to lora" in refusals(lora, adapter="none")["adapter"]
    assert parameters_validate(sft, {"adapter": "none"})["adapter"] == "none"


def test_a_cpu_refuses_what_needs_a_gpu(lora, sft):
    assert "needs a GPU" in refusals(lora, quantization="4-bit")["quantization"]
    assert "needs a GPU" in refusals(lora, precision="fp16")["precision"]
    assert (
        parameters_validate(lora, {"quantization": "4-bit"}, device="cuda")["quantization"]
        == "4-bit"
    )
    assert "cannot train quantised" in refusals(sft, "cuda", quantization="8-bit")["quantization"]


def test_numbers_may_come_as_text(lora):
    resolved = parameters_validate(
        lora, {"learning_rate": " 1e-4 ", "batch_size": "4", "epochs": "2.5"}
    )
    assert (resolved["learning_rate"], resolved["batch_size"], resolved["epochs"]) == (1e-4, 4, 2.5)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"outputdir": "/etc"}, "outputdir: there is no such option"),
        ({"output_dir": "/etc"}, "output_dir"),
        ({"push_to_hub": True}, "push_to_hub"),
        ({"hub_token": "x"}, "hub_token"),
        ({"trust_remote_code": True}, "trust_remote_code"),
        ({"deepspeed": "/etc/passwd"}, "deepspeed"),
        ({"resume_from_checkpoint": "/x"}, "resume_from_checkpoint"),
        ({"report_to": "wandb"}, "report_to"),
        ({"adam_beta3": 0.9}, "Did you mean adam_beta"),
        ({"per_device_train_batch_size": 4}, "this is the parameter batch_size"),
        ({"adam_beta1": "0.9"}, "adam_beta1: needs a number"),
        ({"adam_beta1": 2}, "adam_beta1: must lie between"),
        ({"optim": "evil"}, "optim: needs one of"),
        ({"torch_compile": 1}, "torch_compile: needs true or false"),
        ({"warmup_steps": math.inf}, "warmup_steps: needs"),
    ],
)
def test_other_options_are_checked_one_by_one(lora, more, words):
    assert words in refusals(lora, more=more)["more"]


def test_other_options_are_kept(lora):
    assert parameters_validate(lora, {"more": {"optim": "sgd", "adam_beta1": 0.8}})["more"] == {
        "optim": "sgd",
        "adam_beta1": 0.8,
    }


def test_the_schema_is_a_json_schema_and_its_defaults_fit(lora, sft):
    for method in (lora, sft):
        for device in ("cpu", "cuda"):
            schema = method_schema(method, device=device)
            jsonschema.Draft202012Validator.check_schema(schema)
            jsonschema.validate(method_defaults(method, device=device), schema)
            assert schema["additionalProperties"] is False


def test_the_schema_holds_the_other_options(lora):
    schema = method_schema(lora)
    assert set(schema["properties"]["more"]["properties"]) == set(more_options("sft"))
    defaults = {name: option["default"] for name, option in more_options("sft").items()}
    jsonschema.validate({"more": defaults}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"more": {"output_dir": "/etc"}}, schema)


def test_numbers_outside_the_typical_range_are_warned_about(lora):
    resolved = parameters_validate(lora, {"learning_rate": 0.5, "epochs": 200})
    assert set(parameters_warnings(lora, resolved)) == {"learning_rate", "epochs"}
    assert parameters_warnings(lora, parameters_validate(lora, {})) == {}


def test_fields_without_effect_are_not_warned_about(sft):
    assert "lora_rank" not in parameters_warnings(sft, parameters_validate(sft, {"lora_rank": 400}))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)
NAMES = st.sampled_from(sorted(RECIPES["sft"].parameters.model_fields)) | st.text(max_size=20)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(parameters=st.dictionaries(NAMES, VALUES, max_size=4))
def test_whatever_is_given_is_resolved_or_refused(lora, parameters):
    try:
        resolved = parameters_validate(lora, parameters)
    except UserError:
        return
    assert set(resolved) == set(method_defaults(lora))
    assert (
        parameters_validate(
            lora, {name: value for name, value in resolved.items() if value is not None}
        )
        == resolved
    )
