"""The real client of OpenAI's against this platform: in this process, where no train runs, or over
HTTP against a running one."""

import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from django.contrib.auth.models import User
from django.core.wsgi import get_wsgi_application
from openai import OpenAI

from accounts.tokens import token_create
from core.store import datasets_folder, models_folder, openai_folder, runs_folder
from datasets_app.checking import dataset_check
from datasets_app.models import Dataset
from methods.services import methods_install
from models_app.models import BaseModel
from tests.live import Platform


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def chat_rows(count: int = 24) -> bytes:
    return lines(
        [
            {
                "messages": [
                    {"role": "user", "content": f"Question {number}?"},
                    {"role": "assistant", "content": "The answer is yes."},
                ]
            }
            for number in range(count)
        ]
    )


def pair_rows(count: int = 16) -> bytes:
    """As OpenAI's API has pairs."""
    return lines(
        [
            {
                "input": {
                    "messages": [{"role": "user", "content": f"Question {number}?"}],
                    "tools": [],
                    "parallel_tool_calls": True,
                },
                "preferred_output": [{"role": "assistant", "content": "The answer is yes."}],
                "non_preferred_output": [{"role": "assistant", "content": "No."}],
            }
            for number in range(count)
        ]
    )


def prompt_rows(count: int = 16) -> bytes:
    """Prompts with a column that graders name."""
    return lines(
        [
            {"messages": [{"role": "user", "content": f"Is {number} even?"}], "reference": "yes"}
            for number in range(count)
        ]
    )


@pytest.fixture
def no_files() -> Iterator[None]:
    """Rows go back with the transaction and their ids come again; files would stay."""
    folders = [datasets_folder(), openai_folder(), runs_folder()]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    yield
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def client_of(db, no_files) -> Callable[..., OpenAI]:
    """A client with a key of that person's, without a network."""

    def make(user: User, scope: str = "all") -> OpenAI:
        _, text = token_create(user=user, name="a program", scope=scope)
        transport = httpx2.WSGITransport(app=get_wsgi_application())
        return OpenAI(
            base_url="http://testserver/v1",
            api_key=text,
            max_retries=0,
            http_client=httpx2.Client(transport=transport),
        )

    return make


@pytest.fixture
def openai(client_of, alice) -> OpenAI:
    return client_of(alice)


@pytest.fixture
def tiny(db) -> Iterator[BaseModel]:
    """A base model that is there as far as a start looks."""
    methods_install()
    model = BaseModel.objects.create(
        name="Tiny", slug="tiny", source="gguf", reference="tiny.gguf", status="ready", shared=True
    )
    model.path.mkdir(parents=True, exist_ok=True)
    yield model
    shutil.rmtree(models_folder() / str(model.pk), ignore_errors=True)


@pytest.fixture
def checked() -> Callable[..., None]:
    """Run the checks that wait, as the background worker does."""

    def check() -> None:
        for pk in Dataset.objects.filter(status="checking").values_list("pk", flat=True):
            dataset_check(pk)

    return check


@pytest.fixture
def remote(platform: Platform) -> Callable[..., OpenAI]:
    """A client of a running platform."""

    def make(by: str = "alice") -> OpenAI:
        return OpenAI(base_url=f"{platform.url}/v1", api_key=platform.token(by), max_retries=2)

    return make
