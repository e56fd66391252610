"""Which tokenizers token counts can be made with. The app of the models says so when it loads, the
app of the datasets asks: neither imports the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser


@dataclass(frozen=True)
class Tokenizer:
    """A model's folder, and the sha256 over its tokenizer's files: models with the same one share
    their counts."""

    slug: str
    name: str
    sha256: str
    path: str


Source = Callable[[AbstractBaseUser | AnonymousUser], list[Tokenizer]]
_sources: list[Source] = []


def tokenizers_offer(source: Source) -> None:
    """Called once, when an app is ready."""
    _sources.append(source)


def tokenizers_for(user: AbstractBaseUser | AnonymousUser) -> list[Tokenizer]:
    """Every tokenizer that `user` may count with, the one to begin with first."""
    return [tokenizer for source in _sources for tokenizer in source(user)]
