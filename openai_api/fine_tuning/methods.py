"""Methods and hyperparameters of OpenAI's API as methods and parameters of ours, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from core.errors import UserError
from methods.models import TrainingMethod
from methods.services import method_defaults, parameters_validate
from openai_api.errors import ApiProblem, problem_of
from openai_api.fine_tuning.graders import grading_of

METHODS = {"supervised": "lora", "dpo": "dpo", "reinforcement": "grpo"}
AUTO = "auto"
# Fields of requests that are hyperparameters of OpenAI's; others are parameters of ours.
USUAL = ("n_epochs", "batch_size", "learning_rate_multiplier")
REINFORCEMENT = ("compute_multiplier", "eval_interval", "eval_samples", "reasoning_effort")
# The fields of the API for parameters of ours, where a value is refused.
NAMES = {
    "epochs": "n_epochs",
    "learning_rate": "learning_rate_multiplier",
    "gradient_accumulation_steps": "batch_size",
    "num_generations": "compute_multiplier",
}
MOST_BATCH = 4096 * 4096


@dataclass(frozen=True)
class MethodChoice:
    """kind: "supervised", "dpo" or "reinforcement". parameters: of a train, as far as they are set.
    path: of the hyperparameters in the request, for errors."""

    kind: str
    method: TrainingMethod
    parameters: dict[str, Any]
    asked: dict[str, Any]
    path: str


def method_choice(body: dict[str, Any], *, device: str) -> MethodChoice:
    """What a request for a job asks for in `method`, or in `hyperparameters` as older programs do.
    Raises ApiProblem."""
    given = body.get("method")
    path = "hyperparameters"
    if given is None:
        given = {"type": "supervised", "supervised": {"hyperparameters": body.get(path) or {}}}
    else:
        path = f"method.{given.get('type') if isinstance(given, dict) else ''}.hyperparameters"

    kind = given.get("type") if isinstance(given, dict) else None
    if not isinstance(kind, str) or kind not in METHODS:
        known = ", ".join(METHODS)
        raise ApiProblem(f"There is no such method. The methods are: {known}.", param="method.type")

    options = given.get(kind) or {}
    if not isinstance(options, dict):
        raise ApiProblem("Give an object.", param=f"method.{kind}")

    # Older programs have the hyperparameters beside the method.
    hyperparameters = options.get("hyperparameters") or body.get("hyperparameters") or {}
    if not isinstance(hyperparameters, dict):
        raise ApiProblem("Give an object.", param=path)

    method = method_of(kind)
    parameters = parameters_of(kind, method, hyperparameters, device=device, path=path)
    if kind == "reinforcement":
        grading = grading_of(options.get("grader"), param="method.reinforcement.grader")
        parameters["rewards"] = grading.rewards

    _validate(method, parameters, hyperparameters, device=device, path=path)
    return MethodChoice(kind, method, parameters, {"type": kind, kind: options}, path)


def method_of(kind: str) -> TrainingMethod:
    """Raises ApiProblem where the operator no longer offers it."""
    method = TrainingMethod.objects.filter(slug=METHODS[kind], retired_at=None).first()
    if method is None:
        raise ApiProblem(f"{kind} is not offered on this platform.", param="method.type")

    return method


def _validate(
    method: TrainingMethod,
    parameters: dict[str, Any],
    asked: dict[str, Any],
    *,
    device: str,
    path: str,
) -> None:
    try:
        parameters_validate(method, parameters, device=device)
    except UserError as error:
        raise problem_of(error, params_of(parameters, asked, path)) from error


def params_of(parameters: dict[str, Any], asked: dict[str, Any], path: str) -> dict[str, str]:
    """{parameter of ours: where the request has it}, for errors."""
    names = {}
    for name in (*parameters, *NAMES):
        usual = NAMES.get(name, name)
        names[name] = f"{path}.{usual if usual in asked else name}"

    names["rewards"] = "method.reinforcement.grader"
    return names


def parameters_of(
    kind: str,
    method: TrainingMethod,
    hyperparameters: dict[str, Any],
    *,
    device: str,
    path: str,
) -> dict[str, Any]:
    """Parameters of a train. What OpenAI's API does not have passes as a parameter of the method.
    Raises ApiProblem."""
    given = {name: value for name, value in hyperparameters.items() if value not in (AUTO, None)}
    defaults = method_defaults(method, device=device)
    parameters = {
        name: value for name, value in given.items() if name not in (*USUAL, *REINFORCEMENT)
    }

    if "n_epochs" in given:
        parameters["epochs"] = _whole(given["n_epochs"], f"{path}.n_epochs", most=1000)

    if "learning_rate_multiplier" in given:
        where = f"{path}.learning_rate_multiplier"
        factor = _positive(given["learning_rate_multiplier"], where)
        parameters["learning_rate"] = defaults["learning_rate"] * factor

    if kind == "reinforcement":
        return parameters | _reinforcement(given, defaults, path)

    for name in REINFORCEMENT:
        if name in given:
            raise ApiProblem("Only reinforcement has this.", param=f"{path}.{name}")

    if "batch_size" in given:
        wanted = _whole(given["batch_size"], f"{path}.batch_size", most=MOST_BATCH)
        parameters |= _batch(wanted, most=defaults["batch_size"])

    return parameters


def _batch(rows: int, *, most: int) -> dict[str, int]:
    """`rows` a step, as many at once as the method has by default at most."""
    at_once = max(size for size in range(1, most + 1) if rows % size == 0)
    return {"batch_size": at_once, "gradient_accumulation_steps": rows // at_once}


def _reinforcement(given: dict[str, Any], defaults: dict[str, Any], path: str) -> dict[str, Any]:
    for name in ("eval_interval", "eval_samples"):
        if name in given:
            raise ApiProblem(
                f"Leave {name} on auto: how often and on how many held-out prompts is decided by "
                "evaluation_every and evaluation_split.",
                param=f"{path}.{name}",
            )

    if given.get("reasoning_effort", "default") != "default":
        text = "The models here have no levels of reasoning effort."
        raise ApiProblem(text, param=f"{path}.reasoning_effort")

    answers = defaults["num_generations"]
    if "compute_multiplier" in given:
        where = f"{path}.compute_multiplier"
        answers = round(answers * _positive(given["compute_multiplier"], where))
        if not 2 <= answers <= 128:
            text = f"This comes to {answers:,} answers to each prompt; 2 to 128 are possible."
            raise ApiProblem(text, param=where)

    if "compute_multiplier" not in given and "batch_size" not in given:
        return {}

    prompts = prompts_a_step(defaults)
    if "batch_size" in given:
        prompts = _whole(given["batch_size"], f"{path}.batch_size", most=4096)

    return {
        "num_generations": answers,
        "batch_size": answers,
        "gradient_accumulation_steps": prompts,
    }


def prompts_a_step(parameters: dict[str, Any]) -> int:
    """Of GRPO, which counts answers."""
    answers = parameters["batch_size"] * parameters["gradient_accumulation_steps"]
    return max(1, int(answers) // int(parameters["num_generations"]))


def _whole(value: Any, param: str, *, most: int) -> int:
    is_whole = type(value) is int or (type(value) is float and value.is_integer())
    if not is_whole or not 1 <= value <= most:
        raise ApiProblem(f"Give auto or a whole number from 1 to {most:,}.", param=param)

    return int(value)


def _positive(value: Any, param: str) -> float:
    if type(value) not in (int, float) or not 0 < value <= 1e6 or not math.isfinite(value):
        raise ApiProblem("Give auto or a number above 0.", param=param)

    return float(value)


def hyperparameters_resolved(
    kind: str, parameters: dict[str, Any], defaults: dict[str, Any]
) -> dict[str, Any]:
    """What the train does, as OpenAI's hyperparameters: no "auto" any more. parameters: every one
    of the train."""
    rate, usual_rate = parameters["learning_rate"], defaults["learning_rate"]
    resolved: dict[str, Any] = {
        "n_epochs": max(1, math.ceil(parameters.get("epochs") or 1)),
        "batch_size": parameters["batch_size"] * parameters["gradient_accumulation_steps"],
        "learning_rate_multiplier": round(rate / usual_rate, 6) if usual_rate else 1.0,
    }

    if kind == "dpo":
        resolved["beta"] = parameters["beta"]

    if kind == "reinforcement":
        resolved |= {
            "batch_size": prompts_a_step(parameters),
            "compute_multiplier": parameters["num_generations"] / defaults["num_generations"],
            "eval_interval": AUTO,
            "eval_samples": AUTO,
            "reasoning_effort": "default",
        }

    return resolved
