"""A model server: answers for one base model and its adapters, until standard input closes.

    python -m engine.serving < ORDER

engine/serving/order.py says what ORDER is and what is printed."""

from __future__ import annotations

import json
import os
import pkgutil
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TextIO

from engine.loading.architecture import Refused, reason
from engine.messages.failures import TrainError
from engine.models.inspect import ModelProblem
from engine.process.idle_priority import all_threads_use_idle_priority
from engine.process.isolation import confine, die_with_parent
from engine.process.waiting import threads_wait_asleep
from engine.serving.order import LLAMA_CPP, TRANSFORMERS, VLLM, Ready, ServeOrder, order_read

LOADING = "Loading the model"

# Names of functions that start to answer, imported when they are used: each loads its library.
STARTERS = {
    LLAMA_CPP: "engine.serving.llama_cpp:start",
    TRANSFORMERS: "engine.serving.transformers:start",
    VLLM: "engine.serving.vllm:start",
}


def main() -> None:
    die_with_parent(os.getppid(), signal.SIGKILL)
    # What it loads comes from strangers.
    confine()
    threads_wait_asleep()
    out = _standard_output_keep()
    order = order_read(sys.stdin.readline())

    def say(**message: Any) -> None:
        print(json.dumps(message), file=out, flush=True)

    say(phase=LOADING)
    try:
        start: Callable[[ServeOrder], Ready] = pkgutil.resolve_name(STARTERS[order.backend])
        ready = start(order)
        # Not before: loading takes a second of a processor, and would take many beside a train, for
        # which somebody waits.
        if order.idle_priority:
            all_threads_use_idle_priority()

        say(ready=asdict(ready))
    except (Refused, ModelProblem) as error:
        say(error=str(error))
        os._exit(1)
    except TrainError as error:
        say(error=f"{error.message} {error.advice}")
        os._exit(1)
    except (RuntimeError, OSError, ValueError, MemoryError) as error:
        say(error=f"{order.backend} cannot load this model: {reason(error)}")
        os._exit(1)

    sys.stdin.read()
    # Threads of libraries are not waited for.
    os._exit(0)


def _standard_output_keep() -> TextIO:
    """Standard output for our lines alone: what libraries print goes to standard error."""
    own = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return os.fdopen(own, "w", encoding="utf-8")


if __name__ == "__main__":
    main()
