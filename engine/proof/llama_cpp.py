"""llama.cpp's answers about a GGUF file, in a process of its own: a file that it cannot read may end
its process.

    python -m engine.proof.llama_cpp

Reads one LlamaQuestions as JSON from standard input, and prints LlamaAnswers as the last line of
standard output."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from engine.loading.architecture import Refused
from engine.process.isolation import die_with_parent
from engine.run.hardware import thread_count

# More than any difference between two logits: the sampler takes the token that has it.
FORCED = 1e4
REASON_LINES = 3
# What llama.cpp and Python say where memory is short. That tells nothing of the file.
OUT_OF_MEMORY = re.compile(
    r"bad_alloc|MemoryError|insufficient memory|(?:failed|unable) to allocate|Cannot allocate memory"
)
# It stops itself by a signal where a file contradicts itself.
ASSERTION = "GGML_ASSERT"


class FileRefused(Refused):
    """llama.cpp does not load the file, by the fault of the file."""


@dataclass(frozen=True)
class LlamaQuestions:
    """file: the GGUF file. adapter: a GGUF adapter on it, "" for none. texts: to be made into
    tokens. conversations: (turns, whether the answer's beginning is added), to be rendered.
    prompts: to be answered greedily, with `new_tokens` at most. references: of each prompt, the
    tokens whose log-probabilities are wanted. ends: tokens that might end an answer. requests:
    conversations as text, to be made into tokens with the first one (BOS) where the file asks for
    it."""

    file: str
    adapter: str
    texts: list[str]
    conversations: list[tuple[list[dict[str, str]], bool]]
    prompts: list[list[int]]
    new_tokens: int
    references: list[list[int]]
    ends: list[int]
    requests: list[str] = field(default_factory=list)

    @property
    def context(self) -> int:
        """Tokens of the longest request, and a few more."""
        longest = max(map(len, self.prompts)) + max(map(len, self.references))
        return max(longest, max(map(len, self.prompts)) + self.new_tokens) + 16


@dataclass(frozen=True)
class LlamaAnswers:
    """tokens: of each text. rendered: tokens of each conversation, or why it cannot be rendered.
    answers: greedy, with the end token. ended: whether it came. log_probs: of each prompt's
    reference, None where llama.cpp does not tell. ends: those of the tokens asked
    for at which an answer ends. requested: tokens of each request."""

    tokens: list[list[int]] = field(default_factory=list)
    rendered: list[list[int] | str] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)
    log_probs: list[list[float | None]] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    requested: list[list[int]] = field(default_factory=list)


def llama_ask(questions: LlamaQuestions) -> LlamaAnswers:
    """Raises FileRefused where llama.cpp does not load the file, with what it says, and Refused
    where it was ended before it could tell."""
    process = subprocess.run(
        [sys.executable, "-m", "engine.proof.llama_cpp"],
        input=json.dumps(asdict(questions)),
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        preexec_fn=partial(die_with_parent, os.getpid(), signal.SIGKILL),
    )
    lines = process.stdout.splitlines()

    if process.returncode or not lines:
        raise _failure(process.returncode, process.stderr)

    return LlamaAnswers(**json.loads(lines[-1]))


def _failure(code: int, errors: str) -> Refused:
    """code: that the process ended with. errors: what it wrote."""
    if OUT_OF_MEMORY.search(errors):
        return Refused("llama.cpp ran out of memory. Try again when the server is less busy.")
    if code < 0 and ASSERTION not in errors:
        return Refused(
            f"llama.cpp was ended by signal {-code} ({signal.strsignal(-code)}), perhaps for lack of "
            "memory. Try again when the server is less busy."
        )

    said = [line.strip() for line in errors.splitlines() if line.strip()]
    return FileRefused(" ".join(said[-REASON_LINES:])[:400] or f"exit code {code}")


class Llama:
    """A running llama.cpp, with numbers of 32 bits wherever the file does not say otherwise."""

    def __init__(self, questions: LlamaQuestions) -> None:
        # Here, because it starts llama.cpp.
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = questions.file
        params.n_ctx = questions.context
        params.n_parallel = 1
        # Its threads wait for each other without sleeping: one processor too few, and each token
        # takes ten times as long.
        params.cpuparams.n_threads = max(1, thread_count() - 1)
        params.n_gpu_layers = 0
        params.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
        params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        # Else a longer prompt of a model with sliding windows is computed from its beginning.
        params.swa_full = True
        # An answer that is given is rendered, and not carried on.
        params.prefill_assistant = False
        params.warmup = False
        # Errors alone.
        params.verbosity = 1
        # The server listens on this machine, to whoever knows this.
        self.key = secrets.token_hex(16)
        params.port = 0
        params.api_keys = [self.key]
        if questions.adapter:
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(questions.adapter, 1.0)]

        self.server = xllamacpp.Server(params)
        # Whatever proxy the environment names, this stays on the machine.
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - the server above
            f"{self.server.listening_address}{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"},
        )
        with self.opener.open(request) as response:
            reply: dict[str, Any] = json.load(response)

        return reply

    def tokens(self, text: str, *, is_whole: bool) -> list[int]:
        """is_whole: whether the first token (BOS) is added where the file asks for it."""
        body = {"content": text, "add_special": is_whole, "parse_special": True}
        tokens: list[int] = self._post("/tokenize", body)["tokens"]
        return tokens

    def rendered(self, turns: list[dict[str, str]], generation_prompt: bool) -> list[int] | str:
        """A conversation's tokens, or why it cannot be rendered."""
        body = {"messages": turns, "add_generation_prompt": generation_prompt}
        try:
            return self.tokens(self._post("/apply-template", body)["prompt"], is_whole=True)
        except urllib.error.HTTPError as error:
            return " ".join(error.read().decode("utf-8", "replace").split())[:300]

    def _completed(self, prompt: list[int], count: int, forced: int | None = None) -> Any:
        request: dict[str, Any] = {
            "prompt": prompt,
            "n_predict": count,
            "temperature": 0,
            "cache_prompt": True,
            "return_tokens": True,
        }
        if forced is not None:
            # What is reported are the probabilities before this is added.
            request |= {"logit_bias": [[forced, FORCED]], "n_probs": 1}

        return self._post("/completion", request)

    def answer(self, prompt: list[int], count: int) -> tuple[list[int], bool]:
        """(a greedy answer, whether it came to its end)."""
        found = self._completed(prompt, count)
        return found["tokens"], found["stop_type"] == "eos"

    def log_probs(self, prompt: list[int], reference: list[int]) -> list[float | None]:
        """Of each token of the reference, natural logarithm; None for tokens that are a part of a
        character, about which llama.cpp's server does not tell. Only the last token is computed
        anew for each: the rest is in the cache."""
        found: list[float | None] = []
        for position, token in enumerate(reference):
            step = self._completed([*prompt, *reference[:position]], 1, forced=token)
            if step["tokens"] != [token]:
                raise RuntimeError("llama.cpp did not take the token that was forced.")

            probabilities = step.get("completion_probabilities") or [{"logprob": None}]
            found.append(probabilities[0]["logprob"])

        return found

    def is_end(self, prompt: list[int], token: int) -> bool:
        """Whether an answer ends at `token`."""
        return bool(self._completed(prompt, 2, forced=token)["stop_type"] == "eos")


def answers(questions: LlamaQuestions) -> LlamaAnswers:
    llama = Llama(questions)
    found = LlamaAnswers()
    found.tokens.extend(llama.tokens(text, is_whole=False) for text in questions.texts)
    found.requested.extend(llama.tokens(text, is_whole=True) for text in questions.requests)
    found.rendered.extend(llama.rendered(*given) for given in questions.conversations)
    found.ends.extend(
        token for token in questions.ends if llama.is_end(questions.prompts[0], token)
    )

    for prompt, reference in zip(questions.prompts, questions.references, strict=True):
        answer, ended = llama.answer(prompt, questions.new_tokens)
        found.answers.append(answer)
        found.ended.append(ended)
        if reference:
            found.log_probs.append(llama.log_probs(prompt, reference))

    return found


def main() -> None:
    questions = LlamaQuestions(**json.load(sys.stdin))
    print(json.dumps(asdict(answers(questions))), flush=True)
    # llama.cpp's own threads are not waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
