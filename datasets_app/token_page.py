"""What a dataset's page shows of its rows as tokens."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

from core.errors import UserError
from core.tokenizers import tokenizers_for
from datasets_app.lengths import tokenizer_choose
from datasets_app.models import Dataset
from datasets_app.token_rows import token_rows, token_rows_kept

# Rows on a page of the preview, whichever way they are shown.
PREVIEW_ROWS = 5


@dataclass(frozen=True)
class TokenRun:
    """Tokens in a row that are all learned, or all not: (text, whether it is a special token)."""

    learned: bool
    tokens: list[tuple[str, bool]]


@dataclass(frozen=True)
class TokenText:
    """A text that is trained on. `hidden`: tokens behind those in `runs`."""

    title: str
    count: int
    learned: int
    hidden: int
    runs: list[TokenRun]


@dataclass(frozen=True)
class TokenRow:
    line: int
    problem: str
    findings: list[str]
    texts: list[TokenText]


def tokens_page(
    dataset: Dataset,
    reader: AbstractBaseUser | AnonymousUser,
    slug: str,
    number: int,
    *,
    render: bool,
) -> dict[str, Any]:
    """A page of rows: those rendered before, or, with `render`, rendered now, which takes seconds.

    token_state: none (there is no model), waiting (not rendered yet), error or ready.
    """
    chosen = tokenizer_choose(reader, slug) or tokenizer_choose(reader)
    context: dict[str, Any] = {
        "token_model": chosen,
        "token_models": tokenizers_for(reader),
        "token_page": number,
        "token_state": "none",
    }

    if chosen is None:
        return context

    start = (number - 1) * PREVIEW_ROWS
    if not render and token_rows_kept(dataset, chosen, start, PREVIEW_ROWS) is None:
        return context | {"token_state": "waiting"}

    try:
        rows = token_rows(dataset, chosen, start, PREVIEW_ROWS)
    except UserError as error:
        return context | {"token_state": "error", "token_error": error.message}

    return context | {"token_state": "ready", "token_rows": [_row(row) for row in rows]}


def _row(row: dict[str, Any]) -> TokenRow:
    texts = [_text(text) for text in row["texts"]]
    return TokenRow(row["line"], row["problem"], row["findings"], texts)


def _text(text: dict[str, Any]) -> TokenText:
    """`text`: as TokenTextSerializer has it; its tokens are [text, learned, special]."""
    runs = []
    for learned, group in groupby(text["tokens"], key=lambda token: bool(token[1])):
        tokens = [(_visible(str(token)), bool(special)) for token, _, special in group]
        runs.append(TokenRun(learned, tokens))

    return TokenText(
        title=text["title"],
        count=text["count"],
        learned=text["learned"],
        hidden=text["count"] - len(text["tokens"]),
        runs=runs,
    )


def _visible(text: str) -> str:
    """With a sign for each end of a line: some tokens are nothing else."""
    return text.replace("\n", "↵\n")
