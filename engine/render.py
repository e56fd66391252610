"""Conversations as token ids, with a mask of what is learned. No torch: counting tokens needs none.

A chat template is a program that somebody else wrote. It is rendered by transformers' sandbox alone, and each rendering
has a time limit.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from types import FrameType
from typing import Any

from jinja2.exceptions import TemplateError

from engine.examples import Example, with_system_prompt
from engine.failures import TrainError
from engine.inspect_model import config_read

RENDER_SECONDS = 10.0

# For base models that have none. Every answer ends with the end token, so that the model learns to stop.
PLAIN_TEMPLATE = """\
{%- for message in messages %}
{%- if message.role == 'system' %}{{ message.content + '\\n\\n' }}
{%- elif message.role == 'user' %}{{ '### Question:\\n' + message.content + '\\n\\n' }}
{%- else %}{{ '### Answer:\\n' + message.content + eos_token + '\\n\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '### Answer:\\n' }}{% endif %}"""

NO_TOOLS = "The rows call tools, and the base model's chat template has no place for that: it would pass over them."

Span = tuple[int, int]
Message = dict[str, Any]
Tools = list[dict[str, Any]] | None


@dataclass(frozen=True)
class Tokens:
    """`learned[i]`: whether the loss is taken on `ids[i]`."""

    ids: list[int]
    learned: list[bool]

    @property
    def prompt_length(self) -> int:
        """Tokens before the first one that is learned; all of them where none is."""
        return self.learned.index(True) if True in self.learned else len(self.ids)


def tokenizer_load(folder: Path, *, config_folder: Path | None = None) -> Any:
    """The tokenizer of a model folder, with a chat template and a token to pad with in any case.

    `config_folder`: where the model's config.json lies, for an adapter's folder, which has none.

    The folder passes the gate first: raises ModelProblem where a file of it asks for code of its own, and TrainError
    where it is gone.
    """
    from transformers import AutoTokenizer

    if not folder.is_dir():
        raise TrainError("model_gone", "The base model's folder is gone.", "Add the model again, or choose another.")
    config_read(config_folder or folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
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
    """Rows of a dataset -> tokens. `warn(code, message)` hears what the template does not allow, once a row."""

    def __init__(
        self, tokenizer: Any, *, system_prompt: str = "", answers_only: bool = True, warn: Callable[[str, str], None]
    ) -> None:
        self.tokenizer = tokenizer
        self.system_prompt = system_prompt
        self.answers_only = answers_only
        self.warn = warn
        self.system_is_known: bool | None = None
        self.stops = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}

    def tokens(self, example: Example) -> Tokens:
        """Everything of a text is learned, and its end; of a conversation every answer with its end of turn."""
        if example.messages is None:
            ids = list(self.tokenizer(example.text or "")["input_ids"])
            if ids[-1:] != [self.tokenizer.eos_token_id]:
                ids.append(self.tokenizer.eos_token_id)
            return Tokens(ids, [True] * len(ids))
        if not example.messages or example.messages[-1]["role"] != "assistant":
            ids = self.prompt_ids(example.messages, example.tools)
            return Tokens(ids, [False] * len(ids))
        if example.calls_tools:
            self._tools_check()
        messages = self.messages(example)
        text = self.render(messages, example.tools)
        spans = self._answers(messages, text, example.tools) if self.answers_only else [(0, len(text))]
        return self._ended(self._tokenise(text, spans))

    def messages(self, example: Example) -> list[Message]:
        """The conversation with the train's system prompt, inside the first question where the template has no place
        for one."""
        messages = with_system_prompt(example.messages or [], self.system_prompt)
        if messages[0]["role"] != "system" or self._knows_system(messages):
            return messages
        first = {"role": "user", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
        return [first, *messages[2:]]

    def prompt(self, messages: list[Message], tools: Tools = None) -> str:
        """The conversation up to where the model's answer begins."""
        return self.render(messages, tools, add_generation_prompt=True)

    def prompt_ids(self, turns: list[Message], tools: Tools = None) -> list[int]:
        """A prompt up to where the model's answer begins, with the train's system prompt."""
        text = self.prompt(self.messages(Example(messages=turns)), tools)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def answered(self, turns: list[Message], answer: list[Message]) -> tuple[list[int], list[int]]:
        """(ids of the prompt, ids of the answer with its end), for methods that compare answers.

        The answer begins where rendering it departs from the prompt; what the template writes behind the end of the
        turn is left away, since no model has to say it.
        """
        prompt = self.prompt_ids(turns)
        tokens = self.tokens(Example(messages=[*turns, *answer]))
        end = max((index for index, learned in enumerate(tokens.learned) if learned), default=len(tokens.ids) - 1) + 1
        start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, tokens.ids, strict=False)))
        return tokens.ids[:start], tokens.ids[start:end]

    def render(self, messages: list[Message], tools: Tools = None, *, add_generation_prompt: bool = False) -> str:
        """Raises TrainError where the template takes too long or fails."""
        try:
            with time_limit(RENDER_SECONDS):
                return str(
                    self.tokenizer.apply_chat_template(
                        messages, tools=tools, tokenize=False, add_generation_prompt=add_generation_prompt
                    )
                )
        except TimeoutError as error:
            raise TrainError(
                "template_loops",
                f"The base model's chat template took longer than {RENDER_SECONDS:.0f} s for one row.",
                "It may loop for ever. Choose another base model, or correct its chat template.",
            ) from error
        except (TemplateError, TypeError, ValueError, KeyError, OverflowError, RecursionError) as error:
            raise TrainError(
                "template_fails",
                f"The base model's chat template cannot render a row: {str(error)[:300]}",
                "Choose another base model, or bring the dataset's turns into the order that this template takes.",
            ) from error

    def _tools_check(self) -> None:
        if not template_knows_tools(self.tokenizer.chat_template):
            raise TrainError(
                "no_tool_turns",
                NO_TOOLS,
                "Choose a base model whose chat template knows tools.",
            )

    def _knows_system(self, messages: list[Message]) -> bool:
        """Gemma's template, for one, refuses a system turn; others pass over it without a word."""
        if self.system_is_known is None:
            try:
                self.system_is_known = messages[0]["content"].strip() in self.render(messages)
            except TrainError as error:
                if error.code != "template_fails":
                    raise
                self.system_is_known = False
            if not self.system_is_known:
                self.warn(
                    "no_system_turn",
                    "The chat template has no place for a system prompt: it was put in front of the first question.",
                )
        return self.system_is_known

    def _answers(self, messages: list[Message], text: str, tools: Tools) -> list[Span]:
        """Where in `text` the answers stand, each from behind the generation prompt to the end of its turn.

        An answer is what rendering one turn more adds to the rendering that asks for it. Some templates write earlier
        turns anew (Qwen3 takes the thinking out of them): then answers are found by their own words, and failing
        that only the last one is learned.
        """
        spans: list[Span] = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            asked = self.render(messages[:index], tools, add_generation_prompt=True)
            answered = text if index == len(messages) - 1 else self.render(messages[: index + 1], tools)
            if not (answered.startswith(asked) and text.startswith(answered)):
                return self._answers_by_words(messages, text, tools)
            spans.append((len(asked), _turn_end(answered, len(asked), message["content"])))
        return spans

    def _answers_by_words(self, messages: list[Message], text: str, tools: Tools) -> list[Span]:
        asked = self.render(messages[:-1], tools, add_generation_prompt=True)
        last = messages[-1]["content"].strip()
        found = text.rfind(last) if last else -1
        if found < 0:
            self.warn(
                "template_rewrites",
                "The chat template changes the text of answers, so that they cannot be told from the rest: "
                "the loss is taken on whole rows.",
            )
            return [(0, len(text))]
        end = _turn_end(text, found, last)
        turn_end = text[found + len(last) : end]
        spans: list[Span] = []
        position = 0
        for message in messages[:-1]:
            content = message["content"].strip()
            start = text.find(content, position) if content else -1
            if start < 0:
                spans = []
                break
            position = start + len(content)
            if message["role"] == "assistant":
                if text.startswith(turn_end, position):
                    position += len(turn_end)
                spans.append((start, position))
        if not spans:
            self.warn(
                "template_rewrites",
                "The chat template writes earlier turns anew: of each conversation only the last answer is learned.",
            )
        return [*spans, (len(asked) if text.startswith(asked) else found, end)]

    def _tokenise(self, text: str, spans: list[Span]) -> Tokens:
        """The template has written the special tokens of the text itself, so none are added."""
        if self.tokenizer.is_fast:
            encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            within = _within(spans)
            return Tokens(list(encoded["input_ids"]), [within(start, end) for start, end in encoded["offset_mapping"]])
        ids: list[int] = []
        learned: list[bool] = []
        for start, end, is_answer in _pieces(spans, len(text)):
            piece = self.tokenizer(text[start:end], add_special_tokens=False)["input_ids"]
            ids += piece
            learned += [is_answer] * len(piece)
        return Tokens(ids, learned)

    def _ended(self, tokens: Tokens) -> Tokens:
        """The end token behind the last answer, where the template writes no token there to stop at."""
        if self.turn_end_id(tokens) is not None:
            return tokens
        return Tokens([*tokens.ids, self.tokenizer.eos_token_id], [*tokens.learned, True])

    def stop_ids(self, known: int | list[int] | None) -> list[int]:
        """The tokens at which an answer ends: those the model knows, the tokenizer's, and the one that ends a turn."""
        stops = [known] if isinstance(known, int) else list(known or [])
        turns: list[Message] = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
        end = self.turn_end_id(self.tokens(Example(messages=turns)))
        stops += [token for token in (end, self.tokenizer.eos_token_id) if token is not None]
        return list(dict.fromkeys(stops))

    def turn_end_id(self, tokens: Tokens) -> int | None:
        """The special or added token with which the last answer ends."""
        last = max((index for index, is_learned in enumerate(tokens.learned) if is_learned), default=-1)
        tail = tokens.ids[max(0, last - 2) : last + 1]
        return next((token for token in tail if token in self.stops), None)


def template_knows_tools(template: object) -> bool:
    """Whether a chat template writes calls of tools: one that does not passes over them without a word."""
    return "tool_calls" in str(template)


def _turn_end(text: str, start: int, content: str) -> int:
    """The end of the turn whose answer begins at `start` and with which `text` ends, white space taken off.

    The white space is not learned: at inference the model has stopped before it.
    """
    end = len(text.rstrip())
    return max(end, start + len(content.rstrip()))


def _within(spans: list[Span]) -> Callable[[int, int], bool]:
    """Whether a token from `start` to `end` lies in one of the spans. To be asked in the order of the text."""
    rest = iter(spans)
    current = next(rest, None)

    def within(start: int, end: int) -> bool:
        nonlocal current
        while current is not None and start >= current[1]:
            current = next(rest, None)
        return current is not None and start >= current[0] and end > start

    return within


def _pieces(spans: list[Span], length: int) -> Iterator[tuple[int, int, bool]]:
    """The text cut at the spans: (start, end, whether it is an answer)."""
    position = 0
    for start, end in spans:
        if start > position:
            yield position, start, False
        yield start, end, True
        position = end
    if position < length:
        yield position, length, False


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the block after `seconds`. Only the main thread hears signals; others go without."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
