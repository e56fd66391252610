"""Rewards that compare texts put together of columns and of the answer."""

import time

import pytest
from pydantic import ValidationError

from engine.rewards.base import Answer, Unscored
from engine.rewards.graders import StringCheck, TextSimilarity
from engine.rewards.judge import LlmJudge
from engine.rewards.panel import Panel
from engine.rewards.parameters import RewardChoice
from engine.rewards.templates import columns_of, template_fill, template_problem

ROW = {"city": "Paris", "facts": {"year": 1889, "names": ["Eiffel"]}, "none": None}


def answer(text: str = "Paris") -> Answer:
    return Answer([], text, row=ROW)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain {city}", "plain {city}"),
        ("{{item.city}}!", "Paris!"),
        ("{{ item.city }}", "Paris"),
        ("{{item.facts.year}}", "1889"),
        ("{{item.facts.names[0]}}", "Eiffel"),
        ("{{item.facts}}", '{"year": 1889, "names": ["Eiffel"]}'),
        ("{{item.none}}", "null"),
        ("{{sample.output_text}} {{item.city}}", '{"a": [1, "x"]} Paris'),
        ("{{sample.output_json.a[1]}}", "x"),
    ],
)
def test_a_template_is_filled(template, text):
    assert template_fill(template, answer('{"a": [1, "x"]}')) == text


@pytest.mark.parametrize(
    "text", ["{{" + " " * 20_000, "{{ item.city" + " " * 20_000, "{{" * 10_000]
)
def test_a_template_is_scanned_in_a_moment(text):
    """Its scan holds the whole process."""
    began = time.process_time()
    assert template_problem(text) == ""
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 10_000])
def test_an_answer_that_cannot_be_read_is_not_scored(text):
    with pytest.raises(Unscored):
        template_fill("{{sample.output_json.a}}", answer(text))


def test_an_answer_fills_no_place_of_its_own():
    assert template_fill("{{sample.output_text}}", answer("{{item.city}}")) == "{{item.city}}"


@pytest.mark.parametrize(
    "template",
    ["{{item.town}}", "{{item.facts.names[3]}}", "{{item.city.x}}", "{{sample.output_json.a}}"],
)
def test_what_a_row_or_an_answer_lacks_is_not_scored(template):
    with pytest.raises(Unscored):
        template_fill(template, answer("no JSON"))


def test_the_columns_that_are_read_are_known():
    assert columns_of("{{item.a.b}} {{item.c[0]}} {{sample.output_text}} {{item}}") == {"a", "c"}
    choices = [
        RewardChoice(function="string_check", parameters={"reference": "{{item.city}}"}),
        RewardChoice(
            function="llm_judge", parameters={"instruction": "{answer} for {{item.year}}"}
        ),
        RewardChoice(function="rouge_l"),
    ]
    assert Panel(choices, []).columns == {"city", "year"}
    assert Panel([*choices, RewardChoice(function="custom:own")], []).columns is None


@pytest.mark.parametrize("kind", [StringCheck, TextSimilarity])
def test_a_place_that_is_nowhere_is_refused(kind):
    with pytest.raises(ValidationError, match="row"):
        kind(reference="{{row.city}}")


def test_long_texts_are_compared_in_time():
    text = "abcdefghij" * 10_000
    reward = TextSimilarity(reference="{{item.city}}")
    assert reward.score(Answer([], text, row={"city": text[::-1]})) < 0.9


def test_a_judge_is_asked_with_columns_of_the_row(monkeypatch):
    asked = []

    def post(self, body):
        asked.append(body["messages"][0]["content"])
        return '{"score": 5}'

    monkeypatch.setattr(LlmJudge, "_post", post)
    judge = LlmJudge(instruction="{{item.city}} {{x}} {answer} {{ item.facts.year }}")
    assert judge.score(Answer([], "{{item.city}} {question}", row=ROW)) == 0.5
    assert asked == ["Paris {{x}} {{item.city}} {question} 1889"]
