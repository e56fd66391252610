"""The comparisons of a proof: each has a name, a verdict, and its figures in a sentence for people.

What is allowed is rounding. A merge that is stored in sixteen bits cannot equal the trained model
in every digit; it can equal that model rounded once, and that is what is asked of it. So three
models are compared: `trained`, the model as it was trained; `rounded`, that one merged by peft and
rounded once; `stored`, the model in the folder."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from engine.loading.end_tokens import ends_of
from engine.loading.finite import is_finite
from engine.loading.pretrained import pretrained_load_with_report
from engine.proof.evidence import Evidence
from engine.proof.questions import Question
from engine.publish.tokenizer import PROBE

# Mean difference of log-probabilities, or of scores, that counts as none: the same sums in another
# order differ by as much.
NO_DIFFERENCE = 1e-4
CONVERSATION = [
    {"role": "user", "content": "Hello! How are you?"},
    {"role": "assistant", "content": "Fine, thank you."},
    {"role": "user", "content": "What is 2 + 2?"},
]
# (turns, whether the beginning of an answer is added).
CONVERSATIONS = ((CONVERSATION, True), (CONVERSATION[:2], False))
NO_TEMPLATE = "The model has no chat template."
# Whose answers are compared with: the model's as it was trained, or those of the model from which
# an export was made, where nobody knows the former.
TRAINED, OWN = "the trained model's", "this model's"


@dataclass(frozen=True)
class Check:
    name: str
    passed: bool
    detail: str


def loading_check(folder: Path, questions: list[Question], *, scores: bool) -> Check:
    """Whether transformers loads the folder as it stands, and computes finite numbers in the dtype
    that it is stored in."""
    name = "Loads in transformers"

    try:
        model, report = pretrained_load_with_report(folder, scores=scores, dtype="auto")
    except Exception as error:
        return Check(name, False, f"transformers refuses it: {_one_line(error)}")

    problem = _weights_problem(model, report)
    if problem:
        return Check(name, False, problem)

    ids = torch.tensor([questions[0].prompt])  # (1, tokens)
    with torch.no_grad():
        logits = model.eval()(input_ids=ids).logits

    dtype = str(model.dtype).removeprefix("torch.")
    if not is_finite(logits):
        return Check(
            name,
            False,
            f"Computed in {dtype}, its results are not finite. Choose bf16 or fp32.",
        )

    count = sum(1 for _ in model.parameters())
    return Check(name, True, f"{count:,} weights of type {dtype}, none missing.")


def _weights_problem(model: Any, report: dict[str, Any]) -> str:
    """What is wrong with the weights by transformers' loading report, "" where nothing is."""
    missing = sorted(report["missing_keys"])
    if missing:
        return f"{len(missing)} weights are missing, such as {missing[0]}."

    mismatched = sorted(map(str, report["mismatched_keys"]))
    if mismatched:
        return f"{len(mismatched)} weights are of another size, such as {mismatched[0]}."

    unexpected = sorted(report["unexpected_keys"])
    if unexpected:
        return f"The files hold weights that the model does not have, such as {unexpected[0]}."

    for weight_name, weight in model.named_parameters():
        if not is_finite(weight):
            return f"The weight {weight_name} holds numbers that are not finite."

    return ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def tokens_check(trained: Any, folder: Path) -> Check:
    """`trained`: the tokenizer that the train used."""
    name = "Same tokens"
    try:
        stored = _tokenizer_read(folder)
    except Exception as error:
        return Check(name, False, f"The tokenizer cannot be read: {_one_line(error)}")

    text = probe_text(trained)
    wanted = trained(text)["input_ids"]

    if stored(text)["input_ids"] != wanted or len(stored) != len(trained):
        return Check(
            name,
            False,
            "The tokenizer turns a text into other tokens than the one of the train does.",
        )

    return Check(name, True, f"A text of many scripts gives the same {len(wanted):,} tokens.")


def probe_text(tokenizer: Any) -> str:
    """A text of many scripts, with all tokens that were added to the vocabulary."""
    return PROBE + "".join(str(token) for token in tokenizer.added_tokens_decoder.values())


def template_check(trained: Any, folder: Path) -> Check:
    """Whether a conversation is rendered to the same tokens, with and without the generation
    prompt. `trained`: the tokenizer that the train used."""
    name = "Same chat template"
    try:
        stored = _tokenizer_read(folder)
        is_equal = True

        for turns, generation_prompt in CONVERSATIONS:
            wanted = conversation_tokens(trained, turns, generation_prompt)
            is_equal &= conversation_tokens(stored, turns, generation_prompt) == wanted
    except Exception as error:
        return Check(name, False, f"The chat template cannot be rendered: {_one_line(error)}")

    if not is_equal:
        return Check(
            name, False, "The chat template writes a conversation otherwise than in training."
        )

    return Check(name, True, "A conversation becomes the same tokens as before.")


def _tokenizer_read(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def conversation_tokens(
    tokenizer: Any, turns: list[dict[str, str]], generation_prompt: bool
) -> list[int]:
    text = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=generation_prompt
    )
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def ends_check(wanted: set[int], folder: Path, tokenizer: Any) -> Check:
    """`wanted`: the tokens at which the trained model's answers end."""
    name = "End tokens"
    missing = wanted - ends_of(folder)
    if missing:
        tokens = ", ".join(tokenizer.convert_ids_to_tokens(sorted(missing)))
        return Check(
            name, False, f"Programs are not told that answers end with {tokens}: they would run on."
        )

    tokens = ", ".join(tokenizer.convert_ids_to_tokens(sorted(wanted))) or "none"
    return Check(name, True, f"Answers end with {tokens}, as before.")


def answers_check(
    trained: Evidence,
    rounded: Evidence,
    stored: Evidence,
    kind: str,
    *,
    whose: str = TRAINED,
    by_chance: int = 0,
) -> Check:
    """Greedy answers. kind: of the questions, whose: `trained` is, for the sentence. by_chance: how
    many more may differ than by rounding, where the sums are made in another order."""
    count = len(trained.answers)
    equal = _equal_answers(trained, stored)
    equal_when_rounded = _equal_answers(trained, rounded)
    detail = f"{equal} of {count} greedy answers to {kind} are {whose}, token for token"

    if equal_when_rounded < count:
        detail += f"; rounding alone leaves {equal_when_rounded}"

    if equal < count:
        same_start = _equal_first_tokens(trained, stored)
        detail += f". {same_start} of {count} begin with the same token"

    passed = equal >= equal_when_rounded - by_chance and stored.answers != []
    return Check("Same answers", passed, f"{detail}.")


def _equal_answers(left: Evidence, right: Evidence) -> int:
    return sum(one == other for one, other in zip(left.answers, right.answers, strict=True))


def _equal_first_tokens(left: Evidence, right: Evidence) -> int:
    pairs = zip(left.answers, right.answers, strict=True)
    return sum(one[:1] == other[:1] for one, other in pairs)


def first_tokens_check(
    trained: Evidence,
    rounded_firsts: list[int],
    stored: Evidence,
    kind: str,
    *,
    whose: str,
    by_chance: int,
) -> Check:
    """With which token greedy answers begin, where weights of few bits let no answer stay as it
    was. rounded_firsts: after rounding alone. kind, whose, by_chance: as of answers_check."""
    wanted = [answer[0] if answer else -1 for answer in trained.answers]
    firsts = [answer[0] if answer else -1 for answer in stored.answers]
    equal = sum(map(operator.eq, firsts, wanted))
    equal_when_rounded = sum(map(operator.eq, rounded_firsts, wanted))
    detail = (
        f"{equal} of {len(wanted)} greedy answers to {kind} begin with {whose} token; "
        f"rounding alone leaves {equal_when_rounded}. {_equal_answers(trained, stored)} are equal, "
        "token for token."
    )

    passed = equal >= equal_when_rounded - by_chance and stored.answers != []
    return Check("Same answers", passed, detail)


def endings_check(
    trained: Evidence,
    rounded: Evidence,
    stored: Evidence,
    *,
    whose: str = TRAINED,
    by_chance: int = 0,
) -> Check:
    """Whether answers reach their end token as often as the trained model's. whose, by_chance: as
    of answers_check."""
    wanted = min(sum(trained.ended), sum(rounded.ended)) - by_chance
    ended = sum(stored.ended)
    detail = (
        f"{ended} of {len(stored.ended)} answers reach their end, and {sum(trained.ended)} of "
        f"{whose}."
    )

    return Check("Answers end", ended >= wanted, detail)


def probabilities_check(
    trained: Evidence, rounded: Evidence, stored: Evidence, *, allowed: float = NO_DIFFERENCE
) -> Check:
    """Log-probabilities of the reference answers' tokens. allowed: the mean difference that counts
    as none."""
    return _closeness_check(
        "Same probabilities",
        _flat(trained.log_probs),
        _flat(rounded.log_probs),
        _flat(stored.log_probs),
        what="The log-probabilities of the reference answers",
        per="token",
        allowed=allowed,
    )


def scores_check(trained: Evidence, rounded: Evidence, stored: Evidence) -> Check:
    return _closeness_check(
        "Same scores",
        trained.scores,
        rounded.scores,
        stored.scores,
        what="The scores",
        per="text",
    )


def _closeness_check(
    name: str,
    trained: list[float],
    rounded: list[float],
    stored: list[float],
    *,
    what: str,
    per: str,
    allowed: float = NO_DIFFERENCE,
) -> Check:
    """Whether `stored` is at most twice as far from `trained` as rounding is, and `allowed`."""
    rounding = _mean_difference(trained, rounded)
    difference = _mean_difference(trained, stored)
    detail = (
        f"{what} differ by {difference:.2g} per {per} on average; rounding alone makes "
        f"{rounding:.2g}."
    )

    return Check(name, difference <= 2 * rounding + allowed, detail)


def _mean_difference(left: list[float], right: list[float]) -> float:
    """The mean absolute difference; infinite where a number is not finite."""
    differences = [abs(one - other) for one, other in zip(left, right, strict=True)]
    mean = sum(differences) / max(1, len(differences))
    return float("inf") if math.isnan(mean) else mean


def _flat(rows: list[list[float]]) -> list[float]:
    return [value for row in rows for value in row]
