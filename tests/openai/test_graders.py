"""Graders of OpenAI's API as rewards."""

from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from engine.rewards.base import Answer, Unscored
from engine.rewards.judge import MODEL, URL
from methods.models import RewardFunction
from methods.rewards import reward_function_save
from openai_api.errors import ApiProblem
from openai_api.fine_tuning.graders import grading_of, weighted_sum
from tests.live import ROOT

CHECK = {
    "type": "string_check",
    "name": "right",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference}}",
}
SIMILAR = CHECK | {"type": "text_similarity", "evaluation_metric": "fuzzy_match"}
SCORED = {
    "type": "score_model",
    "name": "judge",
    "model": "gpt-4o",
    "input": [
        {"role": "system", "content": "Be strict."},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "Say of {{ sample.output_text }}"}],
        },
    ],
    "range": [1, 5],
}


def multi(formula: str, **graders: Any) -> dict[str, Any]:
    return {"type": "multi", "name": "both", "graders": graders, "calculate_output": formula}


@pytest.mark.parametrize(
    ("grader", "sample", "score"),
    [
        (CHECK, "Paris", 1),
        (CHECK, "paris", 0),
        (CHECK | {"operation": "ne"}, "Rome", 1),
        (CHECK | {"operation": "like"}, "It is Paris.", 1),
        (CHECK | {"operation": "like"}, "It is paris.", 0),
        (CHECK | {"operation": "ilike"}, "It is paris.", 1),
        (CHECK | {"reference": "{{item.facts.names[1]}}"}, "Lutetia", 1),
        (CHECK | {"input": "{{sample.output_json.city}}"}, '{"city": "Paris"}', 1),
        (SIMILAR, "Paris", 1),
        (SIMILAR, "Parks", 0.8),
        (SIMILAR | {"evaluation_metric": "bleu"}, "Paris", 1),
        (SIMILAR | {"evaluation_metric": "rouge_1"}, "Paris is it", 0.5),
        (SIMILAR | {"evaluation_metric": "rouge_l"}, "Rome", 0),
        (multi("(right + like) / 2", right=CHECK, like=SIMILAR), "Parks", 0.4),
        (multi("1 - 0.5 * right", right=CHECK), "Paris", 0.5),
    ],
)
def test_a_grader_says_what_openais_says(openai: OpenAI, grader, sample, score):
    item = {"reference": "Paris", "facts": {"names": ["Parisii", "Lutetia"]}}
    assert openai.fine_tuning.alpha.graders.validate(grader=grader).grader
    result = openai.fine_tuning.alpha.graders.run(grader=grader, model_sample=sample, item=item)
    assert result.reward == pytest.approx(score)
    assert result.metadata.name == grader["name"]
    assert not result.metadata.errors.other_error


@pytest.mark.parametrize(
    ("grader", "param"),
    [
        (None, "grader"),
        ({"type": "magic", "name": "x"}, "grader.type"),
        (CHECK | {"operation": "is"}, "grader"),
        (CHECK | {"reference": "{{row.x}}"}, "grader"),
        ({key: CHECK[key] for key in CHECK if key != "input"}, "grader.input"),
        (SIMILAR | {"evaluation_metric": "cosine"}, "grader.evaluation_metric"),
        (SIMILAR | {"evaluation_metric": "meteor"}, "grader.evaluation_metric"),
        (multi("right * right", right=CHECK), "grader.calculate_output"),
        (multi("max(right, 1)", right=CHECK), "grader.calculate_output"),
        (multi("1 / right", right=CHECK), "grader.calculate_output"),
        (multi("right / 0", right=CHECK), "grader.calculate_output"),
        (multi("right + 1e999", right=CHECK), "grader.calculate_output"),
        (multi("right * 1e999", right=CHECK), "grader.calculate_output"),
        (multi("right + 0 * 1e999", right=CHECK), "grader.calculate_output"),
        (multi(f"right + 1{'0' * 400}", right=CHECK), "grader.calculate_output"),
        (multi("(" * 1500 + "right" + ")" * 400, right=CHECK), "grader.calculate_output"),
        (multi("left", right=CHECK), "grader.calculate_output"),
        (multi("1000 * right", right=CHECK), "grader.calculate_output"),
        (multi("__import__('os')", right=CHECK), "grader.calculate_output"),
        (multi("right", right=multi("a", a=CHECK)), "grader.graders.right"),
        (multi("right", right=CHECK | {"operation": "is"}), "grader.graders.right"),
        ({"type": "python", "name": "p", "source": "def grade(sample, item): return 1"}, "grader"),
        (SCORED, "grader"),
    ],
)
def test_what_cannot_be_a_reward_is_refused_by_field(openai: OpenAI, grader, param, monkeypatch):
    monkeypatch.delenv(URL, raising=False)
    with pytest.raises(BadRequestError) as refused:
        openai.fine_tuning.alpha.graders.validate(grader=grader)
    assert refused.value.param == param


def test_a_score_of_a_model_is_the_operators_judge(db, monkeypatch):
    monkeypatch.setenv(URL, "http://127.0.0.1:9/v1")
    monkeypatch.setenv(MODEL, "judge")
    (term,) = grading_of(SCORED).terms
    assert (term.choice.function, term.choice.weight) == ("llm_judge", 4)
    instruction = term.choice.parameters["instruction"]
    assert instruction.startswith("Be strict.\n\nSay of {answer}")

    halved = grading_of(multi("0.5 * judge", judge=SCORED))
    assert (halved.terms[0].choice.weight, halved.constant) == (2, 0.5)
    endless = {"input": [{"role": "user", "content": "{{" + " " * 20_000}]}
    huge = {"range": [10**400, 10**400 + 1]}
    for wrong in ({"range": [5, 1]}, {"range": [1]}, {"input": []}, endless, huge):
        with pytest.raises(ApiProblem):
            grading_of(SCORED | wrong)
    with pytest.raises(ApiProblem, match="output_text"):
        grading_of(SCORED | {"input": [{"role": "user", "content": "Rate it."}]})


def test_code_is_run_only_where_a_superuser_has_registered_it(olga):
    source = (ROOT / "docs" / "examples" / "polite.py").read_bytes()
    reward_function_save(RewardFunction(), by=olga, name="Polite", slug="polite", source=source)
    grader = {"type": "python", "name": "p", "source": source.decode()}
    (term,) = grading_of(grader).terms
    assert term.choice.function == "custom:polite"
    with pytest.raises(ApiProblem, match="superuser"):
        grading_of(grader | {"source": source.decode() + "\n"})


@pytest.mark.parametrize(
    ("formula", "weights", "constant"),
    [
        ("a", {"a": 1}, 0),
        ("0.7*a + 0.3*b", {"a": 0.7, "b": 0.3}, 0),
        ("-(a - 2) * 0.5", {"a": -0.5}, 1),
        ("(a + b + a) / 4", {"a": 0.5, "b": 0.25}, 0),
        ("2 * 3", {}, 6),
    ],
)
def test_a_weighted_sum_is_read(formula, weights, constant):
    assert weighted_sum(formula, {"a", "b"}, "p") == (pytest.approx(weights), constant)


def test_a_row_without_the_column_is_not_scored(db):
    (term,) = grading_of(CHECK).terms
    with pytest.raises(Unscored, match=r"item\.reference"):
        term.choice.reward().score(Answer([], "Paris", row={}))
