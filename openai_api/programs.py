"""The page "For programs": where /v1 is, examples with the reader's own model, and what was called in
the last hour."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.decorators import method_decorator
from django.views import View

from accounts.tokens import tokens_of
from core.parts import page_or_part, wants_part
from core.requests import reader_of
from openai_api.identifiers import models_listed
from openai_api.inference.calls import calls_of

CALLS_SHOWN = 30
NO_MODEL = "the-name-of-a-model"
QUESTION = "Say hello."


@dataclass(frozen=True)
class Example:
    """install: what has to be there first, as a command."""

    name: str
    title: str
    code: str
    install: str = ""


@method_decorator(page_or_part, name="dispatch")
class ProgramsPage(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        reader = reader_of(request)
        if wants_part(request):
            return render(request, "programs/_calls.html", calls_context(request, reader))

        model = newest_model(reader)
        base = request.build_absolute_uri("/v1")
        context = calls_context(request, reader) | {
            "base": base,
            "model": model,
            "examples": examples(base, model or NO_MODEL),
            "keys": tokens_of(reader).count(),
        }

        return render(request, "programs/page.html", context)


def calls_context(request: HttpRequest, reader: User) -> dict[str, Any]:
    calls = calls_of(reader)
    return {"calls": calls[:CALLS_SHOWN], "count": calls.count(), "here": request.path}


def newest_model(reader: User) -> str:
    """The name of the model that this person most likely wants to call: the newest of their own,
    trained before others; "" where there is none at all."""
    username = reader.get_username()
    newest = max(
        models_listed(reader),
        key=lambda model: (
            model.owner == username,
            model.name.startswith("ft:"),
            model.created,
        ),
        default=None,
    )
    return newest.name if newest is not None else ""


def examples(base: str, model: str) -> list[Example]:
    """The same question in each language."""
    message = {"role": "user", "content": QUESTION}
    body = json.dumps({"model": model, "messages": [message]})

    return [
        Example(
            "python",
            "Python",
            PYTHON.format(base=json.dumps(base), model=json.dumps(model), question=QUESTION),
            "pip install openai",
        ),
        Example(
            "typescript",
            "TypeScript",
            TYPESCRIPT.format(base=json.dumps(base), model=json.dumps(model), question=QUESTION),
            "npm install openai",
        ),
        Example("curl", "curl", CURL.format(base=base, body=body.replace("'", "'\\''"))),
    ]


PYTHON = """\
from openai import OpenAI

client = OpenAI(
    base_url={base},
    api_key="YOUR_KEY",
)
stream = client.chat.completions.create(
    model={model},
    messages=[
        {{"role": "user", "content": "{question}"}},
    ],
    stream=True,
)
for chunk in stream:
    text = chunk.choices[0].delta.content
    print(text or "", end="", flush=True)
"""
CURL = """\
curl {base}/chat/completions \\
  -H "Authorization: Bearer YOUR_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{body}'
"""
TYPESCRIPT = """\
import OpenAI from "openai";

const client = new OpenAI({{
  baseURL: {base},
  apiKey: "YOUR_KEY",
}});
const stream = await client.chat.completions.create({{
  model: {model},
  messages: [
    {{ role: "user", content: "{question}" }},
  ],
  stream: true,
}});
for await (const chunk of stream) {{
  const text = chunk.choices[0]?.delta?.content;
  process.stdout.write(text ?? "");
}}
"""
