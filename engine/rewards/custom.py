"""Custom reward functions: a Python file with a function `reward`, registered by a superuser.

    def reward(prompts, completions, references, rows, **parameters):
        return [1.0 if "please" in text else 0.0 for text in completions]

prompts: one list of turns for each answer; completions, references: one text each; rows: the
dataset's rows. It returns one number for each answer, or None where it cannot score it."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.rewards.base import Answer, Unscored

if TYPE_CHECKING:
    from engine.contract.rundir import Resource

ARGUMENTS = ("prompts", "completions", "references", "rows")
LARGEST_BYTES = 200_000
# The time limit for all answers of a step.
SECONDS = 120.0


def check_source(text: str) -> list[str]:
    """What is wrong with the file, which is read but not run; an empty list where it can be
    registered."""
    if len(text.encode()) > LARGEST_BYTES:
        return [f"The file is larger than {LARGEST_BYTES // 1000} KB."]

    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        return [f"This is no Python{line}: {error.msg}."]
    except (ValueError, RecursionError) as error:
        return [f"This is no Python: {error}."]

    function = _reward_function(tree)
    if function is None:
        return ["There is no function named reward at the top of the file."]
    if isinstance(function, ast.AsyncFunctionDef):
        return ["The function reward must not be async."]

    positional = [*function.args.posonlyargs, *function.args.args]
    names = [argument.arg for argument in positional]
    problems = []

    if names[: len(ARGUMENTS)] != list(ARGUMENTS):
        problems.append(f"reward must take ({', '.join(ARGUMENTS)}, **parameters), in this order.")
    if function.args.kwarg is None:
        problems.append("reward must take **parameters, so that parameters may be added later.")

    return problems


def _reward_function(tree: ast.Module) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == "reward":
            return node

    return None


class CustomScorer:
    """The function of a file that has not changed since it was registered."""

    def __init__(self, slug: str, resource: Resource, parameters: dict[str, Any]) -> None:
        """Runs the file. Raises TrainError where it is gone, changed, or fails."""
        from engine.contract.rundir import file_sha256
        from engine.messages.failures import TrainError
        from engine.process.time_limit import time_limit

        path = Path(resource.path)
        if not path.is_file() or file_sha256(path) != resource.sha256:
            raise TrainError(
                "reward_changed",
                f"The file of the reward function {slug} is gone or has changed since the train "
                "was started.",
                "Copy the train, so that it takes the function as it is now.",
            )

        namespace: dict[str, Any] = {"__name__": f"reward_{slug}", "__file__": str(path)}
        try:
            # A superuser registered this file to be run; it is their code in this train's own
            # process.
            with time_limit(SECONDS):
                exec(compile(path.read_text(), str(path), "exec"), namespace)  # noqa: S102

            self.function: Callable[..., Any] = namespace["reward"]
        except (Exception, SystemExit) as error:
            raise TrainError(
                "reward_fails",
                f"The reward function {slug} cannot be loaded: {_short(error)}",
                "Ask your operator.",
            ) from error

        self.parameters = parameters

    def score_all(self, answers: Sequence[Answer]) -> list[float | Unscored]:
        """One score an answer, or why there is none."""
        from engine.process.time_limit import time_limit

        try:
            with time_limit(SECONDS):
                scores = self.function(
                    [answer.prompt for answer in answers],
                    [answer.text for answer in answers],
                    [answer.reference for answer in answers],
                    [answer.row for answer in answers],
                    **self.parameters,
                )
                # Here, since it may be a generator, which runs only now.
                values = list(scores)
        except TimeoutError:
            return [Unscored(f"It took longer than {SECONDS:g} s.")] * len(answers)
        except (Exception, SystemExit) as error:
            return [Unscored(f"It raised {_short(error)}.")] * len(answers)

        if len(values) != len(answers):
            reason = Unscored(f"It returned {len(values)} numbers for {len(answers)} answers.")
            return [reason] * len(answers)

        return [_number(value) for value in values]


def _number(value: Any) -> float | Unscored:
    if value is None:
        return Unscored("It returned None.")
    if not hasattr(value, "__float__"):
        return Unscored(f"It returned {type(value).__name__}, and a number is needed.")

    try:
        number = float(value)
    except Exception as error:
        return Unscored(f"It returned something that is no number ({_short(error)}).")

    if not math.isfinite(number):
        return Unscored(f"It returned {number}.")

    return number


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"
