"""The part of Go's text templates that our Modelfiles are written in, and what Ollama does with it.

    text                            as it stands
    {{ "text" }}                    text that could not stand alone
    {{ .System }}                   the system prompt, outside of `range`
    {{ .Content }}                  a turn's text, inside of it
    {{ $.System }}                  the system prompt, inside of it
    {{ if .System }} … {{ else }} … {{ end }}, and with $.System inside of `range`
    {{ range .Messages }} … {{ end }}
    {{ if eq .Role "user" }} … {{ else if eq .Role "assistant" }} … {{ end }}
    {{ $first := true }}, {{ $first = false }}, {{ if $first }} … {{ end }}

Nothing else is read: a template that holds more is none of ours."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

Message = dict[str, str]

ACTION = re.compile(r'\{\{((?:"(?:\\.|[^"\\])*"|[^"{}])*)\}\}')
LITERAL = re.compile(r'"((?:\\.|[^"\\])*)"')
ROLE_IS = re.compile(r'if eq \.Role "(\w+)"')
ESCAPE = re.compile(r"\\(?:u([0-9a-f]{4})|U([0-9a-f]{8})|(.))", re.DOTALL)
ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}
# {action: (kind, value)} and {action: kind}, outside of `range` and inside of it.
OUTSIDE = {".System": ("system", ""), "$first := true": ("set-first", "true")}
INSIDE = {
    ".Content": ("content", ""),
    "$.System": ("system", ""),
    "$first = false": ("set-first", ""),
}
OUTSIDE_BLOCKS = {"if .System": "if-system", "range .Messages": "range"}
INSIDE_BLOCKS = {"if $.System": "if-system", "if $first": "if-first"}
# What stands for something else: braces in Go's templates, three quotes in a Modelfile.
SPECIAL = re.compile(r'\{+|"{3,}|.', re.DOTALL)


class GoTemplateProblem(ValueError):
    """The template holds something that is none of the above."""


@dataclass
class Node:
    """kind: text, system, content, set-first, if-system, if-first, if-role or range. value: the
    text, the role, or what $first becomes. body, otherwise: of range and if."""

    kind: str
    value: str = ""
    body: list[Node] = field(default_factory=list)
    otherwise: list[Node] = field(default_factory=list)


def text_write(text: str) -> str:
    """A template that writes `text`. A Modelfile drops characters that cannot be printed, so they
    are spelled out, too."""
    parts: list[str] = []
    waiting = ""

    for part in SPECIAL.findall(text):
        if is_plain(part):
            if waiting:
                parts.append(f'{{{{ "{waiting}" }}}}')
                waiting = ""

            parts.append(part)
        else:
            waiting += "".join(map(_escape, part))

    if waiting:
        parts.append(f'{{{{ "{waiting}" }}}}')

    return "".join(parts)


def is_plain(part: str) -> bool:
    """Whether a Modelfile and a template both take `part` for what it is."""
    return '"""' not in part and "{" not in part and is_kept(part)


def is_kept(text: str) -> bool:
    """Whether a Modelfile keeps every character of `text`."""
    return all(letter in "\n\t" or letter.isprintable() for letter in text)


def _escape(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    if letter.isprintable():
        return letter

    code = ord(letter)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _unescape(match: re.Match[str]) -> str:
    code = match[1] or match[2]
    return chr(int(code, 16)) if code else ESCAPED.get(match[3], match[3])


def parse(template: str) -> list[Node]:
    """Raises GoTemplateProblem."""
    nodes, place, closing = _parse(template, 0, is_in_range=False)
    if closing:
        raise GoTemplateProblem(f"“{closing}” closes nothing.")

    assert place == len(template)
    return nodes


def _parse(template: str, place: int, *, is_in_range: bool) -> tuple[list[Node], int, str]:
    """The nodes from `place` to what closes them, the place behind that, and it: "end", "else",
    an "else if …", or "" for the end of the template."""
    nodes: list[Node] = []

    while place < len(template):
        match = ACTION.search(template, place)
        start = match.start() if match else len(template)
        text = template[place:start]
        if "{{" in text:
            raise GoTemplateProblem(f"This cannot be read: {text[text.index('{{') :][:60]}")
        if text:
            nodes.append(Node("text", text))
        if match is None:
            return nodes, len(template), ""

        place = match.end()
        action = match[1].strip()
        if action == "end" or action.startswith("else"):
            return nodes, place, action

        node, place = _node(template, place, action, is_in_range=is_in_range)
        nodes.append(node)

    return nodes, place, ""


def _node(template: str, place: int, action: str, *, is_in_range: bool) -> tuple[Node, int]:
    if literal := LITERAL.fullmatch(action):
        return Node("text", ESCAPE.sub(_unescape, literal[1])), place

    simple, block = (INSIDE, INSIDE_BLOCKS) if is_in_range else (OUTSIDE, OUTSIDE_BLOCKS)
    if action in simple:
        kind, value = simple[action]
        return Node(kind, value), place

    role = ROLE_IS.fullmatch(action)
    if role and is_in_range:
        node = Node("if-role", role[1])
    elif action in block:
        node = Node(block[action])
    else:
        raise GoTemplateProblem(f"“{action}” is not known here.")

    is_in_range = is_in_range or node.kind == "range"
    node.body, place, closing = _parse(template, place, is_in_range=is_in_range)
    if closing.startswith("else if"):
        other, place = _node(
            template, place, closing.removeprefix("else "), is_in_range=is_in_range
        )
        # One `end` closes both.
        node.otherwise = [other]
        return node, place

    if closing == "else":
        node.otherwise, place, closing = _parse(template, place, is_in_range=is_in_range)
    if closing != "end":
        raise GoTemplateProblem(f"“{action}” is not closed.")

    return node, place


def render(template: str, messages: list[Message]) -> str:
    """The prompt that Ollama makes of a conversation. Raises GoTemplateProblem."""
    system, collated = _collate(messages)
    return _Rendering(system, collated).write(parse(template), {})


def _collate(messages: list[Message]) -> tuple[str, list[Message]]:
    """As Ollama does it: all system prompts, and the turns, with those of one role in a row as
    one."""
    system = "\n\n".join(turn["content"] for turn in messages if turn["role"] == "system")
    collated: list[Message] = []

    for turn in messages:
        if collated and collated[-1]["role"] == turn["role"]:
            content = f"{collated[-1]['content']}\n\n{turn['content']}"
            collated[-1] = turn | {"content": content}
        else:
            collated.append(turn)

    return system, collated


class _Rendering:
    def __init__(self, system: str, messages: list[Message]) -> None:
        self.system = system
        self.messages = messages
        self.is_first = False

    def write(self, nodes: list[Node], turn: Message) -> str:
        """`turn`: the message that the loop is at, empty outside of it."""
        return "".join(self._write(node, turn) for node in nodes)

    def _write(self, node: Node, turn: Message) -> str:
        match node.kind:
            case "text":
                return node.value
            case "system":
                return self.system
            case "content":
                return turn["content"]
            case "set-first":
                self.is_first = bool(node.value)
                return ""
            case "range":
                return "".join(self.write(node.body, message) for message in self.messages)
            case "if-system":
                holds = bool(self.system)
            case "if-first":
                holds = self.is_first
            case _:
                holds = turn["role"] == node.value

        return self.write(node.body if holds else node.otherwise, turn)
