"""How many tokens the rows of a dataset have under a model's chat template.

    python -m engine.chat.lengths --data FILE --file-type T --format F --column-map JSON --model DIR
    [--system-prompt TEXT]

reports, as core.programs reads it, {"done": {"rows": {tokens: rows}, "prompts": {tokens: rows},
"longest": [[tokens, line]], "notes": what the template does to the rows, as engine.chat.row_notes
has it}}, or {"error": text}. Prompts are counted up to the first token that is learned, 0 for plain
text."""

from __future__ import annotations

import argparse
import heapq
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from engine.chat.render import Renderer, tokenizer_load
from engine.chat.row_notes import RowNotes
from engine.chat.template import TemplateProblem
from engine.messages.failures import explain
from engine.rows.command_line import data_arguments_add
from engine.rows.examples import Example, example_or_none
from engine.rows.read import read_rows

LONGEST_KEPT = 10


def examples(
    path: Path, file_type: str, format: str, column_map: dict[str, str]
) -> Iterator[Example]:
    """The good rows in file order. Raises FileProblem."""
    return (example for _, example in examples_by_line(path, file_type, format, column_map))


def examples_by_line(
    path: Path, file_type: str, format: str, column_map: dict[str, str]
) -> Iterator[tuple[int, Example]]:
    """(line, example) of the good rows in file order. Raises FileProblem."""
    for row in good_rows(path, file_type, format, column_map):
        yield row.line, row.example


class GoodRow(NamedTuple):
    """A row that can be learned. number: of all rows of the file, from 0. line: as
    engine.rows.lines.Row has it. values: as they stand in the file."""

    number: int
    line: int
    example: Example
    values: dict[str, Any]


def good_rows(
    path: Path, file_type: str, format: str, column_map: dict[str, str]
) -> Iterator[GoodRow]:
    """In file order. Raises FileProblem."""
    for number, row in enumerate(read_rows(path, file_type)):
        if row.values is None:
            continue

        example = example_or_none(row.values, format, column_map)
        if example is not None:
            yield GoodRow(number, row.line, example, row.values)


def count(renderer: Renderer, rows: Iterable[tuple[int, Example]]) -> dict[str, Any]:
    """What the program reports under "done"."""
    lengths: Counter[int] = Counter()
    prompts: Counter[int] = Counter()
    longest_rows: list[tuple[int, int]] = []
    notes = RowNotes()

    for line, example in rows:
        try:
            rendered = [renderer.tokens(variant) for variant in variants(example)]
        except TemplateProblem as problem:
            notes.refuse(line, problem)
            continue

        codes: set[str] = set()
        for tokens in rendered:
            codes |= tokens.findings

        notes.see(line, codes)

        longest = max(rendered, key=lambda tokens: len(tokens.ids))
        length = len(longest.ids)
        lengths[length] += 1
        prompts[longest.prompt_length] += 1
        longest_rows = heapq.nlargest(LONGEST_KEPT, [*longest_rows, (length, line)])

    notes.settle()
    return {
        "rows": _by_length(lengths),
        "prompts": _by_length(prompts),
        "longest": longest_rows,
        "notes": notes.as_json(),
    }


def _by_length(counts: Counter[int]) -> dict[str, int]:
    return {str(tokens): counts[tokens] for tokens in sorted(counts)}


def variants(example: Example) -> list[Example]:
    """The conversations that are trained on for a row: two of a pair, each with its answer."""
    if example.chosen is None or example.rejected is None:
        return [example]

    turns = example.messages or []
    return [
        Example(messages=[*turns, *side], tools=example.tools)
        for side in (example.chosen, example.rejected)
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m engine.chat.lengths", description="Count the tokens of a dataset's rows."
    )
    data_arguments_add(parser)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--system-prompt", default="")
    options = parser.parse_args(arguments)

    try:
        renderer = Renderer(
            tokenizer_load(options.model),
            system_prompt=options.system_prompt,
            warn=lambda code, message: None,
        )

        rows = examples_by_line(options.data, options.file_type, options.format, options.column_map)
        counted = count(renderer, rows)
    except Exception as error:
        print(json.dumps({"error": explain(error).message}))
        return 1

    print(json.dumps({"done": counted}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
