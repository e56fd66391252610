"""Each reward function on answers whose worth is plain, and on whatever may come."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.rewards.answers import number_read
from engine.rewards.base import Answer, Unscored
from engine.rewards.parameters import RewardChoice
from engine.rewards.registry import REWARDS

NEEDED = {"contains": {"texts": "a"}, "reward_model": {"model": 1}}
TEXT_ONLY = [slug for slug in REWARDS if slug not in ("reward_model", "llm_judge")]


def worth(slug, text, reference="", **parameters):
    return REWARDS[slug](**parameters).score(
        Answer([{"role": "user", "content": "Q"}], text, reference)
    )


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She sold 48/2 = 24 clips.\n#### 72", "72"),
        ("so it is \\boxed{1,234.50}", "1234.5"),
        ("\\boxed{\\frac{3}{4}}", "0.75"),
        ("It costs $1,000 and then −5", "-5"),
        ("3/4", "0.75"),
        ("about 12.5%", "0.125"),
        ("10-3", "3"),
        ("it is -3", "-3"),
        ("1e3", "1000"),
        ("#### none\n#### 5 apples", "5"),
        (".5", "0.5"),
        ("the answer is 42.", "42"),
        ("1 / 0", None),
        ("none at all", None),
        ("#### 72 apples in 3 days", "72"),
        ("#### Step 2: add\nThe answer is 9.", "9"),
        ("10 - 3", "3"),
        ("- 72", "72"),
        ("1\u202f000", "1E+3"),
        ("1{,}234", "1234"),
        ("-$5", "-5"),
        ("", None),
    ],
)
def test_numbers_are_read_as_people_write_them(text, number):
    found = number_read(text)
    assert (None if found is None else str(found.value.normalize())) == (
        number if number != "1000" else "1E+3"
    )


@pytest.mark.parametrize(
    ("slug", "text", "reference", "parameters", "value"),
    [
        ("numeric_answer", "72", "#### 72", {}, 1),
        ("numeric_answer", "71", "#### 72", {}, 0),
        ("numeric_answer", "71", "#### 72", {"readable_score": 0.1}, 0.1),
        ("numeric_answer", "<answer>72</answer> not 5", "#### 72", {"answer_tag": "answer"}, 1),
        ("numeric_answer", "72", "#### 72", {"answer_tag": "answer"}, 0),
        ("numeric_answer", "50%", "#### 50", {}, 1),
        ("numeric_answer", "50%", "0.5", {}, 1),
        ("numeric_answer", "50%", "0.5%", {}, 0),
        ("numeric_answer", "3.14", "3.14159", {"tolerance": 0.01}, 1),
        ("exact_answer", "  PARIS. ", "Paris", {}, 1),
        ("exact_answer", "Paris", "paris", {"ignore_case": False}, 0),
        ("exact_answer", "the Seine", "Seine", {"ignore_articles": True}, 1),
        ("exact_answer", "", "!=", {}, 0),
        ("exact_answer", "!=", "!=", {}, 1),
        ("exact_answer", "巴黎。", "巴黎", {}, 1),
        ("tag_format", "<think>a</think>\n<answer>b</answer>", "", {}, 1),
        ("tag_format", "<answer>b</answer>", "", {}, 0.5),
        ("tag_format", "<answer>b</answer><think>a</think>", "", {"partial": False}, 0),
        ("tag_format", "Hm. <think>a</think><answer>b</answer>", "", {"strict": True}, 0),
        ("tag_format", "<think>a</think> <answer>b</answer>", "", {"strict": True}, 1),
        ("tag_format", "<think><think>a</think><answer>b</answer>", "", {}, 0.5),
        ("regex", "Dear Ann,", "", {"pattern": "^dear", "ignore_case": True}, 1),
        ("regex", "Dear Ann,", "", {"pattern": "Dear", "whole": True}, 0),
        ("json_valid", '```json\n{"a": 1}\n```', "", {}, 1),
        ("json_valid", '```json\n{"a": 1}\n```', "", {"fenced": False}, 0),
        (
            "json_valid",
            '{"a": "x"}',
            "",
            {"json_schema": '{"properties": {"a": {"type": "integer"}}}'},
            0.5,
        ),
        (
            "json_valid",
            '{"a": 1}',
            "",
            {"json_schema": '{"properties": {"a": {"type": "integer"}}}'},
            1,
        ),
        ("json_valid", "NaN", "", {}, 0),
        ("json_valid", "1e400", "", {"json_schema": '{"multipleOf": 0.1}'}, 0.5),
        ("json_valid", '"ab"', "", {"json_schema": '{"pattern": "^a"}'}, 1),
        ("json_valid", '"ba"', "", {"json_schema": '{"pattern": "^a"}'}, 0.5),
        (
            "json_valid",
            '{"next": {}}',
            "",
            {"json_schema": '{"properties": {"next": {"$ref": "#"}}}'},
            1,
        ),
        ("json_valid", "1", "", {"json_schema": "true"}, 1),
        (
            "json_valid",
            "1",
            "",
            {"json_schema": '{"$schema": "http://x/y", "type": "string"}'},
            0.5,
        ),
        ("contains", "red and Blue", "", {"texts": "red\nblue"}, 1),
        ("contains", "red", "", {"texts": "red\nblue"}, 0.5),
        ("contains", "red", "", {"texts": "red\nblue", "need": "any"}, 1),
        ("contains", "red, sorry", "", {"texts": "red", "forbidden": "sorry"}, 0),
        ("contains", "fine", "", {"forbidden": "sorry"}, 1),
        ("length_window", "one two", "", {"shortest": 4, "longest": 10}, 0.5),
        ("length_window", "one two three", "", {"shortest": 1, "longest": 2}, 0.5),
        ("length_window", "今天天气", "", {"shortest": 4, "longest": 4}, 1),
        ("length_window", "", "", {"shortest": 0, "longest": 4}, 1),
        ("no_repetition", "a b c a b c", "", {"words_in_a_row": 3}, 0.75),
        ("no_repetition", "", "", {}, 1),
        ("rouge_l", "今天天气很好", "今天天气很好", {}, 1),
        ("rouge_l", "cat sat", "the cat sat down", {}, 2 / 3),
        ("chrf", "the same", "the same", {}, 1),
        ("language", "123 !?", "", {}, 0),
    ],
)
def test_an_answer_is_worth(slug, text, reference, parameters, value):
    assert worth(slug, text, reference, **parameters) == pytest.approx(value, abs=1e-6)


def test_languages_are_told_apart():
    german = "Das ist ein schöner Tag, und wir gehen heute in den Wald spazieren."
    assert worth("language", german, language="de") > 0.9
    assert worth("language", german, language="en") < 0.1
    assert worth("language", "今天天气很好,我们去公园散步吧。", language="zh") > 0.9


@pytest.mark.parametrize("slug", [slug for slug in TEXT_ONLY if REWARDS[slug].needs_reference])
def test_a_row_without_reference_is_unscored_and_not_worth_nothing(slug):
    with pytest.raises(Unscored, match="no reference"):
        worth(slug, "5", "  ")


@pytest.mark.parametrize(
    ("slug", "text", "parameters"),
    [
        ("regex", "a" * 40 + "!", {"pattern": "^(a|a|aa)+$"}),
        ("json_valid", f'"{"a" * 40}!"', {"json_schema": '{"pattern": "^(a|a|aa)+$"}'}),
    ],
)
def test_a_pattern_that_backtracks_for_ever_is_given_up(slug, text, parameters):
    with pytest.raises(Unscored, match="too long"):
        worth(slug, text, **parameters)


def test_long_texts_are_compared_in_little_time():
    text = "今天天气很好我们去公园" * 2000
    assert worth("rouge_l", text, text) == 1


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"function": "numeric_answr"}, "Did you mean numeric_answer"),
        ({"function": "regex", "parameters": {"pattern": "("}}, "no regular expression"),
        ({"function": "regex", "parameters": {"patern": "a"}}, "no parameter 'patern'"),
        ({"function": "json_valid", "parameters": {"json_schema": "{"}}, "no JSON"),
        (
            {"function": "json_valid", "parameters": {"json_schema": '{"type": "text"}'}},
            "no JSON Schema",
        ),
        (
            {"function": "json_valid", "parameters": {"json_schema": '{"$ref": "http://x/y"}'}},
            "parts of itself",
        ),
        (
            {
                "function": "json_valid",
                "parameters": {"json_schema": '{"\\u0024ref": "http://x/y"}'},
            },
            "parts of itself",
        ),
        (
            {
                "function": "json_valid",
                "parameters": {"json_schema": '{"$dynamicRef": "http://x/y"}'},
            },
            "parts of itself",
        ),
        (
            {"function": "json_valid", "parameters": {"json_schema": '{"$ref": "#/gone"}'}},
            "no part '#/gone'",
        ),
        ({"function": "json_valid", "parameters": {"json_schema": '{"$ref": "#"}'}}, "without end"),
        (
            {
                "function": "json_valid",
                "parameters": {"json_schema": '{"patternProperties": {"a": {}}}'},
            },
            "name the prop",
        ),
        ({"function": "tag_format", "parameters": {"tags": "a b"}}, "no name of a tag"),
        ({"function": "tag_format", "parameters": {"tags": "a, a"}}, "once"),
        ({"function": "contains"}, "at least one"),
        ({"function": "length_window", "parameters": {"shortest": 5, "longest": 2}}, "more than"),
        ({"function": "reward_model"}, "Model is needed"),
        ({"function": "llm_judge", "parameters": {"instruction": "Rate."}}, "{answer}"),
        (
            {"function": "numeric_answer", "parameters": {"tolerance": -1}},
            "Tolerance must be greater",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(choice, words):
    with pytest.raises(ValidationError) as found:
        RewardChoice.model_validate(choice)
    assert words in found.value.errors()[0]["msg"]


def test_parameters_are_resolved_to_all_of_them():
    choice = RewardChoice.model_validate(
        {"function": "numeric_answer", "parameters": {"tolerance": 0.5}}
    )
    assert choice.parameters == {"answer_tag": "", "tolerance": 0.5, "readable_score": 0.0}


@pytest.mark.parametrize("slug", TEXT_ONLY)
@settings(deadline=None, max_examples=40)
@given(text=st.text(max_size=80), reference=st.text(max_size=40))
def test_whatever_is_said_has_a_worth_in_range_or_a_reason(slug, text, reference):
    reward = REWARDS[slug](**NEEDED.get(slug, {}))
    try:
        score = reward.score(Answer([{"role": "user", "content": "Q"}], text, reference))
    except Unscored:
        return
    assert reward.low <= score <= reward.high


def test_every_function_is_documented():
    for reward in REWARDS.values():
        assert reward.__doc__
        assert reward.title
        assert reward.help.endswith(".")
        assert all(field.title and field.description for field in reward.model_fields.values())
