"""Formats: told by columns, and one judge of what a good row is."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.rows.examples import Example, RowProblem, to_example, with_system_prompt
from engine.rows.format_detection import detect_format, nearest_formats
from engine.rows.formats import FORMATS


def said(*pairs):
    return Example(messages=[{"role": role, "content": content} for role, content in pairs])


def problem(values, format, **column_map):
    with pytest.raises(RowProblem) as found:
        to_example(values, format, column_map)
    return found.value


@pytest.mark.parametrize(
    ("columns", "slug"),
    [
        (["messages"], "messages"),
        (["id", "conversations"], "conversations"),
        (["prompt", "chosen", "rejected"], "preference"),
        (["chosen", "rejected"], "preference"),
        (["prompt", "completion"], "prompt-completion"),
        (["input", "output"], "prompt-completion"),
        (["instruction", "input", "output"], "alpaca"),
        (["instruction", "output"], "alpaca"),
        (["instruction", "context", "response"], "alpaca"),
        (["instruction", "input", "response"], "alpaca"),
        (["question", "answer"], "question-answer"),
        (["Question", " ANSWER "], "question-answer"),
        (["query", "response"], "question-answer"),
        (["text"], "text"),
        (["text", "messages"], "messages"),
        (["foo", "bar"], ""),
        ([], ""),
    ],
)
def test_it_tells_the_format_by_columns(columns, slug):
    assert detect_format(columns, [])[0] == slug


def test_the_column_map_leads_from_the_format_to_the_file():
    columns = ["Instruction", "context", "response"]

    assert detect_format(columns, []) == (
        "alpaca",
        {"instruction": "Instruction", "input": "context", "output": "response"},
    )


def test_a_label_makes_ratings_only_where_it_says_yes_or_no():
    columns = ["prompt", "completion", "label"]
    row = {"prompt": "p", "completion": "c"}

    assert detect_format(columns, [row | {"label": True}, row | {"label": False}])[0] == "kto"
    assert detect_format(columns, [row | {"label": "weather"}])[0] == "prompt-completion"
    # Else the bad answers would be learned as good ones.
    assert detect_format(columns, [row | {"label": 1}, row | {"label": -1}])[0] == "kto"
    assert (
        detect_format(columns, [row | {"label": "desirable"}, row | {"label": "undesirable"}])[0]
        == "kto"
    )


def test_conversations_beside_a_pair_are_its_prompt_unless_they_hold_an_answer():
    columns = ["conversations", "chosen", "rejected"]
    asked = {"from": "human", "value": "Hi"}
    answered = {"from": "gpt", "value": "Ho"}

    assert (
        detect_format(columns, [{"conversations": [asked], "chosen": {}, "rejected": {}}])[0]
        == "preference"
    )
    assert (
        detect_format(
            columns, [{"conversations": [asked, answered], "chosen": {}, "rejected": {}}]
        )[0]
        == "conversations"
    )


@pytest.mark.parametrize(
    ("format", "values", "example"),
    [
        (
            "messages",
            {
                "messages": [
                    {"role": "system", "content": "S"},
                    {"role": "user", "content": "U"},
                    {"role": "assistant", "content": "A"},
                ]
            },
            said(("system", "S"), ("user", "U"), ("assistant", "A")),
        ),
        (
            "conversations",
            {
                "conversations": [{"from": "human", "value": "U"}, {"from": "gpt", "value": "A"}],
                "system": "S",
            },
            said(("system", "S"), ("user", "U"), ("assistant", "A")),
        ),
        # As a table exports it: the list as text.
        (
            "messages",
            {
                "messages": '[{"role": "user", "content": "U"}, {"role": "assistant", "content": '
                '"A"}]'
            },
            said(("user", "U"), ("assistant", "A")),
        ),
        # Content in parts, and a blank system turn that says nothing.
        (
            "messages",
            {
                "messages": [
                    {"role": "system", "content": " "},
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "U"}, {"type": "text", "text": "V"}],
                    },
                    {"role": "assistant", "content": "A"},
                ]
            },
            said(("user", "UV"), ("assistant", "A")),
        ),
        (
            "prompt-completion",
            {"prompt": "U", "completion": "A"},
            said(("user", "U"), ("assistant", "A")),
        ),
        (
            "prompt-completion",
            {
                "prompt": [{"role": "user", "content": "U"}],
                "completion": [{"role": "assistant", "content": "A"}],
            },
            said(("user", "U"), ("assistant", "A")),
        ),
        (
            "alpaca",
            {"instruction": "I", "input": "N", "output": "O"},
            said(("user", "I\n\nN"), ("assistant", "O")),
        ),
        (
            "alpaca",
            {"instruction": "I", "input": " ", "output": "O"},
            said(("user", "I"), ("assistant", "O")),
        ),
        ("alpaca", {"instruction": "I", "output": "O"}, said(("user", "I"), ("assistant", "O"))),
        (
            "question-answer",
            {"question": "2+2?", "answer": 4},
            said(("user", "2+2?"), ("assistant", "4")),
        ),
        (
            "question-answer",
            {"question": 0.5, "answer": "half"},
            said(("user", "0.5"), ("assistant", "half")),
        ),
        ("text", {"text": "  <b>as it is</b>\n"}, Example(text="  <b>as it is</b>\n")),
    ],
)
def test_every_format_becomes_messages_or_text(format, values, example):
    assert to_example(values, format, {}) == example


def test_it_reads_the_columns_that_the_map_names():
    column_map = {"question": "Frage", "answer": "Antwort"}

    assert to_example({"Frage": "U", "Antwort": "A"}, "question-answer", column_map) == said(
        ("user", "U"), ("assistant", "A")
    )


def turn(role, content):
    return {"role": role, "content": content}


CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"type": "function", "function": {"name": "warmth", "arguments": {"place": "Oslo"}}}
    ],
}


@pytest.mark.parametrize(
    ("called", "answered"),
    [
        (
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"function": {"name": "warmth", "arguments": '{"place": "Oslo"}'}}],
            },
            {"role": "tool", "content": {"celsius": 4}},
        ),
        (
            {
                "from": "function_call",
                "value": '{"name": "warmth", "arguments": {"place": "Oslo"}}',
            },
            {"from": "observation", "value": '{"celsius": 4}'},
        ),
    ],
)
def test_calls_of_tools_are_read_as_templates_take_them(called, answered):
    tools = [{"type": "function", "function": {"name": "warmth"}}]
    row = {
        "messages": [turn("user", "U"), called, answered, turn("assistant", "A")],
        "tools": json.dumps(tools),
    }
    example = to_example(row, "messages", {})
    assert example.messages == [
        turn("user", "U"),
        CALL,
        turn("tool", '{"celsius": 4}'),
        turn("assistant", "A"),
    ]
    assert example.tools == tools
    assert example.calls_tools


def test_conversations_with_a_rating_are_rated_answers_and_not_all_good_ones():
    talk = [turn("system", "S"), turn("user", "U"), turn("assistant", "A")]
    for name, rating in (("kto_tag", 0), ("label", False)):
        rows = [{"messages": talk, name: rating}]
        found, column_map = detect_format(list(rows[0]), rows)
        assert found == "kto"
        example = to_example(rows[0], found, column_map)
        assert (example.messages, example.label) == (talk, False)
    assert (
        detect_format(["messages", "label"], [{"messages": talk, "label": "weather"}])[0]
        == "messages"
    )


@pytest.mark.parametrize(
    ("turns", "field", "reason"),
    [
        ([], "messages", "Has no turns."),
        ("hello", "messages", "Is one text and not a list of turns."),
        ("[broken", "messages", "not valid JSON"),
        (["hello"], "messages[1]", "not a turn"),
        ([{"content": "x"}], "messages[1]", "Has no role"),
        ([turn("hacker", "x")], "messages[1].role", "Unknown role"),
        ([turn("tool", "x")], "messages", "none was called"),
        ([turn("user", "U"), turn("tool", "x")], "messages", "none was called"),
        (
            [turn("user", "U"), CALL, turn("assistant", "A")],
            "messages",
            "what it gave back is missing",
        ),
        (
            [turn("user", "U"), CALL, turn("tool", "x"), turn("user", "V")],
            "messages",
            "behind what a tool gave back",
        ),
        ([turn("user", "U"), CALL, turn("tool", "x")], "messages", "ends without an answer"),
        ([turn("user", "U"), turn("function_call", "{")], "messages[2].content", "not valid JSON"),
        (
            [turn("user", "U"), turn("function_call", '{"name": "f", "arguments": [1]}')],
            "messages[2].content.arguments",
            "no object",
        ),
        ([turn("user", None)], "messages[1].content", "Is null"),
        ([turn("user", "U"), turn("assistant", " \n")], "messages[2].content", "Is blank"),
        ([turn("user", True)], "messages[1].content", "Is true or false"),
        (
            [turn("user", float("nan"))],
            "messages[1].content",
            "Is not a number that can be written down",
        ),
        (
            [turn("user", [{"type": "image_url", "image_url": {}}])],
            "messages[1].content",
            "such as an image",
        ),
        (
            [turn("user", "U"), {"role": "assistant", "content": None, "tool_calls": [1]}],
            "messages[2].tool_calls",
            "no call of a tool",
        ),
        ([turn("user", "U")], "messages", "ends without an answer"),
        ([turn("assistant", "A")], "messages", "begins with the assistant"),
        (
            [turn("user", "U"), turn("user", "V"), turn("assistant", "A")],
            "messages",
            "Two user turns in a row",
        ),
        (
            [turn("user", "U"), turn("system", "S"), turn("assistant", "A")],
            "messages",
            "behind the first turn",
        ),
        ([turn("system", "S")], "messages", "no turns of user and assistant"),
    ],
)
def test_a_conversation_that_cannot_be_learned_from_says_where_and_why(turns, field, reason):
    found = problem({"messages": turns}, "messages")

    assert (found.field, reason in found.reason) == (field, True), found


@pytest.mark.parametrize("value", [None, "", "  \n", [], {}, True])
@pytest.mark.parametrize(
    ("format", "field"),
    [
        ("question-answer", "answer"),
        ("prompt-completion", "completion"),
        ("alpaca", "output"),
        ("text", "text"),
    ],
)
def test_null_blank_and_wrong_answers_are_named(format, field, value):
    row = {"question": "q", "prompt": "p", "instruction": "i", field: value}

    assert problem(row, format).field == field


def test_mixed_columns_are_named():
    found = problem({"question": "q", "reply": "r"}, "question-answer")

    assert (found.field, found.reason) == ("answer", "The column is missing in this row.")


def test_a_problem_shows_no_more_of_a_value_than_a_table_holds():
    assert len(problem({"messages": [turn("user", "x" * 9000)]}, "messages").value) == 300


def test_a_format_that_no_reader_knows_is_a_problem_of_the_row():
    assert "no such" in problem({}, "no such").reason


def test_a_system_prompt_stands_in_front_of_conversations_that_have_none():
    plain = [turn("user", "U"), turn("assistant", "A")]

    assert with_system_prompt(plain, "S") == [turn("system", "S"), *plain]
    assert with_system_prompt([turn("system", "own"), *plain], "S") == [
        turn("system", "own"),
        *plain,
    ]
    assert with_system_prompt(plain, "  ") == plain


def test_the_nearest_formats_are_close_by_name():
    assert nearest_formats(["questions", "answers"])[0].slug == "question-answer"
    assert nearest_formats(["texts"])[0].slug == "text"
    assert [item.slug for item in nearest_formats(["frage", "antwort"])] == [
        "question-answer",
        "messages",
    ]
    assert len(nearest_formats([])) == 2


def test_every_example_of_a_format_is_a_good_row_of_it():
    for item in FORMATS.values():
        decoder, rows, rest = json.JSONDecoder(), [], item.example
        while rest := rest.strip():
            row, end = decoder.raw_decode(rest)
            rows.append(row)
            rest = rest[end:]
        slug, column_map = detect_format(list(rows[0]), rows)
        assert slug == item.slug
        for row in rows:
            to_example(row, slug, column_map)


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
        st.binary(max_size=5),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["role", "from", "content", "value", "type", "text", "x"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)
COLUMNS = sorted(
    {column for item in FORMATS.values() for column in (*item.columns, *item.optional)} | {"x"}
)
ROWS = st.dictionaries(st.sampled_from(COLUMNS), JSON, max_size=6)


@settings(deadline=None)
@given(row=ROWS, format=st.sampled_from([*FORMATS, "", "no such"]))
def test_whatever_a_row_holds_it_is_an_example_or_a_problem(row, format):
    try:
        example = to_example(row, format, {})
    except RowProblem:
        return
    assert (example.messages is None) != (example.text is None)
    for message in example.messages or [{"role": "user", "content": example.text}]:
        assert message["role"] in ("system", "user", "assistant")
        assert message["content"].strip()


@settings(deadline=None)
@given(
    columns=st.lists(st.one_of(st.sampled_from(COLUMNS), st.text(max_size=8)), max_size=8),
    sample=st.lists(ROWS, max_size=3),
)
def test_whatever_columns_there_are_the_map_leads_to_them(columns, sample):
    slug, column_map = detect_format(columns, sample)

    assert slug == "" or set(FORMATS[slug].columns) <= set(column_map)
    assert set(column_map.values()) <= set(columns)
    assert nearest_formats(columns)


PAIR = {"prompt": "P", "chosen": "good", "rejected": "bad"}


@pytest.mark.parametrize(
    "values",
    [
        PAIR,
        {"question": "P", "accepted": "good", "rejected_response": "bad"},
        {
            "prompt": [turn("user", "P")],
            "chosen": [turn("assistant", "good")],
            "rejected": [turn("assistant", "bad")],
        },
        {
            "conversations": [{"from": "human", "value": "P"}],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        },
        {
            "chosen": [turn("user", "P"), turn("assistant", "good")],
            "rejected": [turn("user", "P"), turn("assistant", "bad")],
        },
        {
            "prompt": "P",
            "chosen": [turn("user", "P"), turn("assistant", "good")],
            "rejected": [turn("user", "P"), turn("assistant", "bad")],
        },
    ],
    ids=["text", "aliases", "turns", "sharegpt", "implicit prompt", "prompt repeated"],
)
def test_pairs_are_read_in_every_shape(values):
    slug, column_map = detect_format(list(values), [values])
    example = to_example(values, slug, column_map)

    assert slug == "preference"
    assert example.messages == [turn("user", "P")]
    assert (example.chosen, example.rejected) == (
        [turn("assistant", "good")],
        [turn("assistant", "bad")],
    )
    assert (example.asked, example.answer) == ([turn("user", "P")], "good")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rejected": "good"}, "rejected"),
        ({"prompt": None}, "prompt"),
        ({"chosen": " ", "rejected": ""}, "chosen"),
        ({"prompt": [turn("user", "P"), turn("assistant", "A")]}, "prompt"),
        ({"chosen": {"role": "user", "content": "x"}}, "chosen"),
        ({"chosen": [[["x"]]]}, "chosen[1]"),
    ],
    ids=["equal", "no prompt", "blank", "prompt ends with an answer", "not an answer", "nonsense"],
)
def test_pairs_that_cannot_be_learned_from(change, field):
    assert problem(PAIR | change, "preference").field == field


@pytest.mark.parametrize(
    ("label", "good"),
    [
        *((label, True) for label in (True, 1, 1.0, "Yes", "Chosen", "desirable", "liked")),
        *((label, False) for label in (False, 0, -1, "bad", "rejected", "undesirable", "disliked")),
    ],
)
def test_ratings_say_good_or_bad(label, good):
    example = to_example({"prompt": "P", "completion": "A", "label": label}, "kto", {})

    assert example.label is good
    assert example.messages == [turn("user", "P"), turn("assistant", "A")]


@pytest.mark.parametrize("label", ["maybe", 2, None, "", [True], 0.5])
def test_other_ratings_are_problems(label):
    assert problem({"prompt": "P", "completion": "A", "label": label}, "kto").field == "label"


def test_prompts_alone_are_the_weakest_of_formats():
    assert detect_format(["prompt"], [{"prompt": "P"}]) == ("prompt-only", {"prompt": "prompt"})
    assert detect_format(["prompt", "response"], [])[0] == "prompt-completion"
    assert to_example({"prompt": "P", "system": "S"}, "prompt-only", {}).asked == [
        turn("system", "S"),
        turn("user", "P"),
    ]
    assert problem({"prompt": [turn("assistant", "A")]}, "prompt-only").field == "prompt"
