"""The comparisons of a proof: each has a name, a verdict, and its figures in a sentence for people.

The yardstick is rounding itself. A merge that is stored in sixteen bits cannot equal the trained
model in every digit; it can equal that model rounded once, and that is what is asked of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from engine.models.inspect import json_read
from engine.proof.evidence import LOAD, Evidence
from engine.proof.questions import Question
from engine.publish.tokenizer import PROBE

# Mean difference of log-probabilities, or of scores, that is none: sums in another order give as
# much.
NO_DIFFERENCE = 1e-4
CONVERSATION = [
    {"role": "user", "content": "Hello! How are you?"},
    {"role": "assistant", "content": "Fine, thank you."},
    {"role": "user", "content": "What is 2 + 2?"},
]


@dataclass(frozen=True)
class Check:
    name: str
    passed: bool
    detail: str


def loading_check(folder: Path, questions: list[Question], *, scores: bool) -> Check:
    """Whether transformers loads the folder as it stands, and computes finite numbers in the type
    that it is stored in."""
    name = "Loads in transformers"
    kind: Any = AutoModelForSequenceClassification if scores else AutoModelForCausalLM

    try:
        model, report = kind.from_pretrained(folder, dtype="auto", output_loading_info=True, **LOAD)
    except Exception as error:
        return Check(name, False, f"transformers refuses it: {_line(error)}")

    for problem, words in (
        ("missing_keys", "are missing"),
        ("mismatched_keys", "are of another size"),
    ):
        if report[problem]:
            first = sorted(map(str, report[problem]))[0]
            return Check(name, False, f"{len(report[problem])} weights {words}, such as {first}.")

    if report["unexpected_keys"]:
        first = sorted(report["unexpected_keys"])[0]
        return Check(
            name, False, f"The files hold weights that the model does not have, such as {first}."
        )

    broken = [
        key for key, weight in model.named_parameters() if not bool(torch.isfinite(weight).all())
    ]
    if broken:
        return Check(name, False, f"The weight {broken[0]} holds numbers that are not finite.")

    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([questions[0].prompt])).logits

    if not bool(torch.isfinite(logits).all()):
        return Check(
            name,
            False,
            f"Computed in {_type(model)}, its results are not finite. Choose bf16 or fp32.",
        )

    return Check(
        name,
        True,
        f"{sum(1 for _ in model.parameters()):,} weights of type {_type(model)}, none missing.",
    )


def _type(model: Any) -> str:
    return str(model.dtype).removeprefix("torch.")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def tokens_check(trained: Any, folder: Path) -> Check:
    """`trained`: the tokenizer that the train used."""
    name = "Same tokens"
    try:
        found = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        return Check(name, False, f"The tokenizer cannot be read: {_line(error)}")

    text = PROBE + "".join(str(token) for token in trained.added_tokens_decoder.values())
    if found(text)["input_ids"] != trained(text)["input_ids"] or len(found) != len(trained):
        return Check(
            name,
            False,
            "The tokenizer makes other tokens of a text than the one that was trained with.",
        )

    return Check(
        name,
        True,
        f"A text of many scripts gives the same {len(trained(text)['input_ids']):,} tokens.",
    )


def template_check(trained: Any, folder: Path) -> Check:
    """Whether a conversation is rendered to the same tokens, with and without the request for an
    answer."""
    name = "Same chat template"
    try:
        found = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        pairs = [
            (_rendered(tokenizer, turns, asks) for tokenizer in (trained, found))
            for turns, asks in ((CONVERSATION, True), (CONVERSATION[:2], False))
        ]
        equal = all(first == second for first, second in pairs)
    except Exception as error:
        return Check(name, False, f"The chat template cannot be rendered: {_line(error)}")

    if not equal:
        return Check(
            name, False, "The chat template writes a conversation otherwise than in training."
        )

    return Check(name, True, "A conversation becomes the same tokens as in training.")


def _rendered(tokenizer: Any, turns: list[dict[str, str]], asks: bool) -> list[int]:
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asks)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def ends_of(folder: Path) -> set[int]:
    """The end tokens that a program reads from a model folder: generation_config.json, config.json
    else."""
    for name in ("generation_config.json", "config.json"):
        if not (folder / name).is_file():
            continue

        known = json_read(folder / name).get("eos_token_id")
        if known is not None:
            return {known} if isinstance(known, int) else set(known)

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    known = config.get_text_config().eos_token_id
    return {known} if isinstance(known, int) else set(known or [])


def ends_check(wanted: set[int], folder: Path, tokenizer: Any) -> Check:
    """`wanted`: the tokens at which the trained model's answers end."""
    name = "End tokens"
    missing = wanted - ends_of(folder)
    if missing:
        words = ", ".join(tokenizer.convert_ids_to_tokens(sorted(missing)))
        return Check(
            name, False, f"Programs are not told that answers end with {words}: they would run on."
        )

    words = ", ".join(tokenizer.convert_ids_to_tokens(sorted(wanted))) or "none"
    return Check(name, True, f"Answers end with {words}, as in training.")


def answers_check(trained: Evidence, plain: Evidence, found: Evidence, kind: str) -> Check:
    """Greedy answers. `plain`: of the trained model, rounded once."""
    count = len(trained.answers)
    equal = _equal(trained, found)
    at_best = _equal(trained, plain)
    detail = f"{equal} of {count} greedy answers to {kind} are the trained model's, token for token"

    if at_best < count:
        detail += f"; rounding alone leaves {at_best}"

    first = sum(
        _begin_alike(left, right)
        for left, right in zip(trained.answers, found.answers, strict=True)
    )

    if equal < count:
        detail += f". {first} of {count} begin with the same token"

    return Check("Same answers", equal >= at_best and found.answers != [], f"{detail}.")


def _equal(left: Evidence, right: Evidence) -> int:
    return sum(one == other for one, other in zip(left.answers, right.answers, strict=True))


def _begin_alike(left: list[int], right: list[int]) -> bool:
    return left[:1] == right[:1]


def endings_check(trained: Evidence, plain: Evidence, found: Evidence) -> Check:
    """Whether answers come to their end as often as the trained model's."""
    wanted, at_best, ended = sum(trained.ended), sum(plain.ended), sum(found.ended)
    detail = (
        f"{ended} of {len(found.ended)} answers reach their end; {wanted} in the trained model."
    )
    return Check("Answers end", ended >= min(wanted, at_best), detail)


def probabilities_check(trained: Evidence, plain: Evidence, found: Evidence) -> Check:
    """Log-probabilities of the reference answers' tokens."""
    pairs = [_flat(evidence.log_probs) for evidence in (trained, plain, found)]
    return _near(
        "Same probabilities",
        *pairs,
        what="The log-probabilities of the reference answers",
        per="token",
    )


def scores_check(trained: Evidence, plain: Evidence, found: Evidence) -> Check:
    return _near(
        "Same scores", trained.scores, plain.scores, found.scores, what="The scores", per="text"
    )


def _near(
    name: str, trained: list[float], plain: list[float], found: list[float], *, what: str, per: str
) -> Check:
    rounding, difference = _mean_difference(trained, plain), _mean_difference(trained, found)
    detail = (
        f"{what} differ by {difference:.2g} per {per} on average; rounding alone makes "
        f"{rounding:.2g}."
    )
    return Check(name, difference <= 2 * rounding + NO_DIFFERENCE, detail)


def _mean_difference(left: list[float], right: list[float]) -> float:
    """Infinite where a number is not finite."""
    differences = [abs(one - other) for one, other in zip(left, right, strict=True)]
    mean = sum(differences) / max(1, len(differences))
    return mean if mean == mean else float("inf")


def _flat(rows: list[list[float]]) -> list[float]:
    return [value for row in rows for value in row]
