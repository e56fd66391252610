"""What is learned of a row: masks by hand, on templates of every kind, and templates that mean
ill."""

import json
import time

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

import engine.chat.render
import engine.chat.template
from engine.chat.lengths import main as lengths_main
from engine.chat.render import PLAIN_TEMPLATE, Renderer, tokenizer_load
from engine.chat.template import TemplateProblem
from engine.messages.failures import TrainError
from engine.rows.examples import Example
from tests.engine.runs import toy_rows, write_rows
from tests.tiny import tiny_tokenizer

TALK = Example(
    messages=[
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Un."},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "Deux."},
    ]
)

# Writes earlier answers without what the last one has, as Qwen3 does with its thinking.
REWRITING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Gemma's: the assistant is called model, and a system turn is an error.
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% "
    "endif %}"
    "{% for m in messages %}<|im_start|>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<|im_end|>\n{% endfor %}{% if add_generation_prompt "
    "%}<|im_start|>model\n{% endif %}"
)
WITHOUT_END = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
SHOUTING = (
    "{{ messages | length }}: {% for m in messages %}{{ m.content | upper }}<|im_end|>{% endfor %}"
)


def model_folder(folder, **options):
    """A tokenizer with as much of a model beside it as its loading asks for."""
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return tiny_tokenizer(folder, **options)


@pytest.fixture
def renderer(tmp_path):
    """A renderer for a chat template, with what it warned of."""

    def make(template, **options):
        tokenizer = tiny_tokenizer(tmp_path, chat_template=template)
        warned = []
        made = Renderer(tokenizer, warn=lambda code, message: warned.append(code), **options)
        made.warned = warned
        return made

    return make


def learned(renderer, example):
    """The text of each stretch of tokens that is learned."""
    tokens = renderer.tokens(example)
    parts, part = [], []
    for token, is_learned in [*zip(tokens.ids, tokens.learned, strict=True), (0, False)]:
        if is_learned:
            part.append(token)
        elif part:
            parts.append(renderer.tokenizer.decode(part))
            part = []
    return parts


def test_every_answer_is_learned_with_its_end_of_turn_and_nothing_else(renderer):
    from tests.tiny import CHAT_TEMPLATE

    chat = renderer(CHAT_TEMPLATE)
    assert learned(chat, TALK) == ["Un.<|im_end|>", "Deux.<|im_end|>"]
    assert chat.tokenizer.decode(chat.tokens(TALK).ids) == chat.render(TALK.messages)
    assert chat.warned == []


def test_labels_by_hand(renderer):
    from tests.tiny import CHAT_TEMPLATE

    chat = renderer(CHAT_TEMPLATE)
    tokens = chat.tokens(
        Example(messages=[{"role": "user", "content": "q"}, {"role": "assistant", "content": "ab"}])
    )
    pieces = [chat.tokenizer.decode([token]) for token in tokens.ids]
    assert pieces == [
        "<|im_start|>",
        "user",
        "\n",
        "q",
        "<|im_end|>",
        "\n",
        "<|im_start|>",
        "assistant",
        "\n",
        "a",
        "b",
        "<|im_end|>",
        "\n",
    ]
    assert tokens.learned == [False] * 9 + [True, True, True, False]
    assert tokens.prompt_length == 9


def test_answers_equal_to_questions_are_not_confused(renderer):
    from tests.tiny import CHAT_TEMPLATE

    echo = Example(
        messages=[{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}] * 2
    )
    for template in (CHAT_TEMPLATE, REWRITING):
        assert learned(renderer(template), echo)[0] == "x<|im_end|>"
        assert len(learned(renderer(template), echo)) == 2


def test_a_template_that_rewrites_earlier_turns_still_has_every_answer_learned(renderer):
    chat = renderer(REWRITING)
    assert learned(chat, TALK) == ["Un.<|im_end|>", "<think>\n\n</think>\n\nDeux.<|im_end|>"]


# As the Hermes format writes calls of tools.
CALLING = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor "
    "%}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CALL = {"name": "warmth", "arguments": {"place": "Oslo"}}
CALLS = Example(
    messages=[
        {"role": "user", "content": "How warm?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": CALL}],
        },
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "4 degrees."},
    ],
    tools=[{"type": "function", "function": {"name": "warmth"}}],
)


def test_calls_of_tools_are_learned_and_what_tools_say_is_not(renderer):
    chat = renderer(CALLING)
    call, answer = learned(chat, CALLS)
    assert (
        json.loads(call.removeprefix("<tool_call>").removesuffix("</tool_call><|im_end|>")) == CALL
    )
    assert answer == "4 degrees.<|im_end|>"
    assert '"warmth"}}]<|im_end|>' in chat.tokenizer.decode(chat.tokens(CALLS).ids)
    asked = chat.tokenizer.decode(chat.prompt_ids(CALLS.asked, CALLS.tools))
    assert asked.endswith("<|im_start|>tool\n4<|im_end|>\n<|im_start|>assistant\n")
    assert chat.warned == []


def test_a_template_without_tools_is_refused_and_not_trained_on_blank_answers(renderer):
    with pytest.raises(TemplateProblem, match="no place for that"):
        renderer(REWRITING).tokens(CALLS)


def test_a_template_that_changes_the_words_has_its_answers_learned(renderer):
    chat = renderer(SHOUTING)
    assert learned(chat, TALK) == ["UN.<|im_end|>", "DEUX.<|im_end|>"]


# Not in the order of the conversation: its turns cannot be told apart.
QUESTIONS = "{% for m in messages if m.role == 'user' %}{{ m.content }}\n{% endfor %}"
ANSWERS = (
    "{% for m in messages if m.role == 'assistant' %}{{ m.content | upper }}<|im_end|>{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "finding", "expected"),
    [
        (QUESTIONS + ANSWERS, "last_answer_alone", ["DEUX.<|im_end|>"]),
        (ANSWERS + QUESTIONS, "whole_row", ["UN.<|im_end|>DEUX.<|im_end|>One?\nTwo?\n<|im_end|>"]),
    ],
)
def test_where_answers_cannot_be_told_apart_less_or_more_is_learned_and_said(
    renderer, template, finding, expected
):
    chat = renderer(template)
    assert learned(chat, TALK) == expected
    assert chat.tokens(TALK).findings == {finding}


def test_a_system_prompt_goes_into_the_first_question_where_there_is_no_place_for_it(renderer):
    chat = renderer(NO_SYSTEM, system_prompt="Be brief.")
    messages = chat.messages(TALK)
    assert messages[0] == {"role": "user", "content": "Be brief.\n\nOne?"}
    assert learned(chat, TALK) == ["Un.<|im_end|>", "Deux.<|im_end|>"]
    assert chat.warned == ["no_system_turn"]


def test_an_end_token_is_added_right_behind_the_answer_where_the_template_writes_none(renderer):
    chat = renderer(WITHOUT_END)
    assert learned(chat, TALK) == ["Un.", "Deux.<|im_end|>"]
    assert chat.tokens(TALK).ids[-1] == chat.tokenizer.eos_token_id


ENDS = {
    "a new line before the token": (
        "{{ m.content }}\n<|im_end|>\n",
        ["Un.\n<|im_end|>", "Deux.\n<|im_end|>"],
    ),
    "words before the token": (
        "{{ m.content }} (end)<|im_end|>",
        ["Un. (end)<|im_end|>", "Deux. (end)<|im_end|>"],
    ),
    "another token behind the last": (
        "{{ m.content }}<|im_end|>\n{% if loop.last %}<|endoftext|>{% endif %}",
        ["Un.<|im_end|>", "Deux.<|im_end|>"],
    ),
    "another token in place of the last": (
        "{{ m.content }}{{ '<|endoftext|>' if loop.last else '<|im_end|>' }}",
        ["Un.<|im_end|>", "Deux.<|endoftext|>"],
    ),
    "generation marks that leave the token out": (
        "{% generation %}{{ m.content }}{% endgeneration %}{{ '\n' }}<|im_end|>\n",
        ["Un.\n<|im_end|>", "Deux.\n<|im_end|>"],
    ),
    "generation marks that take white space in": (
        "{% generation %}{{ m.content }}<|im_end|>\n{% endgeneration %}",
        ["Un.<|im_end|>", "Deux.<|im_end|>"],
    ),
}


@pytest.mark.parametrize("kind", ENDS)
def test_all_that_stands_between_an_answer_and_its_end_is_learned_with_the_end(renderer, kind):
    answer, expected = ENDS[kind]
    chat = renderer(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        + answer
        + "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    assert learned(chat, TALK) == expected


def test_the_blank_before_a_word_is_learned_with_the_word():
    overlaps = engine.chat.render._overlaps([(3, 6), (9, 10)])
    assert [overlaps(*token) for token in ((0, 2), (2, 5), (5, 6), (6, 9), (8, 10))] == [
        False,
        True,
        True,
        False,
        True,
    ]


def test_turns_that_are_not_to_be_learned_are_not_and_no_template_sees_the_mark(renderer):
    from tests.tiny import CHAT_TEMPLATE

    wrong = Example(
        messages=[
            turn | {"learned": False} if turn["content"] == "Un." else turn
            for turn in TALK.messages
        ]
    )
    chat = renderer(CHAT_TEMPLATE)
    assert learned(chat, wrong) == ["Deux.<|im_end|>"]
    assert chat.tokens(wrong).ids == chat.tokens(TALK).ids

    chat = renderer("{{ messages | tojson }}{% if add_generation_prompt %}{% endif %}")
    assert "learned" not in chat.render(chat.messages(wrong))

    whole = renderer(CHAT_TEMPLATE, answers_only=False)
    assert "Un." not in "".join(learned(whole, wrong))

    last = Example(messages=[*TALK.messages[:-1], TALK.messages[-1] | {"learned": False}])
    assert learned(renderer(WITHOUT_END), last) == ["Un."]


def test_a_base_model_without_a_template_gets_a_plain_one_that_ends_its_answers(tmp_path):
    model_folder(tmp_path, chat_template=None)
    tokenizer = tokenizer_load(tmp_path)
    assert tokenizer.chat_template == PLAIN_TEMPLATE
    plain = Renderer(tokenizer, warn=lambda code, message: pytest.fail(message))
    assert learned(plain, TALK) == ["Un.<|im_end|>", "Deux.<|im_end|>"]
    assert plain.render(TALK.messages).startswith("### Question:\nOne?\n\n### Answer:\nUn.")


def test_everything_is_learned_where_answers_only_is_off(renderer):
    chat = renderer(NO_SYSTEM, answers_only=False)
    assert all(chat.tokens(TALK).learned[:-1])


def test_plain_text_is_learned_whole_and_ends(renderer):
    chat = renderer(NO_SYSTEM)
    tokens = chat.tokens(Example(text="Grüße, 漢字"))
    assert chat.tokenizer.decode(tokens.ids) == "Grüße, 漢字<|im_end|>"
    assert all(tokens.learned)
    assert tokens.prompt_length == 0


@pytest.mark.parametrize(
    "text", ["Hi", "<s>Hi", "<s>Hi<|im_end|>", "Hi<|im_end|>\n", " <s>Hi<|im_end|> \n\n"]
)
def test_a_text_that_brings_its_own_ends_has_them_once(renderer, text):
    chat = renderer(NO_SYSTEM)
    tokenizer = chat.tokenizer
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    beginning = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", beginning)]
    )

    assert tokenizer.decode(chat.tokens(Example(text=text)).ids) == "<s>Hi<|im_end|>"


@pytest.mark.parametrize("is_fast", [True, False])
def test_tokenizers_without_offsets_learn_the_same(renderer, is_fast, monkeypatch):
    from tests.tiny import CHAT_TEMPLATE

    chat = renderer(CHAT_TEMPLATE)
    monkeypatch.setattr(type(chat.tokenizer), "is_fast", is_fast)
    assert learned(chat, TALK) == ["Un.<|im_end|>", "Deux.<|im_end|>"]


def test_a_template_that_loops_for_ever_is_ended(renderer, monkeypatch):
    monkeypatch.setattr(engine.chat.template, "RENDER_SECONDS", 0.3)
    forever = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    began = time.monotonic()
    with pytest.raises(TrainError) as caught:
        renderer(forever).tokens(TALK)
    assert caught.value.code == "template_loops"
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ messages.clear() }}",
        "{% broken",
        "{{ raise_exception('no') }}",
    ],
)
def test_a_template_that_fails_or_reaches_out_says_so(renderer, template):
    with pytest.raises(TrainError) as caught:
        renderer(template).tokens(TALK)
    assert caught.value.code == "template_fails"


def test_lengths_are_counted_as_the_train_will_cut_them(tmp_path, capsys):
    model_folder(tmp_path)
    rows = [*toy_rows(3), {"messages": "broken"}, toy_rows(1)[0]]
    data = write_rows(tmp_path / "data.jsonl", rows)
    assert (
        lengths_main(
            [
                "--data",
                str(data),
                "--file-type",
                "jsonl",
                "--format",
                "messages",
                "--column-map",
                '{"messages": "messages"}',
                "--model",
                str(tmp_path),
            ]
        )
        == 0
    )
    counted = json.loads(capsys.readouterr().out)["done"]
    chat = Renderer(AutoTokenizer.from_pretrained(tmp_path), warn=print)
    expected = [
        chat.tokens(Example(messages=row["messages"]))
        for row in rows
        if row["messages"] != "broken"
    ]
    assert sum(counted["rows"].values()) == 4
    assert {int(length) for length in counted["rows"]} == {len(tokens.ids) for tokens in expected}
    assert {int(length) for length in counted["prompts"]} == {
        tokens.prompt_length for tokens in expected
    }


def test_counting_says_what_is_wrong(tmp_path, capsys):
    model_folder(tmp_path, chat_template="{{ raise_exception('Not today') }}")
    data = write_rows(tmp_path / "data.jsonl", toy_rows(2))
    assert (
        lengths_main(
            [
                "--data",
                str(data),
                "--file-type",
                "jsonl",
                "--format",
                "messages",
                "--model",
                str(tmp_path),
            ]
        )
        == 1
    )
    assert "Not today" in json.loads(capsys.readouterr().out)["error"]
