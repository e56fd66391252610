"""Graders as rewards: string_check, text_similarity, score_model, and weighted sums of them (multi).

A grader's score may differ by a constant from the reward: GRPO compares answers to the same prompt
with one another, so that a constant changes nothing."""

from __future__ import annotations

import ast
import hashlib
import re
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from engine.rewards.base import Answer, Unscored
from engine.rewards.judge import MODEL, LlmJudge
from engine.rewards.parameters import RewardChoice
from engine.rewards.registry import CUSTOM_PREFIX
from engine.rewards.templates import OUTPUT_TEXT, template_problem
from methods.models import RewardFunction
from openai_api.errors import ApiProblem

GRADER = "grader"
MOST_GRADERS = 20
FORMULA_LIMIT = 2_000
INSTRUCTION_LIMIT = 20_000
LARGEST_NUMBER = 1e9
# What text_similarity can measure elsewhere, and why it cannot here.
METRICS_ELSEWHERE = {
    "cosine": "it needs a model of embeddings",
    "gleu": "use bleu",
    "meteor": "it needs a dictionary of English; use rouge_l",
}
ASK_FOR_SCORE = """

Reply with JSON only: {"score": number}.
Give 0 for the worst and 10 for the best answer, whatever scale is named above."""
_SAMPLE = re.compile(r"\{\{\s*sample\.output_text\s*\}\}")


@dataclass(frozen=True)
class Term:
    """A reward of a weighted sum. name: of its grader."""

    name: str
    choice: RewardChoice


@dataclass(frozen=True)
class Grading:
    """kind: type of the grader. constant: what the sum has besides its terms."""

    kind: str
    name: str
    terms: list[Term]
    constant: float = 0.0

    @property
    def rewards(self) -> list[dict[str, Any]]:
        """As the parameter `rewards` of a train has them."""
        return [term.choice.model_dump(mode="json") for term in self.terms]


def grading_of(grader: Any, *, param: str = GRADER) -> Grading:
    """Raises ApiProblem for a grader that is not understood or cannot be used here."""
    if not isinstance(grader, dict):
        raise ApiProblem("Give a grader.", param=param)

    name = _text(grader, "name", param, default="grader")
    if grader.get("type") == "multi":
        return _multi(grader, name, param)

    choice, constant = _single(grader, param)
    return Grading(str(grader["type"]), name, [Term(name, choice)], constant)


def _single(grader: dict[str, Any], param: str) -> tuple[RewardChoice, float]:
    """(the reward, the constant that its grader adds)."""
    match grader.get("type"):
        case "string_check":
            names = ("operation", "input", "reference")
            return _choice("string_check", grader, names, param), 0.0
        case "text_similarity":
            return _text_similarity(grader, param), 0.0
        case "score_model":
            return _score_model(grader, param)
        case "python":
            return _python(grader, param), 0.0
        case other:
            raise ApiProblem(
                f"There is no grader of the type {str(other)[:80]!r} here. There are: string_check, "
                "text_similarity, score_model, multi, and python for a registered function.",
                param=f"{param}.type",
            )


def _choice(
    function: str, grader: dict[str, Any], names: tuple[str, ...], param: str
) -> RewardChoice:
    values = {name: _text(grader, name, param) for name in names}
    try:
        return RewardChoice(function=function, parameters=values)
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"]
        raise ApiProblem(message, param=param) from error


def _text_similarity(grader: dict[str, Any], param: str) -> RewardChoice:
    metric = _text(grader, "evaluation_metric", param)
    if reason := METRICS_ELSEWHERE.get(metric):
        text = f"{metric} is not measured here: {reason}."
        raise ApiProblem(text, param=f"{param}.evaluation_metric")

    return _choice("text_similarity", grader, ("evaluation_metric", "input", "reference"), param)


def _score_model(grader: dict[str, Any], param: str) -> tuple[RewardChoice, float]:
    """The operator's judge, whatever model is asked for: people's trains run on models of this
    installation alone."""
    low, high = _range(grader, param)
    instruction = _instruction(grader.get("input"), f"{param}.input") + ASK_FOR_SCORE

    if obstacle := LlmJudge(instruction=instruction).obstacle():
        raise ApiProblem(f"score_model cannot be used: {obstacle}", param=param)

    choice = RewardChoice(
        function=LlmJudge.slug, weight=high - low, parameters={"instruction": instruction}
    )
    return choice, low


def _range(grader: dict[str, Any], param: str) -> tuple[float, float]:
    given = grader.get("range") or [0, 1]
    is_pair = isinstance(given, list) and len(given) == 2
    if not is_pair or not all(_is_number(bound) for bound in given):
        raise ApiProblem("Give two numbers.", param=f"{param}.range")

    low, high = given
    if not 0 < high - low <= 100:
        text = "The second number must be larger than the first one, by 100 at most."
        raise ApiProblem(text, param=f"{param}.range")

    return float(low), float(high)


def _is_number(value: Any) -> bool:
    """One that can be reckoned with: neither infinite nor NaN."""
    return type(value) in (int, float) and -LARGEST_NUMBER <= value <= LARGEST_NUMBER


def _instruction(messages: Any, param: str) -> str:
    """The judge's messages as one text, in which {answer} stands for the answer."""
    if not isinstance(messages, list) or not messages:
        raise ApiProblem("Give the messages to the model that scores.", param=param)

    texts = [_message_text(message, param) for message in messages]
    text = "\n\n".join(texts)
    if len(text) > INSTRUCTION_LIMIT:
        said = f"The messages have more than {INSTRUCTION_LIMIT:,} characters."
        raise ApiProblem(said, param=param)
    if problem := template_problem(text):
        raise ApiProblem(problem, param=param)

    instruction = _SAMPLE.sub("{answer}", text)
    if "{answer}" not in instruction:
        text = f"The messages must hold {{{{{OUTPUT_TEXT}}}}}, the answer to be scored."
        raise ApiProblem(text, param=param)

    return instruction


def _message_text(message: Any, param: str) -> str:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, dict):
        content = [content]

    if isinstance(content, list):
        parts = [part if isinstance(part, str) else _part_text(part) for part in content]
        content = "\n".join(parts) if all(part is not None for part in parts) else None  # type: ignore[arg-type]

    if not isinstance(content, str):
        raise ApiProblem("Only messages of text are understood.", param=param)

    return content


def _part_text(part: Any) -> str | None:
    text = part.get("text") if isinstance(part, dict) else None
    return text if isinstance(text, str) else None


def _python(grader: dict[str, Any], param: str) -> RewardChoice:
    """A function that a superuser has registered, by its source; code of a request is never run."""
    source = _text(grader, "source", param)
    digest = hashlib.sha256(source.encode()).hexdigest()
    functions = RewardFunction.objects.filter(retired_at=None)
    function = functions.filter(sha256=digest).first()
    if function is None:
        raise ApiProblem(
            "Code of a request is not run here. A superuser can register a reward function "
            "(docs/custom-reward.md); a python grader with exactly that source then means it.",
            param=param,
            code="python_grader_unavailable",
        )

    return RewardChoice(function=f"{CUSTOM_PREFIX}{function.slug}")


def _multi(grader: dict[str, Any], name: str, param: str) -> Grading:
    graders = grader.get("graders")
    if isinstance(graders, dict) and "type" in graders:
        graders = {_text(graders, "name", f"{param}.graders"): graders}
    if not isinstance(graders, dict) or not 0 < len(graders) <= MOST_GRADERS:
        text = f"Give 1 to {MOST_GRADERS} graders by their names."
        raise ApiProblem(text, param=f"{param}.graders")

    formula = _text(grader, "calculate_output", param)
    weights, constant = weighted_sum(formula, set(graders), f"{param}.calculate_output")
    terms = []

    for key, inner in graders.items():
        path = f"{param}.graders.{key}"
        if not isinstance(inner, dict) or inner.get("type") == "multi":
            raise ApiProblem("A grader inside of a multi grader is a single one.", param=path)

        weight = weights.get(key, 0.0)
        choice, offset = _single(inner, path)
        total = choice.weight * weight
        if abs(total) > 100:
            raise ApiProblem("Weights go from -100 to 100.", param=f"{param}.calculate_output")

        terms.append(Term(key, choice.model_copy(update={"weight": total})))
        constant += weight * offset

    return Grading("multi", name, terms, constant)


# What reading a formula can end with.
UNREADABLE = (
    ValueError,
    SyntaxError,
    RecursionError,
    MemoryError,
    ZeroDivisionError,
    OverflowError,
)


def weighted_sum(formula: str, names: set[str], param: str) -> tuple[dict[str, float], float]:
    """({name: weight}, constant) of a formula such as 0.7 * style + 0.3 * (facts + 1). Raises
    ApiProblem for any that is no weighted sum."""
    try:
        if len(formula) > FORMULA_LIMIT:
            raise ValueError("It is too long.")

        weights, constant = _linear(ast.parse(formula.strip(), mode="eval").body, names)
        if not all(_is_number(value) for value in (*weights.values(), constant)):
            raise ValueError("A number in it is too large.")

        return weights, constant
    except UNREADABLE as error:
        reason = str(error) if type(error) is ValueError else "It cannot be read."
        raise ApiProblem(
            f"Only a weighted sum of the graders can be a reward, such as 0.7 * a + 0.3 * b. {reason}",
            param=param,
        ) from error


Linear = tuple[dict[str, float], float]


def _linear(node: ast.expr, names: set[str]) -> Linear:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return {}, float(value)
        case ast.Name(id=name):
            if name not in names:
                raise ValueError(f"There is no grader {name[:80]!r}.")
            return {name: 1.0}, 0.0
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _scaled(_linear(operand, names), -1.0)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _linear(operand, names)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _added(_linear(left, names), _linear(right, names))
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _added(_linear(left, names), _scaled(_linear(right, names), -1.0))
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _multiplied(_linear(left, names), _linear(right, names))
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            weights, divisor = _linear(right, names)
            if weights:
                raise ValueError("It divides by a score.")
            return _scaled(_linear(left, names), 1 / divisor)
        case _:
            raise ValueError(f"It holds {ast.unparse(node)[:80]!r}.")


def _scaled(linear: Linear, factor: float) -> Linear:
    weights, constant = linear
    return {name: weight * factor for name, weight in weights.items()}, constant * factor


def _added(first: Linear, second: Linear) -> Linear:
    weights = dict(first[0])
    for name, weight in second[0].items():
        weights[name] = weights.get(name, 0.0) + weight

    return weights, first[1] + second[1]


def _multiplied(first: Linear, second: Linear) -> Linear:
    if first[0] and second[0]:
        raise ValueError("It multiplies scores with one another.")

    return _scaled(second, first[1]) if second[0] else _scaled(first, second[1])


def _text(grader: dict[str, Any], name: str, param: str, *, default: str = "") -> str:
    value = grader.get(name, default)
    if not isinstance(value, str) or not value or len(value) > 100_000:
        raise ApiProblem(f"Give {name} as a text.", param=f"{param}.{name}")

    return value


def grader_run(grader: Any, sample: Any, item: Any) -> dict[str, Any]:
    """What a grader says of one answer, as OpenAI's API has it. Raises ApiProblem."""
    grading = grading_of(grader)
    if not isinstance(sample, str):
        raise ApiProblem("Give the answer as a text.", param="model_sample")
    if item is not None and not isinstance(item, dict):
        raise ApiProblem("Give the row as an object.", param="item")

    answer = Answer([], sample, row=item or {})
    scores: dict[str, float] = {}
    problem = ""

    for term in grading.terms:
        scores[term.name] = 0.0
        try:
            scores[term.name] = _term_score(term, answer)
        except Unscored as reason:
            problem = f"{term.name}: {reason}"

    total = grading.constant
    total += sum(term.choice.weight * scores[term.name] for term in grading.terms)
    flags = (
        "formula_parse_error",
        "invalid_variable_error",
        "model_grader_parse_error",
        "model_grader_refusal_error",
        "model_grader_server_error",
        "python_grader_runtime_error",
        "python_grader_server_error",
        "sample_parse_error",
        "truncated_observation_error",
        "unresponsive_reward_error",
    )

    return {
        "reward": total if not problem else 0.0,
        "sub_rewards": scores if grading.kind == "multi" else {},
        "model_grader_token_usage_per_model": {},
        "metadata": {
            "name": grading.name,
            "type": grading.kind,
            "execution_time": 0.0,
            "scores": scores,
            "token_usage": None,
            "sampled_model_name": None,
            "errors": dict.fromkeys(flags, False)
            | {"other_error": bool(problem), "other_error_details": problem or None},
        },
    }


def _term_score(term: Term, answer: Answer) -> float:
    """Raises Unscored, and ApiProblem for what no page can wait for."""
    function = term.choice.function
    if function == LlmJudge.slug or function.startswith(CUSTOM_PREFIX):
        raise ApiProblem(
            "Graders that ask a model or run a function are tried on the page of a new train "
            f"(Try the rewards), with the judge that your operator has set ({MODEL}).",
            param=GRADER,
        )

    return term.choice.reward().score(answer)
