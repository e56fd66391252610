"""The first token and tokens a second of answers, beside llama.cpp's server alone and
`transformers serve`:

    python -m benchmarks.serving                our model server
    python -m benchmarks.serving --web          also a whole platform, through /v1

All answer the same prompts of about 200 tokens with the same base model, in turn, in one run, each
prompt new to every server. Then base and adapters of one model server in turn, and its memory with
three adapters beside that of the base alone."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch
from peft import LoraConfig, get_peft_model

from benchmarks.contenders import WORDS, smollm2
from benchmarks.environments import HOME, ROOT, versions
from benchmarks.start_latency import model_added
from engine.loading.pretrained import pretrained_load
from engine.run.hardware import processor_name
from engine.serving.order import LLAMA_CPP, Adapter, ServeOrder
from tests.live import free_port, running_platform

RESULT = ROOT / "benchmarks" / "results" / "serving.json"
# What `transformers serve` needs beside transformers, in a folder of its own.
SERVE_PACKAGES = ("fastapi==0.165.0", "uvicorn==0.54.0", "python-multipart==0.0.34")
PROMPT_WORDS = 150
ANSWER_TOKENS = 64
CONVERSATIONS = 4
CONTEXT = 2048
ADAPTERS = 3
START_SECONDS = 900

# llama.cpp's server with no more than it needs.
ALONE = """
import os, sys
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel = sys.argv[1], int(sys.argv[2]), 4
params.kv_unified, params.port, params.verbosity = True, 0, 1
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[3])
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
os._exit(0)
"""


@dataclass
class Contender:
    """A server. fields: what each request has besides. pid: of the process that computes, 0 where
    that is not known."""

    name: str
    url: str
    key: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    pid: int = 0


@dataclass
class Answer:
    """first: seconds to the first word. tokens: of the answer. seconds: from the first word to the
    last one."""

    first: float
    tokens: int
    seconds: float


def asked(contender: Contender, prompt: str, **fields: Any) -> Answer:
    """One streamed answer."""
    address = urllib.parse.urlparse(contender.url)
    connection = http.client.HTTPConnection(f"{address.hostname}:{address.port}", timeout=600)
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "stream": True,
    }
    headers = {"Content-Type": "application/json"}
    if contender.key:
        headers["Authorization"] = f"Bearer {contender.key}"

    began = time.perf_counter()
    path = f"{address.path}/v1/chat/completions"
    connection.request("POST", path, json.dumps(body | contender.fields | fields), headers)
    times = list(_words(connection.getresponse()))
    connection.close()

    return Answer(times[0] - began, len(times), times[-1] - times[0])


def _words(response: http.client.HTTPResponse) -> Iterator[float]:
    """When each event with a word in it came."""
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {response.read(2000)!r}")

    for line in response:
        if not line.startswith(b"data: {"):
            continue

        event = json.loads(line[6:])
        if "error" in event:
            raise RuntimeError(str(event["error"]))
        for choice in event.get("choices", []):
            if choice.get("delta", {}).get("content"):
                yield time.perf_counter()


def prompts(draw: random.Random) -> Iterator[str]:
    """Each of some 200 tokens, none with the beginning of another one."""
    while True:
        yield "Go on: " + " ".join(draw.choice(WORDS) for _ in range(PROMPT_WORDS))


def measure(contenders: list[Contender], rounds: int) -> dict[str, Any]:
    """{name of a contender: figures}, of rounds in which each has its turn."""
    draw = prompts(random.Random(1))
    firsts: dict[str, list[float]] = {each.name: [] for each in contenders}
    singles: dict[str, list[float]] = {each.name: [] for each in contenders}
    sums: dict[str, list[float]] = {each.name: [] for each in contenders}

    for contender in contenders:
        # It loads now, or has loaded.
        asked(contender, "Hello!")

    for _ in range(rounds):
        prompt = next(draw)
        together = [next(draw) for _ in range(CONVERSATIONS)]
        for contender in contenders:
            one = asked(contender, prompt)
            firsts[contender.name].append(one.first)
            singles[contender.name].append((one.tokens - 1) / one.seconds)
            sums[contender.name].append(at_once(contender, together))

    measured = {
        "first_token_seconds": firsts,
        "tokens_a_second": singles,
        "tokens_a_second_of_four": sums,
    }
    alone = contenders[0].name
    return {
        each.name: {
            figure: _rounded(values[each.name])
            | {"beside_alone": _ratio(values[each.name], values[alone])}
            for figure, values in measured.items()
        }
        for each in contenders
    }


def _ratio(values: list[float], others: list[float]) -> float:
    """The median of the rounds' ratios: what slows a machine down for a while slows both."""
    return round(statistics.median(a / b for a, b in zip(values, others, strict=True)), 2)


def at_once(contender: Contender, together: list[str]) -> float:
    """Tokens a second of all answers, prompts and waits included."""
    began = time.perf_counter()
    with ThreadPoolExecutor(len(together)) as threads:
        answers = list(threads.map(lambda prompt: asked(contender, prompt), together))

    return sum(answer.tokens for answer in answers) / (time.perf_counter() - began)


def _rounded(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }


def switches(server: Contender, extras: dict[str, Any], rounds: int) -> dict[str, Any]:
    """First tokens of the base, and of the base and an adapter in turn; each prompt is new."""
    draw = prompts(random.Random(2))
    base, adapter = extras[""], extras["adapter-0"]
    for fields in (base, adapter):
        asked(server, next(draw), **fields)

    same = [asked(server, next(draw), **base).first for _ in range(2 * rounds)]
    turns = [
        asked(server, next(draw), **fields).first
        for _ in range(rounds)
        for fields in (adapter, base)
    ]
    return {"base_alone": _rounded(same), "base_and_adapter_in_turn": _rounded(turns)}


def memory_mb(pid: int) -> float:
    """Its share of the pages that others have mapped too."""
    pss: int = psutil.Process(pid).memory_full_info().pss
    return round(pss / 2**20, 1)


# Servers


@contextmanager
def llama_cpp_alone(file: Path, threads: int) -> Iterator[Contender]:
    with subprocess.Popen(
        [sys.executable, "-c", ALONE, str(file), str(CONTEXT * CONVERSATIONS), str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield Contender("llama.cpp alone", process.stdout.readline().strip(), pid=process.pid)
        assert process.stdin is not None
        process.stdin.close()


@contextmanager
def model_server(order: ServeOrder, name: str) -> Iterator[tuple[Contender, dict[str, Any]]]:
    """(our model server, the fields of each adapter)."""
    with subprocess.Popen(
        [sys.executable, "-m", "engine.serving"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(asdict(order)) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            news = json.loads(line)
            if "ready" in news:
                break
            assert "error" not in news, news

        ready = news["ready"]
        extras: dict[str, Any] = ready["extras"]
        yield Contender(name, ready["url"], ready["key"], extras[""], process.pid), extras
        process.stdin.close()


@contextmanager
def transformers_serve(model: Path, threads: int) -> Iterator[Contender]:
    packages = HOME / "transformers-serve"
    if not packages.is_dir():
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "--target", str(packages), *SERVE_PACKAGES], check=True)

    port = free_port()
    command = [str(Path(sys.executable).with_name("transformers")), "serve", "--port", str(port)]
    environment = os.environ | {
        "PYTHONPATH": str(packages),
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
    }
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        _wait(port, process)
        url = f"http://127.0.0.1:{port}"
        yield Contender("transformers serve", url, fields={"model": str(model)}, pid=process.pid)
        process.terminate()


def _wait(port: int, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "transformers serve ended"
        try:
            http.client.HTTPConnection("127.0.0.1", port, timeout=5).connect()
            return
        except OSError:
            time.sleep(0.5)

    raise TimeoutError("transformers serve does not listen")


@contextmanager
def web(model: Path) -> Iterator[Contender]:
    """A whole platform: page server, gateway, model server."""
    with running_platform() as platform:
        slug = model_added(platform, model)
        yield Contender("ours, through /v1", platform.url, platform.token("alice"), {"model": slug})


# Models


def prepared(kind: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "engine.serving.prepare", kind, *arguments]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def adapters_made(model: Path, folder: Path) -> list[Adapter]:
    """LoRA adapters of rank 16 on all linear layers, of random numbers, as GGUF."""
    made = []
    for number in range(ADAPTERS):
        torch.manual_seed(number)
        config = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
        adapted: Any = get_peft_model(pretrained_load(model), config)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.01)

        adapted.save_pretrained(folder / f"peft-{number}")
        file = folder / f"adapter-{number}.gguf"
        prepared("adapter", str(folder / f"peft-{number}"), "--base", str(model), str(file))
        made.append(Adapter(f"adapter-{number}", str(file)))

    return made


def beside_others(model: Path, file: Path, options: argparse.Namespace) -> dict[str, Any]:
    order = ServeOrder(LLAMA_CPP, str(file), context=CONTEXT, threads=options.threads)
    with ExitStack() as stack:
        contenders = [stack.enter_context(llama_cpp_alone(file, options.threads))]
        contenders.append(stack.enter_context(model_server(order, "ours, model server"))[0])
        if options.web:
            contenders.append(stack.enter_context(web(model)))
        if not options.without_transformers:
            contenders.append(stack.enter_context(transformers_serve(model, options.threads)))

        found = measure(contenders, options.rounds)
        for contender in contenders:
            if contender.pid:
                found[contender.name]["memory_mb"] = memory_mb(contender.pid)

    return found


def with_adapters(
    file: Path, adapters: list[Adapter], options: argparse.Namespace
) -> dict[str, Any]:
    order = ServeOrder(LLAMA_CPP, str(file), adapters, CONTEXT, threads=options.threads)
    with model_server(order, "ours") as (server, extras):
        found = {"switches": switches(server, extras, options.rounds)}
        sizes = [Path(adapter.path).stat().st_size for adapter in adapters]
        found["memory"] = {
            "with_adapters_mb": memory_mb(server.pid),
            "adapters_mb": round(sum(sizes) / 2**20, 1),
        }

    with model_server(
        ServeOrder(LLAMA_CPP, str(file), [], CONTEXT, threads=options.threads), "ours"
    ) as (
        server,
        _,
    ):
        draw = prompts(random.Random(2))
        for _ in range(2 * options.rounds):
            asked(server, next(draw))
        found["memory"]["base_alone_mb"] = memory_mb(server.pid)

    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--web", action="store_true", help="a whole platform too")
    parser.add_argument("--without-transformers", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()

    model = smollm2()
    if model is None:
        print("There is no base model here: make setup adds one.")
        return 1

    found: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{processor_name()}, {os.cpu_count()} processors, {options.threads} threads",
        "load_before": round(os.getloadavg()[0], 1),
        "versions": versions(),
    }

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "base.gguf"
        prepared("base", str(model), str(file))
        found["answers"] = beside_others(model, file, options)
        found |= with_adapters(file, adapters_made(model, folder), options)

    print(json.dumps(found, indent=1))
    if options.write:
        RESULT.write_text(json.dumps(found, indent=1) + "\n")

    return 0


if __name__ == "__main__":
    sys.exit(main())
