"""A language model as a judge, behind an endpoint that speaks OpenAI's chat API.

The operator sets address, key and model in the environment; none of them is ever written to a spec
or a log."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import requests
from pydantic import field_validator
from pydantic_core import PydanticCustomError

from engine.rewards.base import Answer, Reward, Unscored
from engine.rewards.templates import columns_of, template_fill
from engine.schema.fields import parameter

URL = "DEEPEXTENSION_JUDGE_URL"
KEY = "DEEPEXTENSION_JUDGE_KEY"
MODEL = "DEEPEXTENSION_JUDGE_MODEL"
PARALLEL_REQUESTS = 4
TRIES = 3
PAUSE_SECONDS = 0.5
ANSWER_CHARACTERS = 20_000
EITHER = re.compile(
    r"\{\{\s*((?:item|sample)[.\[][^{}]{1,300}?)\s*\}\}|\{(question|reference|answer)\}"
)

NUMBER = r"(-?\d+(?:\.\d+)?)(?![\d.]*[\deE])"
THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
# What a reply may look like, the clearest form first. A number within a sentence is not a score: "on
# a scale of 0 to 10".
SCORES = (
    re.compile(rf'"score"\s*:\s*"?\s*{NUMBER}'),
    re.compile(rf"{NUMBER}\s*(?:/|out of|of)\s*10\b"),
    re.compile(rf"\A\W*?(?:(?:score|rating)\b[^\w-]*)?{NUMBER}\W*\Z", re.IGNORECASE),
)

INSTRUCTION = """\
Rate how good the answer is, from 0 (useless or wrong) to 10 (perfect). Reply with JSON only: {"score": number}.

Question:
{question}

Reference answer, if any:
{reference}

Answer to rate:
{answer}"""


class LlmJudge(Reward):
    """A score from 0 to 10 by another language model, divided by 10."""

    slug: ClassVar[str] = "llm_judge"
    title: ClassVar[str] = "Judge"
    help: ClassVar[str] = "Another language model rates each answer. Your operator sets which one."

    instruction: str = parameter(
        INSTRUCTION,
        "Instruction",
        "{question}, {reference} and {answer} are put in, and columns of the row as {{item.column}}. "
        "It must ask for a score from 0 to 10.",
        group="Method",
        max_length=20_000,
        multiline=True,
    )
    timeout_seconds: float = parameter(
        30.0,
        "Time limit",
        "How long to wait for one rating.",
        group="Method",
        unit="s",
        ge=1,
        le=600,
    )

    @field_validator("instruction")
    @classmethod
    def check_instruction(cls, instruction: str) -> str:
        if "{answer}" not in instruction:
            raise PydanticCustomError(
                "rule", "{message}", {"message": "It must hold {answer}, the text to rate."}
            )

        return instruction

    def columns(self) -> set[str]:
        return columns_of(self.instruction)

    def obstacle(self) -> str:
        if not os.environ.get(URL) or not os.environ.get(MODEL):
            return f"No judge is set up here. Ask your operator to set {URL} and {MODEL}."

        return ""

    def score_all(self, answers: Sequence[Answer]) -> list[float | Unscored]:
        """One score an answer, or why there is none. Several are requested at once.

        Once all tries for one answer have failed, the answers that wait are not sent any more: each
        would take as long."""
        gave_up = threading.Event()
        with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
            return list(pool.map(lambda answer: self._score_or_reason(answer, gave_up), answers))

    def score(self, answer: Answer) -> float:
        (score,) = self.score_all([answer])
        if isinstance(score, Unscored):
            raise score

        return score

    def _score_or_reason(self, answer: Answer, gave_up: threading.Event) -> float | Unscored:
        if gave_up.is_set():
            return Unscored("The judge was out of reach for the answers before this one.")

        try:
            return self._ask(answer, gave_up)
        except Unscored as reason:
            return reason

    def _ask(self, answer: Answer, gave_up: threading.Event) -> float:
        question = "\n\n".join(
            turn["content"] for turn in answer.prompt if turn["role"] != "system"
        )
        parts = {
            "question": question,
            "reference": answer.reference or "(none)",
            "answer": answer.text,
        }

        # Not str.format: the instruction holds braces of its own, and so may an answer. Each place is
        # filled once, so that an answer cannot name another.
        text = EITHER.sub(lambda place: _filled(place, parts, answer), self.instruction)
        body: dict[str, Any] = {
            "model": os.environ.get(MODEL, ""),
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": 200,
        }

        reason = "The judge did not answer."

        for attempt in range(TRIES):
            if attempt:
                time.sleep(PAUSE_SECONDS * 2**attempt)

            try:
                return score_read(self._post(body))
            except requests.Timeout:
                reason = f"The judge took longer than {self.timeout_seconds:g} s."
            except requests.RequestException as error:
                status = error.response.status_code if error.response is not None else None
                if status is None:
                    reason = "The judge cannot be reached."
                    continue

                reason = f"The judge answered with status {status}."
                is_temporary = status >= 500 or status == 429
                if not is_temporary:
                    break

        gave_up.set()
        raise Unscored(reason)

    def _post(self, body: dict[str, Any]) -> str:
        url = os.environ.get(URL, "")
        if not url:
            raise Unscored("No judge is set up here.")

        key = os.environ.get(KEY, "")
        reply = requests.post(
            f"{url.rstrip('/')}/chat/completions",
            json=body,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=self.timeout_seconds,
            allow_redirects=False,
        )

        reply.raise_for_status()
        try:
            return str(reply.json()["choices"][0]["message"]["content"])
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise Unscored("The judge's reply is not one of a chat API.") from error


def _filled(place: re.Match[str], parts: dict[str, str], answer: Answer) -> str:
    if place[1] is None:
        return parts[place[2]][:ANSWER_CHARACTERS]

    return template_fill(place[0], answer)


def score_read(text: str) -> float:
    """The score of a reply, 0 to 1. Raises Unscored where it holds none from 0 to 10."""
    text = THOUGHT.sub("", text)
    for pattern in SCORES:
        matches = pattern.findall(text)
        if not matches:
            continue

        score = float(matches[-1])
        if not 0 <= score <= 10:
            raise Unscored(f"The judge gave {score:g}, and scores go from 0 to 10.")

        return score / 10

    raise Unscored(f"The judge gave no score: {text.strip()[:80]!r}")
