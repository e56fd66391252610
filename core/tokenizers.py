"""The tokenizers that tokens can be counted with. The app of the models registers its own when it
loads, the app of the datasets asks for them: neither imports the other."""

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
    """Register a source of tokenizers; called once, when an app is ready."""
    _sources.append(source)


def tokenizers_for(user: AbstractBaseUser | AnonymousUser) -> list[Tokenizer]:
    """Every tokenizer that `user` may count with, the default one first."""
    tokenizers: list[Tokenizer] = []
    for source in _sources:
        tokenizers.extend(source(user))

    return tokenizers
