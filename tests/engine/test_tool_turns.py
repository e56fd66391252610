"""Calls of tools and thinking, in the form that each template takes; and what templates do to them,
said."""

import re

import pytest

from engine.chat.render import Renderer
from engine.chat.template import TemplateProblem
from engine.rows.examples import Example
from tests.engine.chat_templates import (
    CASES,
    calls,
    gives,
    says,
    talk,
    template_of,
    tokenizer_for,
    user,
)

# In the manner of Mistral's: ids of nine letters and digits or an error, and no header before an
# answer.
NINE_CHARACTERS = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% elif m.tool_calls is defined %}[TOOL_CALLS] ["
    "{% for call in m.tool_calls %}"
    "{% if call.id is not defined or call.id | length != 9 %}{{ raise_exception('nine characters') "
    "}}{% endif %}"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}, '
    '"id": "{{ call.id }}"}{% if not loop.last %}, {% endif %}{% endfor %}]{{ eos_token }}'
    "{% elif m.role == 'tool' %}"
    "{% if m.tool_call_id is not defined or m.tool_call_id | length != 9 %}{{ "
    "raise_exception('nine') }}{% endif %}"
    '[TOOL_RESULTS] {"content": {{ m.content }}, "call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]'
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
# In the manner of Kimi's: the id is all that says which tool is called.
NAME_IN_ID = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls %}<|call|>{{ call.id }}<|args|>{{ call.function.arguments | "
    "tojson }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As DeepSeek's: arguments are put together with texts.
AS_TEXT = NAME_IN_ID.replace(
    "call.id }}", "call.function.name + ' ' + call.function.arguments }}"
).replace("{{ call.function.arguments | tojson }}", "")
# As Llama's.
ONE_CALL = "{% for m in messages %}{% if m.tool_calls and m.tool_calls | length > 1 %}" + (
    "{{ raise_exception('This model only supports single tool-calls at once!') }}{% endif %}{% "
    "endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls %}{{ call.function | tojson }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def renderer_for(template, **options):
    return Renderer(tokenizer_for(template), warn=lambda code, message: None, **options)


def learned(renderer, example):
    tokens = renderer.tokens(example)
    parts, last = [], False
    for token, is_learned in zip(tokens.ids, tokens.learned, strict=True):
        if is_learned:
            parts[len(parts) - last :] = [[*parts[-1], token]] if last else [[token]]
        last = is_learned
    return [renderer.tokenizer.decode(part) for part in parts]


def without_ids(example):
    turns = []
    for turn in example.messages:
        made = {key: value for key, value in turn.items() if key not in ("tool_call_id", "name")}
        if "tool_calls" in made:
            made["tool_calls"] = [
                {key: value for key, value in call.items() if key != "id"}
                for call in made["tool_calls"]
            ]
        turns.append(made)
    return Example(messages=turns, tools=example.tools)


def ids(renderer, example):
    """(ids of the calls, ids of the results) as the template sees them."""
    turns = renderer.messages(example)
    called = [call.get("id") for turn in turns for call in turn.get("tool_calls", ())]
    return called, [turn.get("tool_call_id") for turn in turns if turn["role"] == "tool"]


def test_ids_of_the_file_are_kept_where_they_fit():
    called, answered = ids(renderer_for(NINE_CHARACTERS), CASES["two calls at once"])
    assert called == answered == ["Osloxxxx1", "Romexxxx1"]


def test_ids_are_made_in_the_templates_form_the_same_for_call_and_result():
    example = CASES["two calls at once"]
    other = Example(messages=[dict(turn) for turn in example.messages], tools=example.tools)
    other.messages[1] = calls("Oslo", "Rome")
    for call, given in zip(other.messages[1]["tool_calls"], ("call_1", "call_2"), strict=True):
        call["id"] = given
    # In another order than they were asked.
    other.messages[2] = gives("20", "Rome") | {"tool_call_id": "call_2"}
    other.messages[3] = gives("4", "Oslo") | {"tool_call_id": "call_1"}

    for made in (other, without_ids(example)):
        renderer = renderer_for(NINE_CHARACTERS)
        called, answered = ids(renderer, made)
        assert all(re.fullmatch(r"[A-Za-z0-9]{9}", made_id) for made_id in called)
        assert len(set(called)) == 2
        assert answered == (called[::-1] if made is other else called)
        assert ids(renderer_for(NINE_CHARACTERS), made) == (called, answered), "the same each time"
        assert len(learned(renderer, made)) == 2


def test_an_id_holds_the_name_where_the_template_writes_nothing_else_of_it():
    renderer = renderer_for(NAME_IN_ID)
    assert ids(renderer, without_ids(CASES["two calls at once"]))[0] == [
        "functions.warmth:0",
        "functions.warmth:1",
    ]
    assert "functions.warmth:0" in learned(renderer, without_ids(CASES["a call"]))[0]


def test_results_are_called_by_the_name_of_their_tool():
    turns = renderer_for(ONE_CALL).messages(without_ids(CASES["a call"]))
    assert turns[2]["name"] == "warmth"
    assert "tool_call_id" not in turns[2]


@pytest.mark.parametrize(
    ("template", "written"),
    [
        (AS_TEXT, 'warmth {"place": "Oslo"}'),
        (template_of("deepseekv3"), '{"place": "Oslo"}'),
        (ONE_CALL, '"arguments": {"place": "Oslo"}'),
        (template_of("qwen3"), '"arguments": {"place": "Oslo"}'),
    ],
)
def test_arguments_are_given_as_text_or_as_an_object_as_the_template_wants_them(template, written):
    call, _ = learned(renderer_for(template), CASES["a call"])
    assert written in call


def test_a_row_with_two_calls_under_a_template_of_one_is_refused_and_others_are_not():
    renderer = renderer_for(ONE_CALL)
    with pytest.raises(TemplateProblem, match="single tool-calls"):
        renderer.tokens(CASES["two calls at once"])
    assert len(learned(renderer, CASES["a call"])) == 2


def test_a_template_that_writes_only_one_of_two_calls_refuses_the_row():
    with pytest.raises(TemplateProblem, match="only one of the calls"):
        renderer_for(template_of("gptoss")).tokens(CASES["two calls at once"])


def test_calls_that_a_template_leaves_out_are_not_trained_as_blank_answers():
    with pytest.raises(TemplateProblem, match="no place"):
        renderer_for(template_of("deepseek_r1_distill")).tokens(CASES["a call"])


def test_all_calls_of_a_conversation_are_learned_under_templates_that_rewrite_them():
    turns = []
    for number in range(20):
        place = f"Town{number}"
        turns += [user("How warm?"), calls(place), gives("4", place), says("4 degrees.")]
    for name in ("qwen3", "qwen3_5_think", "qwen3_5_nothink"):
        parts = learned(renderer_for(template_of(name)), talk(*turns))
        assert sum(f"Town{number}" in part for number, part in enumerate(parts[::2])) == 20
        assert all(part.endswith("<|im_end|>") for part in parts)


# Thinking.

APART, EARLIER = CASES["thinking in the last answer"], CASES["thinking in earlier answers"]
TAGS = CASES["thinking in tags"]


@pytest.mark.parametrize(
    ("name", "example", "findings"),
    [
        ("qwen3", APART, set()),
        ("qwen3", TAGS, set()),
        ("qwen3", EARLIER, {"thinking_only_last"}),
        ("gptoss", APART, set()),
        ("gemma4_v5", EARLIER, {"thinking_only_last"}),
        ("deepseek_r1_distill", TAGS, {"thinking_taken_out", "asked_otherwise"}),
        ("deepseek_r1_distill", APART, {"thinking_no_place", "asked_otherwise"}),
        ("llama3", APART, {"thinking_no_place"}),
        ("llama3", TAGS, set()),
    ],
)
def test_thinking_that_a_template_leaves_out_is_said(name, example, findings):
    renderer = renderer_for(template_of(name))
    assert renderer.tokens(example).findings == findings
    kept = "It is one." in "".join(learned(renderer, example)) or "Two it is." in "".join(
        learned(renderer, example)
    )
    assert kept == (not findings or findings == {"thinking_only_last"})


@pytest.mark.parametrize(
    ("name", "case", "is_asked_so"),
    [
        # Asked with an opened thought, which a row without thinking closes in another way, or does
        # not have.
        ("nemotron_3_nano", "single turn", False),
        ("nemotron_3_nano", "thinking in the last answer", True),
        ("deepseek_r1_distill", "several turns", False),
        # Asked with an empty thought, as for a model that answers at once.
        ("qwen3_5_nothink", "single turn", True),
        ("qwen3_5_nothink", "thinking in tags", False),
        ("qwen3_5_think", "system turn", True),
        ("qwen3_5_think", "thinking in earlier answers", True),
        # Asked with no more than a header.
        ("qwen3", "thinking in the last answer", True),
        ("gptoss", "several turns", True),
        ("phi3", "several turns", True),
        # The answer to a tool is asked for in its own way.
        ("deepseekv3", "a call", True),
    ],
)
def test_a_row_whose_answer_begins_otherwise_than_it_is_asked_for_is_said(name, case, is_asked_so):
    findings = renderer_for(template_of(name)).tokens(CASES[case]).findings
    assert ("asked_otherwise" not in findings) == is_asked_so


# Templates that have a form of their own for thinking and do not look for tags in an answer.
WITHOUT_TAGS = ("gptoss", "gemma4_v5", "diffusion_gemma", "muse_glimmer", "qwen3_8")


@pytest.mark.parametrize("choice", ["auto", "in_front"])
@pytest.mark.parametrize("name", WITHOUT_TAGS)
def test_thinking_in_tags_is_learned_in_the_templates_own_form(name, choice):
    renderer = renderer_for(template_of(name), thinking=choice)
    assert learned(renderer, TAGS) == learned(renderer, APART)
    assert renderer.tokens(TAGS).findings == set()

    # As a model writes it that is asked with an opened tag.
    only_closed = talk(user("One?"), says("It is one.\n</think>\n\nUn."))
    assert learned(renderer, only_closed) == learned(renderer, APART)

    # Tags with nothing between them are no thinking, and no words of the answer either.
    empty, plain = (
        talk(user("One?"), says("<think>\n\n</think>\n\nUn.")),
        talk(user("One?"), says("Un.")),
    )
    assert learned(renderer, empty) == learned(renderer, plain)


@pytest.mark.parametrize("name", ["qwen3", "glm4moe", "lfm2_2_5", "nemotron_3_nano", "llama3"])
def test_tags_that_are_a_templates_own_form_or_no_form_of_it_stay_as_they_are(name):
    renderer = renderer_for(template_of(name))
    assert renderer.messages(TAGS)[-1] == TAGS.messages[-1]


def test_thinking_without_a_place_can_go_in_front_of_the_answer():
    renderer = renderer_for(template_of("llama3"), thinking="in_front")
    assert learned(renderer, APART) == ["<think>\nIt is one.\n</think>\n\nUn.<|eot_id|>"]
    assert renderer.tokens(APART).findings == set()
    # Where there is a place it stands in it.
    assert learned(renderer_for(template_of("qwen3"), thinking="in_front"), APART) == learned(
        renderer_for(template_of("qwen3")), APART
    )
    # In front is no use where the template takes it out there.
    assert renderer_for(template_of("deepseek_r1_distill"), thinking="in_front").tokens(
        APART
    ).findings == {
        "thinking_taken_out",
        "asked_otherwise",
    }


@pytest.mark.parametrize("example", [APART, TAGS, EARLIER])
def test_thinking_can_be_left_out(example):
    renderer = renderer_for(template_of("llama3"), thinking="leave_out")
    assert learned(renderer, example)[0] == "Un.<|eot_id|>"
    assert renderer.tokens(example).findings == set()


def test_words_that_a_template_leaves_out_beside_a_call_are_said():
    renderer = renderer_for(template_of("llama3_2"))
    assert renderer.tokens(CASES["a call beside words"]).findings == {"words_dropped"}
    assert renderer.tokens(CASES["a call"]).findings == set()


# Prompts and answers apart, as DPO, KTO, reward models, GRPO and PPO take them.


@pytest.mark.parametrize("name", ["qwen3", "llama3_2", "gptoss", "gemma4_v5", "deepseekv3"])
def test_an_answer_apart_has_the_mask_of_the_whole_row(name):
    renderer, example = renderer_for(template_of(name)), CASES["a call"]
    whole = renderer.tokens(example)
    prompt, answer = renderer.answered(example.messages[:-1], example.messages[-1:], example.tools)
    assert prompt + answer == whole.ids[: len(prompt) + len(answer)]
    assert renderer.tokenizer.decode(answer) == learned(renderer, example)[-1]
    assert (
        prompt[: len(prompt) - 8]
        == renderer.prompt_ids(example.messages[:-1], example.tools)[: len(prompt) - 8]
    )
    assert "warmth" in renderer.tokenizer.decode(prompt)


def test_calls_beside_generation_marks_are_learned_too():
    answer = "{% generation %}{{ m.content }}{% endgeneration %}"
    marked = ONE_CALL.replace(
        "{{ m.content }}",
        "{% if m.role == 'assistant' %}" + answer + "{% else %}{{ m.content }}{% endif %}",
    )
    call, words = learned(renderer_for(marked), CASES["a call"])
    assert '"place": "Oslo"' in call
    assert words == "4 degrees.<|im_end|>"
