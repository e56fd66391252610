"""Conversations of real rows. Their answers are written by hand; a real model answers in
tests/browser and tests/serving."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from methods.services import methods_install
from models_app.models import BaseModel
from playground.models import Answer, Conversation, Turn
from playground.services import conversation_create, turn_add


@pytest.fixture(autouse=True)
def home(tmp_path, settings):
    """Numbers begin at 1 in every test, and so would the folders of models."""
    folder = tmp_path / "home"
    (folder / "tmp").mkdir(parents=True)
    settings.HOME = folder
    settings.FILE_UPLOAD_TEMP_DIR = folder / "tmp"
    settings.DISK_RESERVE_BYTES = 0


@pytest.fixture
def make_model(db) -> Callable[..., BaseModel]:
    methods_install()

    def make(name: str, **fields: Any) -> BaseModel:
        values = {
            "name": name,
            "slug": name.lower(),
            "source": "gguf",
            "reference": f"{name}.gguf",
            "status": "ready",
            "architecture": "LlamaForCausalLM",
            "shared": True,
        }
        model = BaseModel.objects.create(**values | fields)
        model.path.mkdir(parents=True)
        return model

    return make


@pytest.fixture
def two(make_model) -> list[str]:
    """Keys of two models that everybody may ask."""
    return [f"model-{make_model(name).pk}" for name in ("Base", "Tuned")]


@pytest.fixture
def make_conversation(alice, two) -> Callable[..., Conversation]:
    def make(**fields: Any) -> Conversation:
        values = {"owner": alice, "panes": [{"target": key} for key in two]}
        return conversation_create(**values | fields)

    return make


def ask(conversation: Conversation, text: str, *answers: str, replaces: int = 0) -> Turn:
    """A prompt, and what each pane answered, from the first pane to the last."""
    owner: Any = conversation.owner
    turn = turn_add(conversation=conversation, by=owner, text=text, replaces=replaces)
    for pane, words in enumerate(answers):
        Answer.objects.filter(turn=turn, pane=pane).update(
            text=words, state=Answer.State.DONE, tokens=len(words), rate=50.0
        )
    return fresh(turn)


def fresh(turn: Turn) -> Turn:
    conversation = Conversation.objects.with_related().get(pk=turn.conversation_id)
    found = next(item for item in conversation.turns.all() if item.pk == turn.pk)
    found.conversation = conversation
    return found


def answer_of(turn: Turn, pane: int) -> Answer:
    turn = fresh(turn)
    answer = next(item for item in turn.answers.all() if item.pane == pane)
    answer.turn = turn
    return answer
