"""A page of a dataset's rows as a model gets them: their tokens, with a mark on those that are
learned from.

    python -m engine.programs.token_rows --data FILE --file-type T --format F --column-map JSON --model DIR
        [--mark JSON] [--skip N] [--rows N]

prints one JSON line, {"done": {"rows": [...]}} or {"error": TEXT}. A row is {"line", "problem",
"findings": [code], "texts": [{"title", "tokens": [[text, learned, special]], "count", "learned"}]}.
Runs in a process of its own, whose caller limits its time and memory."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from engine.chat.render import Renderer, Tokens, tokenizer_load
from engine.chat.template import TemplateProblem
from engine.messages.failures import explain
from engine.rows.examples import Example, RowProblem, to_example
from engine.rows.read import FilePosition, Row, read_rows

ROWS = 5
# What a person reads, and a browser shows without effort.
TOKENS_SHOWN = 1200
TEXT_CHARACTERS = 120


def row_shown(
    renderer: Renderer, row: Row, format: str, column_map: dict[str, str]
) -> dict[str, Any]:
    """A row as it is printed."""
    shown: dict[str, Any] = {"line": row.line, "problem": "", "findings": [], "texts": []}
    try:
        if row.values is None:
            raise RowProblem("", row.raw, row.problem)

        example = to_example(row.values, format, column_map)
        texts = texts_of(renderer, example, format)
    except (RowProblem, TemplateProblem) as problem:
        return shown | {"problem": str(problem)}

    codes: set[str] = set()
    for title, tokens in texts:
        codes |= tokens.findings
        shown["texts"].append(text_shown(renderer, title, tokens))

    shown["findings"] = sorted(codes)
    return shown


def texts_of(renderer: Renderer, example: Example, format: str) -> list[tuple[str, Tokens]]:
    """(title, tokens) of every text of a row that is trained on. Methods that compare answers learn
    from the last answer alone."""
    turns = example.messages or []

    if example.chosen is not None:
        better = _answered(renderer, turns, example.chosen, example)
        worse = _answered(renderer, turns, example.rejected or [], example)
        return [("Better answer", better), ("Worse answer", worse)]

    if format == "kto":
        return [("", _answered(renderer, example.asked, turns[-1:], example))]

    return [("", renderer.tokens(example))]


def _answered(renderer: Renderer, turns: list[Any], answer: list[Any], example: Example) -> Tokens:
    """The tokens of prompt and answer, of which those of the answer are learned."""
    tokens = renderer.answer_tokens(turns, answer, example.tools)
    learned = [False] * len(tokens.prompt) + [True] * len(tokens.answer)
    return Tokens(tokens.prompt + tokens.answer, learned, tokens.findings)


def text_shown(renderer: Renderer, title: str, tokens: Tokens) -> dict[str, Any]:
    """A text as it is printed, with its first TOKENS_SHOWN tokens."""
    ids = tokens.ids[:TOKENS_SHOWN]
    texts = token_texts(renderer.tokenizer, ids)
    shown = []

    for token, text, is_learned in zip(ids, texts, tokens.learned, strict=False):
        is_special = token in renderer.stops
        shown.append([text[:TEXT_CHARACTERS], is_learned, is_special])

    return {
        "title": title,
        "tokens": shown,
        "count": len(tokens.ids),
        "learned": sum(tokens.learned),
    }


def token_texts(tokenizer: Any, ids: list[int]) -> list[str]:
    """The text that each token adds: "" for one that is only the beginning of a character."""
    if not tokenizer.is_fast:
        return [str(tokenizer.decode([token])) for token in ids]

    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(skip_special_tokens=False)
    return [stream.step(tokenizer.backend_tokenizer, token) or "" for token in ids]


def rows_from(
    path: Path, file_type: str, mark: FilePosition, skip: int, count: int
) -> Iterator[Row]:
    return islice(read_rows(path, file_type, mark), skip, skip + count)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m engine.programs.token_rows", description="Show rows as tokens."
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--file-type", required=True)
    parser.add_argument("--format", required=True)
    parser.add_argument("--column-map", type=json.loads, default={})
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--mark", type=json.loads, default=[])
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--rows", type=int, default=ROWS)
    options = parser.parse_args(arguments)

    try:
        renderer = Renderer(tokenizer_load(options.model), warn=lambda code, message: None)
        start = FilePosition(*options.mark)
        page = rows_from(options.data, options.file_type, start, options.skip, options.rows)
        rows = [row_shown(renderer, row, options.format, options.column_map) for row in page]
    except Exception as error:
        print(json.dumps({"error": explain(error).message}))
        return 1

    print(json.dumps({"done": {"rows": rows}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
