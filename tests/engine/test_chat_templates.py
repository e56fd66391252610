"""What is learned under every chat template that TRL ships, held against TRL's own masks."""

import functools
import re

import pytest
from trl.chat_template_utils import get_training_chat_template

from engine.chat.render import Renderer
from engine.chat.template import TemplateProblem
from engine.rows.examples import Example
from tests.engine.chat_templates import CASES, NAMES, template_of, tokenizer_for

THINKING = re.compile(r"(<think>)?.*?</think>\s*", re.DOTALL)
WAYS = ("marks", "outline")


@functools.cache
def renderer_for(name, way="marks"):
    renderer = Renderer(tokenizer_for(template_of(name)), warn=lambda code, message: None)
    if way == "outline":
        renderer.masks.marked = None
    return renderer


def rendered(renderer, example):
    """(text, [(start, end)] of what is learned); None for a row that is left out."""
    try:
        renderer.tokens(example)
        messages = renderer.messages(example)
        found = renderer.masks.render(messages, example.tools)
    except TemplateProblem:
        return None
    assert found.finding == ""
    return found.text, [(answer.start, answer.end) for answer in found.answers]


@functools.cache
def trl_template(tokenizer):
    try:
        return get_training_chat_template(tokenizer)
    except ValueError:
        return None


def trl_rendered(renderer, example):
    """As `rendered`, by TRL's training template and its marks; None where it has none, or refuses
    the row."""
    marked = trl_template(renderer.tokenizer)
    if marked is None:
        return None
    try:
        # As TRL's users write them, not as the template was found to want them; but thinking in its
        # place, which TRL's users would have to put there themselves.
        messages = renderer.thinking.adapt(example.messages)
        return renderer.template.render_marked(messages, example.tools, marked)
    except TemplateProblem:
        return None


def stretches(characters):
    """[(start, end)] of numbers in a row."""
    found = []
    for number in sorted(characters):
        if found and found[-1][1] == number:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return found


def characters(spans):
    return {number for start, end in spans for number in range(start, end)}


def generation_prompts(renderer, example):
    """What stands behind the words of a turn where the answer to it is asked for."""
    found = []
    for index, turn in enumerate(example.messages):
        if turn["role"] == "assistant":
            prompt = Example(messages=example.messages[:index], tools=example.tools)
            text = renderer.prompt(renderer.messages(prompt), example.tools)
            words = example.messages[index - 1]["content"].strip()
            found.append(text[text.rindex(words) + len(words) :])
    return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_learned_is_what_trl_learns_but_for_differences_with_a_name(name, case):
    for way in WAYS:
        compare(renderer_for(name, way), CASES[case])


def compare(renderer, example):
    ours, theirs = rendered(renderer, example), trl_rendered(renderer, example)
    if theirs is None:
        return
    if ours is None:
        # Left out: the template does not write all calls. TRL's mask has not all to learn either.
        learned = "".join(theirs[0][start:end] for start, end in theirs[1])
        assert not all(
            place in learned for place in ("Oslo", "Rome") if place in str(example.messages)
        )
        return

    text, spans = ours
    if text != theirs[0]:
        # TRL's template writes thinking, empty or not, where the model's own does not; and GLM's
        # ends.
        assert [bare(renderer, text[start:end]) for start, end in spans] == [
            bare(renderer, theirs[0][start:end]) for start, end in theirs[1]
        ]
        return

    asked = generation_prompts(renderer, example)
    for start, end in stretches(characters(spans) - characters(theirs[1])):
        # We learn the end token, where TRL does not; and a header that stands within what a turn
        # says.
        is_end = renderer.template.added_pattern.fullmatch(text[start:end]) and any(
            end == last for _, last in spans
        )
        is_within = any(first < start and end < last for first, last in spans)
        assert is_end or (is_within and any(text[start:end] in prompt for prompt in asked))
    for start, end in stretches(characters(theirs[1]) - characters(spans)):
        # We do not learn what stands behind the end token, nor what asking for an answer writes
        # already.
        is_behind = (
            any(start == last for _, last in spans)
            and not text[start:end].replace("</s>", "").strip()
        )
        assert is_behind or any(text[start:end] in prompt for prompt in asked)


def bare(renderer, text):
    """An answer without its thinking, without its end, and without what asking for it writes."""
    text = THINKING.sub("", text, count=1).replace("<｜Assistant｜>", "").strip()
    while (token := list(renderer.template.added_pattern.finditer(text))) and token[
        -1
    ].end() == len(text):
        if token[-1][0].startswith("</"):
            break
        text = text[: token[-1].start()].strip()
    return text


@pytest.mark.parametrize("name", NAMES)
def test_all_that_the_assistant_says_is_learned_to_its_end_and_nothing_of_the_others(name):
    for example in CASES.values():
        learned_check(renderer_for(name, "outline"), example)


def learned_check(renderer, example):
    found = rendered(renderer, example)
    if found is None:
        return
    text, spans = found
    parts = [text[start:end] for start, end in spans]
    learned = "".join(parts)

    for turn in example.messages:
        words = [call["function"]["arguments"]["place"] for call in turn.get("tool_calls", ())]
        if turn["role"] == "assistant":
            assert all(word in learned for word in words), "calls are learned"
            content = THINKING.sub("", turn["content"], count=1)
            assert content in learned or content not in text, "words are learned"
            thinking = turn.get("reasoning_content", "")
            assert thinking in learned or thinking not in text, "thinking is learned"
        elif turn["role"] == "tool":
            assert not any(f"{mark}{turn['content']}{mark}" in learned for mark in ('"', "\n"))
        else:
            assert turn["content"].strip() not in learned

    # Each turn ends with a token, but where the template writes none.
    ends = [renderer.template.ends_with_token(part) for part in parts]
    assert all(ends[:-1])
    tokens = renderer.tokens(example)
    last = max(index for index, is_learned in enumerate(tokens.learned) if is_learned)
    assert tokens.ids[last] in renderer.stops


@pytest.mark.parametrize("name", NAMES)
def test_rows_have_the_tokens_of_the_templates_own_text(name):
    renderer = renderer_for(name)
    for example in CASES.values():
        found = rendered(renderer, example)
        if found is not None:
            text, spans = found
            closed = renderer.masks.outline.is_closed(text[: spans[-1][1]])
            expected = renderer.tokenizer(
                text if closed else text[: spans[-1][1]], add_special_tokens=False
            )
            extra = [] if closed else [renderer.tokenizer.eos_token_id]
            assert renderer.tokens(example).ids == expected["input_ids"] + extra
