"""Ollama's Modelfile: written, and read again as Ollama reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.exporting.go_template import is_kept

MODELFILE = "Modelfile"
# Ollama takes a value as closed where three quotes end a line.
COMMAND = re.compile(
    r'^(FROM|TEMPLATE|SYSTEM|LICENSE|PARAMETER)[ \t]+(?:"""(.*?)"""|([^\n]*?))[ \t]*$',
    re.DOTALL | re.MULTILINE,
)
CLOSED_INSIDE = re.compile(r'"""\s*(\n|$)')
WHOLE_NUMBERS = ("top_k", "num_ctx", "num_predict", "seed")


@dataclass(frozen=True)
class Modelfile:
    """model: the name of the GGUF file beside it. stops: texts at which an answer ends.
    parameters: Ollama's names with their values."""

    model: str
    template: str
    system: str = ""
    stops: tuple[str, ...] = ()
    parameters: dict[str, float] = field(default_factory=dict)
    licence: str = ""

    def text(self) -> str:
        """Raises ValueError for a text that a Modelfile cannot hold, see `is_writable`."""
        parts = [f"FROM ./{self.model}", _block("TEMPLATE", self.template)]
        if self.system:
            parts.append(_block("SYSTEM", self.system))

        lines = [f'PARAMETER stop "{stop}"' for stop in self.stops]
        lines += [f"PARAMETER {name} {value:g}" for name, value in self.parameters.items()]
        if lines:
            parts.append("\n".join(lines))
        if self.licence and is_writable(self.licence):
            parts.append(_block("LICENSE", self.licence))

        return "\n\n".join(parts) + "\n"

    def request(self) -> dict[str, Any]:
        """The same as fields of Ollama's request to create a model, without its files."""
        parameters: dict[str, Any] = dict(self.parameters)
        for name in WHOLE_NUMBERS:
            if name in parameters:
                parameters[name] = int(parameters[name])
        if self.stops:
            parameters["stop"] = list(self.stops)

        values: dict[str, Any] = {"template": self.template, "parameters": parameters}
        if self.system:
            values["system"] = self.system
        if self.licence:
            values["license"] = [self.licence]

        return values


def is_writable(text: str) -> bool:
    """Whether `text` can stand in a Modelfile: nothing in it is dropped, or closes it."""
    return is_kept(text) and not CLOSED_INSIDE.search(text)


def _block(command: str, text: str) -> str:
    if not is_writable(text):
        raise ValueError(f"{command} cannot stand in a Modelfile.")

    return f'{command} """{text}"""'


def modelfile_read(path: Path) -> Modelfile:
    """Raises ValueError for one that lacks FROM or TEMPLATE, and OSError."""
    values: dict[str, str] = {}
    stops: list[str] = []
    parameters: dict[str, float] = {}

    for command, block, line in COMMAND.findall(path.read_text(encoding="utf-8")):
        if command != "PARAMETER":
            values[command] = block or line
            continue

        name, _, value = line.partition(" ")
        if name == "stop":
            stops.append(value.strip()[1:-1])
        else:
            parameters[name] = float(value)

    if "FROM" not in values or "TEMPLATE" not in values:
        raise ValueError("The Modelfile lacks FROM or TEMPLATE.")

    return Modelfile(
        model=values["FROM"].removeprefix("./"),
        template=values["TEMPLATE"],
        system=values.get("SYSTEM", ""),
        stops=tuple(stops),
        parameters=parameters,
        licence=values.get("LICENSE", ""),
    )
