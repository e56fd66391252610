"""Calls of tools, in the form of each chat template."""

import json

import pytest

from engine.chat.template import ChatTemplate
from engine.chat.tool_turns import ToolTurns
from engine.serving.answers import Answer, Piece
from engine.serving.generation import End, Token
from engine.serving.sampling import Sampling
from engine.serving.tool_call_format import call_form_learn
from engine.serving.variants import Variant
from tests.engine.chat_templates import NAMES, TOOL, template_of, tokenizer_for, user
from tests.engine.serving.servers import CHAT, QUESTION, Server
from tests.engine.test_tool_turns import NINE_CHARACTERS

# One process makes the models.
pytestmark = pytest.mark.xdist_group("serving")

ARGUMENTS = {"place": "Oslo", "days": 3, "more": {"letters": ["a", '"}]']}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
# Templates that write arguments as JSON. The others have forms of their own, which no call is read
# from; the model is said to have no tools then.
IN_JSON = (
    "deepseekv3",
    "gptoss",
    "llama3_1",
    "llama3_2",
    "qwen2_5",
    "qwen3",
    "qwen3_instruct_2507",
    "qwen3_vl",
)


def written(template: ChatTemplate) -> str:
    """The call as the template writes it, from the end of the question's turn on."""
    turns = [user("How warm?"), {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    text = template.attempt(ToolTurns(template).adapt(turns), [TOOL]) or ""
    return text.rpartition("How warm?")[2]


@pytest.mark.parametrize("name", NAMES)
def test_calls_are_read_back_as_the_template_writes_them(name):
    template = ChatTemplate(tokenizer_for(template_of(name)))
    form = call_form_learn(template)
    assert (form is not None) == (name in IN_JSON)
    if form is None:
        return

    text = written(template)
    start = text.find(form.opening) if form.opening else text.find("{")
    before, (call,) = form.read(("Let me see. " if form.opening else "") + text[start:])
    assert before == ("Let me see." if form.opening else "")
    assert (call.name, json.loads(call.arguments)) == ("weather", ARGUMENTS)


def test_a_list_of_calls_is_read():
    form = call_form_learn(ChatTemplate(tokenizer_for(NINE_CHARACTERS)))
    assert form is not None
    listed = [{"name": name, "arguments": {"at": name}} for name in ("one", "two")]
    _, calls = form.read(form.opening + json.dumps(listed))
    assert [(call.name, call.arguments) for call in calls] == [
        ("one", '{"at": "one"}'),
        ("two", '{"at": "two"}'),
    ]


@pytest.mark.parametrize(
    "text", ["<tool_call>{", "<tool_call>[1]", '<tool_call>{"name": 1}', "<tool"]
)
def test_what_is_no_call_stays_text(text):
    form = call_form_learn(ChatTemplate(tokenizer_for(template_of("qwen2_5"))))
    assert form is not None
    assert form.read(f"Well {text}") == (f"Well {text}", [])


@pytest.mark.parametrize(
    ("name", "texts", "shown"),
    [
        (
            "qwen2_5",
            ["So: ", "<tool", '_call>{"name": "a", "argum', 'ents": {}}</tool_call>'],
            "So: ",
        ),
        ("qwen2_5", ["1 <too", "ls 2"], "1 <tools 2"),
        ("llama3_1", ['{"name": "a", ', '"parameters": {}}'], ""),
        ("llama3_1", ["A {", "} b"], "A {} b"),
        ("llama3_1", ["  {", "} b"], "  {} b"),
    ],
)
def test_a_stream_holds_back_what_may_be_a_call(name, texts, shown):
    tokenizer = tokenizer_for(template_of(name))
    variant = Variant.__new__(Variant)
    variant.tokenizer = tokenizer
    form = call_form_learn(ChatTemplate(tokenizer))
    answer = Answer(variant, [1], Sampling(), form)
    pieces = []
    for text in texts:
        for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
            pieces += answer.take(Token(token))
    pieces += answer.take(End(is_stop=True))

    given = [piece for piece in pieces if isinstance(piece, Piece)]
    assert "".join(piece.text for piece in given).rstrip() == shown.rstrip()
    calls = [call for piece in given for call in piece.calls]
    is_call = any("name" in text for text in texts)
    assert [call["function"]["name"] for call in calls] == (["a"] if is_call else [])
    assert answer.finish_reason == ("tool_calls" if is_call else "stop")


def test_tools_for_a_template_without_a_place_for_them_are_no_ability(server: Server):
    assert "tools" not in server.ready.abilities


def test_what_transformers_cannot_hold_is_refused(by_transformers: Server):
    assert not {"json_schema", "json_object", "tools"} & set(by_transformers.ready.abilities)
    for fields in (
        {"tools": [TOOL]},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
    ):
        status, error = by_transformers.refused(CHAT, {"messages": QUESTION} | fields)
        assert status == 400
        assert error["message"].endswith(".")


def test_llama_cpp_holds_answers_to_a_schema(llama_cpp: Server):
    assert {"json_schema", "json_object"} <= set(llama_cpp.ready.abilities)
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["blue", "red"]}, "count": {"type": "integer"}},
        "required": ["colour", "count"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    for seed in range(3):
        text = llama_cpp.text(response_format=form, max_tokens=200, seed=seed, temperature=1)
        found = json.loads(text)
        assert found["colour"] in ("blue", "red")
        assert isinstance(found["count"], int)
