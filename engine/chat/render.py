"""Rows of a dataset as token ids, with a mask of what is learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from engine.chat.masks import Masks, Rendered
from engine.chat.row_notes import ASKED_OTHERWISE, NOTHING_LEARNED, WHOLE_ROW, WORDS_DROPPED
from engine.chat.template import ChatTemplate, Message, Span, TemplateProblem, Tools
from engine.chat.thinking import THOUGHT, Choice, Thinking
from engine.chat.tool_turns import ToolTurns
from engine.messages.failures import TrainError
from engine.models.inspect import config_read
from engine.rows.examples import Example, with_system_prompt

# For base models that have none. Every answer ends with the end token, so that the model learns to
# stop.
PLAIN_TEMPLATE = """\
{%- for message in messages %}
{%- if message.role == 'system' %}{{ message.content + '\\n\\n' }}
{%- elif message.role == 'user' %}{{ '### Question:\\n' + message.content + '\\n\\n' }}
{%- else %}{{ '### Answer:\\n' + message.content + eos_token + '\\n\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '### Answer:\\n' }}{% endif %}"""

NO_TOOLS = (
    "The rows call tools, and the base model's chat template has no place for that: it "
    "would pass over them."
)


@dataclass(frozen=True)
class Tokens:
    """learned[i]: whether the loss is taken on ids[i]. findings: codes of engine.chat.row_notes for
    what the template does to the row."""

    ids: list[int]
    learned: list[bool]
    findings: frozenset[str] = frozenset()

    @property
    def prompt_length(self) -> int:
        """Tokens before the first one that is learned; all of them where none is."""
        return self.learned.index(True) if True in self.learned else len(self.ids)


@dataclass(frozen=True)
class AnswerTokens:
    """prompt, answer: token ids. findings: as of Tokens."""

    prompt: list[int]
    answer: list[int]
    findings: frozenset[str]


def tokenizer_load(folder: Path, *, config_folder: Path | None = None) -> Any:
    """The tokenizer of a model folder, with a chat template and a token to pad with in any case.

    `config_folder`: where the model's config.json lies, for an adapter's folder, which has none.

    The folder passes the gate first: raises ModelProblem where a file of it asks for code of its
    own, and TrainError where it is gone."""
    from transformers import AutoTokenizer

    if not folder.is_dir():
        raise TrainError(
            "model_gone",
            "The base model's folder is gone.",
            "Add the model again, or choose another.",
        )

    config_read(config_folder or folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        # What reads tokenizer.json raises Exception itself.
        raise TrainError(
            "bad_model",
            f"The base model's tokenizer cannot be read: {error}",
            "Its files are damaged or of an unknown kind. Add the model again.",
        ) from error

    if isinstance(tokenizer.chat_template, dict):
        templates = tokenizer.chat_template
        tokenizer.chat_template = templates.get("default") or next(iter(templates.values()), None)

    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN_TEMPLATE

    if tokenizer.eos_token is None:
        raise TrainError(
            "no_end_token",
            "The base model's tokenizer has no end token, so a model could never learn to stop.",
            "Choose another base model, or add eos_token to its tokenizer_config.json.",
        )

    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token

    return tokenizer


class Renderer:
    """Rows of a dataset -> tokens. `warn(code, message)` is called once a train for each thing that
    the template does not allow.

    Raises TemplateProblem for a row that the template cannot render.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        system_prompt: str = "",
        answers_only: bool = True,
        thinking: Choice = "auto",
        warn: Callable[[str, str], None],
    ) -> None:
        self.tokenizer = tokenizer
        self.system_prompt = system_prompt
        self.answers_only = answers_only
        self.warn = warn
        self.system_is_known: bool | None = None

        self.template = ChatTemplate(tokenizer)
        self.thinking = Thinking(self.template, thinking)
        self.tool_turns = ToolTurns(self.template)
        self.masks = Masks(self.template, self.tool_turns)
        self.stops = self.template.added_ids | set(tokenizer.all_special_ids)

    def tokens(self, example: Example) -> Tokens:
        """Everything of a text is learned, and its end; of a conversation each turn of the
        assistant, with what it calls and thinks and the token that ends it. Raises
        TemplateProblem."""
        if example.messages is None:
            return self._text_tokens(example.text or "")

        if not example.messages or example.messages[-1]["role"] != "assistant":
            ids = self.prompt_ids(example.messages, example.tools)
            return Tokens(ids, [False] * len(ids))

        messages, unlearned = self._prepared(example)
        rendered = self.masks.render(messages, example.tools)
        ends_learned = len(messages) - 1 not in unlearned
        tokens = self._answer_tokens(rendered, unlearned, ends_learned=ends_learned)
        findings = self._findings(messages, rendered)

        if not any(tokens.learned):
            findings |= {NOTHING_LEARNED}

        return Tokens(tokens.ids, tokens.learned, findings)

    def _text_tokens(self, text: str) -> Tokens:
        """A text that a chat template has written brings its own beginning and end: it has neither
        twice."""
        tokenizer = self.tokenizer
        if text.rstrip().endswith(tokenizer.eos_token):
            text = text.rstrip()
        if tokenizer.bos_token and text.lstrip().startswith(tokenizer.bos_token):
            text = text.lstrip()

        ids = list(tokenizer(text)["input_ids"])
        beginning = tokenizer.bos_token_id
        if beginning is not None and ids[:2] == [beginning, beginning]:
            ids = ids[1:]
        if ids[-1:] != [tokenizer.eos_token_id]:
            ids.append(tokenizer.eos_token_id)

        return Tokens(ids, [True] * len(ids))

    def _answer_tokens(
        self, rendered: Rendered, unlearned: set[int], *, ends_learned: bool
    ) -> Tokens:
        """The row's tokens, with the end token right behind the last answer where the template
        writes none: a model learns to stop by it.

        What the template writes behind an answer without an end token, white space mostly, is left
        away then."""
        text = rendered.text
        last = rendered.answers[-1]
        is_closed = not ends_learned or self.masks.outline.is_closed(text[: last.end])
        if not is_closed and rendered.finding != WHOLE_ROW:
            text = text[: last.end]

        learned: list[Span] = []
        others: list[Span] = []
        for answer in rendered.answers:
            spans = others if answer.turn in unlearned else learned
            spans.append((answer.start, answer.end))

        if not self.answers_only:
            learned = _outside(others, len(text))

        tokens = self._tokenise(text, learned)
        if is_closed:
            return tokens
        if rendered.finding == WHOLE_ROW and self.turn_end_id(tokens) is not None:
            return tokens

        return Tokens([*tokens.ids, self.tokenizer.eos_token_id], [*tokens.learned, True])

    def _findings(self, messages: list[Message], rendered: Rendered) -> frozenset[str]:
        """Codes for what the template does to this row. Raises TemplateProblem where calls are
        lost."""
        codes = self.thinking.missing(messages, rendered.text)

        if rendered.finding:
            self._calls_check(messages)
            return frozenset(codes | {rendered.finding})

        if messages[-2]["role"] == "user" and not self._is_asked_so(rendered):
            codes.add(ASKED_OTHERWISE)

        for answer in rendered.answers:
            message = messages[answer.turn]
            content = message["content"]
            part = rendered.text[answer.start : answer.end]
            _calls_written_check(message, part)

            if not _contains(part, content) and not _contains(rendered.text, content):
                codes.add(WORDS_DROPPED)

        return frozenset(codes)

    def _is_asked_so(self, rendered: Rendered) -> bool:
        """Whether in front of the last answer stands what the template writes when it asks a model
        for one.

        Templates of models that think open a thought there; many forget it, or write it otherwise,
        in rows."""
        request = self.template.request
        start = rendered.answers[-1].start
        around = rendered.text[max(0, start - len(request)) : start + len(request)]
        return request in around

    def _calls_check(self, messages: list[Message]) -> None:
        """For rows whose turns could not be found. Without the tools that it offers, a row names
        them in calls only."""
        names: set[str] = set()
        for turn in messages:
            names.update(_called_names(turn))

        text = self.template.attempt(messages) if names else None
        if text is not None and any(name not in text for name in names):
            raise _no_tools()

    def messages(self, example: Example) -> list[Message]:
        """The conversation as the template takes it.

        With the train's system prompt, inside the first question where the template has no place
        for one."""
        return self._prepared(example)[0]

    def _prepared(self, example: Example) -> tuple[list[Message], set[int]]:
        """(turns as the template takes them, numbers of those that are not learned)."""
        if example.calls_tools and not template_knows_tools(self.tokenizer.chat_template):
            raise _no_tools()

        turns = with_system_prompt(example.messages or [], self.system_prompt)
        turns = self.tool_turns.adapt(self.thinking.adapt(turns))
        if turns[0]["role"] == "system" and not self._knows_system():
            system, question, *rest = turns
            content = f"{system['content']}\n\n{question['content']}"
            turns = [question | {"content": content}, *rest]

        messages = []
        unlearned = set()
        for number, turn in enumerate(turns):
            if turn.get("learned") is False:
                unlearned.add(number)

            messages.append(_without_key(turn, "learned"))

        return messages, unlearned

    def prompt(self, messages: list[Message], tools: Tools = None) -> str:
        """The conversation up to where the model's answer begins. `messages` as the template takes
        them."""
        return self.template.render(messages, tools, add_generation_prompt=True)

    def prompt_ids(self, turns: list[Message], tools: Tools = None) -> list[int]:
        """A prompt up to where the model's answer begins, with the train's system prompt."""
        text = self.prompt(self.messages(Example(messages=turns, tools=tools)), tools)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def answered(
        self, turns: list[Message], answer: list[Message], tools: Tools = None
    ) -> tuple[list[int], list[int]]:
        """(ids of the prompt, ids of the answer with its end)."""
        tokens = self.answer_tokens(turns, answer, tools)
        return tokens.prompt, tokens.answer

    def answer_tokens(
        self, turns: list[Message], answer: list[Message], tools: Tools = None
    ) -> AnswerTokens:
        """A prompt and an answer to it, for methods that compare answers.

        The answer begins with its first token that is learned. What the template writes behind the
        end of the turn is left away, since no model has to say it."""
        asked = []
        for turn in turns:
            is_answer = turn["role"] == "assistant"
            asked.append(turn | {"learned": False} if is_answer else turn)

        tokens = self.tokens(Example(messages=[*asked, *answer], tools=tools))
        start = tokens.prompt_length

        if WHOLE_ROW in tokens.findings:
            # What the row and its prompt alone have in common is the prompt.
            prompt = self.prompt_ids(turns, tools)
            pairs = zip(prompt, tokens.ids, strict=False)
            start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

        end = len(tokens.ids)
        if True in tokens.learned:
            end -= tokens.learned[::-1].index(True)

        return AnswerTokens(tokens.ids[:start], tokens.ids[start:end], tokens.findings)

    def render(
        self, messages: list[Message], tools: Tools = None, *, add_generation_prompt: bool = False
    ) -> str:
        """`messages` as the template takes them, as text."""
        return self.template.render(messages, tools, add_generation_prompt=add_generation_prompt)

    def _knows_system(self) -> bool:
        """Gemma's template, for one, refuses a system turn; others pass over it without a word."""
        if self.system_is_known is None:
            messages = [
                {"role": "system", "content": "Zqxsystem"},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"},
            ]
            text = self.template.attempt(messages)
            self.system_is_known = text is not None and "zqxsystem" in text.lower()

            if not self.system_is_known:
                self.warn(
                    "no_system_turn",
                    "The chat template has no place for a system prompt: it was put in front of "
                    "the first question.",
                )

        return self.system_is_known

    def _tokenise(self, text: str, spans: list[Span]) -> Tokens:
        """The template has written the special tokens of the text itself, so none are added."""
        if self.tokenizer.is_fast:
            encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            overlaps = _overlaps(spans)
            learned = [overlaps(start, end) for start, end in encoded["offset_mapping"]]
            return Tokens(list(encoded["input_ids"]), learned)

        ids: list[int] = []
        learned = []
        for start, end, is_answer in _pieces(spans, len(text)):
            piece = self.tokenizer(text[start:end], add_special_tokens=False)["input_ids"]
            ids += piece
            learned += [is_answer] * len(piece)

        return Tokens(ids, learned)

    def stop_ids(self, known: int | list[int] | None) -> list[int]:
        """The tokens at which an answer ends: those the model knows, the tokenizer's, and those
        that end its turns."""
        stops = [known] if isinstance(known, int) else list(known or [])
        turns: list[Message] = [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
        ]
        turn_end = self.turn_end_id(self.tokens(Example(messages=turns)))

        for token in (turn_end, self.call_end_id, self.tokenizer.eos_token_id):
            if token is not None:
                stops.append(token)

        return list(dict.fromkeys(stops))

    @property
    def call_end_id(self) -> int | None:
        """The token that ends a turn of calls, once a row with calls was seen."""
        token = self.masks.outline.call_end
        return int(self.tokenizer.convert_tokens_to_ids(token)) if token else None

    def turn_end_id(self, tokens: Tokens) -> int | None:
        """The special or added token with which the last answer ends."""
        last = -1
        if True in tokens.learned:
            last = len(tokens.learned) - 1 - tokens.learned[::-1].index(True)

        tail = tokens.ids[max(0, last - 2) : last + 1]
        return next((token for token in tail if token in self.stops), None)


def template_knows_tools(template: object) -> bool:
    """Whether a chat template writes calls of tools: one that does not passes over them without a
    word."""
    return "tool_calls" in str(template)


def _no_tools() -> TemplateProblem:
    return TemplateProblem(
        "no_tool_turns", NO_TOOLS, "Choose a base model whose chat template knows tools."
    )


def _called_names(message: Message) -> list[str]:
    return [call["function"]["name"] for call in message.get("tool_calls", ())]


def _calls_written_check(message: Message, text: str) -> None:
    """Raises TemplateProblem where `text`, a turn as the template writes it, lacks one of the
    turn's calls."""
    names = _called_names(message)
    for name in names:
        if name not in text:
            raise _no_tools()

    for name in names:
        if text.count(name) < names.count(name):
            raise TemplateProblem(
                "one_call",
                "The row calls several tools at once, and the base model's chat template writes "
                "only one of the calls.",
                "Let each turn call one tool, or choose a base model whose chat template takes "
                "several calls.",
            )


def _without_key(message: Message, key: str) -> Message:
    if key not in message:
        return message

    return {name: value for name, value in message.items() if name != key}


def _contains(text: str, content: str) -> bool:
    """Whether the words of an answer, its thinking aside, stand in `text`; upper and lower case and
    white space do not matter."""
    if "</think>" in content:
        content = THOUGHT.sub("", content, count=1)

    words = content.strip()
    return words in text or _squeezed(words) in _squeezed(text)


def _squeezed(text: str) -> str:
    return "".join(text.split()).casefold()


def _overlaps(spans: list[Span]) -> Callable[[int, int], bool]:
    """Whether a token from `start` to `end` has a character of one of the spans. To be asked in the
    order of the text.

    A token may begin before a span: the blank in front of a word belongs to the word's token.
    """
    rest = iter(spans)
    current = next(rest, None)

    def overlaps(start: int, end: int) -> bool:
        nonlocal current
        while current is not None and start >= current[1]:
            current = next(rest, None)

        return current is not None and end > current[0] and end > start

    return overlaps


def _outside(spans: list[Span], length: int) -> list[Span]:
    """What of a text of `length` characters is in none of the spans."""
    return [(start, end) for start, end, is_within in _pieces(spans, length) if not is_within]


def _pieces(spans: list[Span], length: int) -> Iterator[tuple[int, int, bool]]:
    """The text cut at the spans: (start, end, whether it is within one)."""
    position = 0
    for start, end in spans:
        if start > position:
            yield position, start, False

        yield start, end, True
        position = end

    if position < length:
        yield position, length, False
