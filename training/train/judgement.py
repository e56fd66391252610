"""One plain sentence on how a train goes, with the number it is based on.

Rules of thumb, in order. Where there is not enough data there is no verdict, and the sentence says
what is missing."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from statistics import fmean, variance

from core.templatetags.display import change as change_text
from core.text import counted
from training.models import TrainRun

Status = TrainRun.Status
Points = list[tuple[int, float]]

# Fewer held-out rows say little about others: with 20, one row that is answered differently moves a
# share by 5 %.
FEWEST_HELD_OUT_ROWS = 20
FEWEST_EVALUATIONS = 2
FEWEST_POINTS = 6
# Under half a percent of the loss two evaluations count as equal: noise of a few hundred rows.
LEVEL = 0.005
# Evaluation loss this far over its best, as a share, means memorising and not noise.
RISEN = 0.02
# Rewards are noisy: a change counts from this share of their size on.
REWARD_STEP = 0.03
# A change under twice its standard error may be chance.
ERRORS = 2.0
# From this share on hardly any prompt has answers to tell apart.
ALL_SAME = 0.9


@dataclass(frozen=True)
class Judgement:
    """tone: good, warn, bad or none, which the page shows as an icon beside the words."""

    tone: str
    headline: str
    text: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def judgement_of(run: TrainRun) -> Judgement:
    objective = run.objective
    evaluations: Points = []
    rows = run.metrics.filter(split="eval").order_by("seq")

    for step, values in rows.values_list("step", "values"):
        value = values.get(objective.evaluation)
        if value is not None:
            evaluations.append((step, float(value)))

    points = [(int(step), float(value)) for step, value in run.curve]
    if not points and not evaluations:
        return nothing_yet(run)

    # A loss that is not a finite number is stored as None; one that was not logged is absent.
    broken = run.last_metrics.get("loss", 0.0) is None
    if objective.higher_is_better and not broken:
        same = run.last_metrics.get("frac_reward_zero_std")
        return judge_rewards(points, evaluations, same=same, status=run.status)

    held_out = run.facts.get("eval_rows")
    return judge(points, evaluations, held_out=held_out, broken=broken, status=run.status)


def nothing_yet(run: TrainRun) -> Judgement:
    if run.ended:
        return Judgement("none", "Nothing to judge.", "This train logged no step.")
    if run.first_started_at is None:
        return Judgement("none", "Nothing to judge yet.", "It has not started.")

    return Judgement("none", "Nothing to judge yet.", "It has not logged a step.")


def judge(
    losses: Points,
    evaluations: Points,
    *,
    held_out: int | None,
    broken: bool = False,
    status: str = Status.RUNNING,
) -> Judgement:
    """`losses` and `evaluations` as (step, loss) in order; `held_out`: rows that evaluations are
    measured on, None where that is not known; `broken` where the latest loss was not a number."""
    if broken:
        return Judgement(
            "bad",
            "The loss is not a number any more.",
            "A lower learning rate or a gradient clip usually helps.",
        )

    if len(evaluations) >= FEWEST_EVALUATIONS:
        if held_out is None or held_out < FEWEST_HELD_OUT_ROWS:
            return _too_few_rows(evaluations, held_out)

        return _by_evaluations(losses, evaluations, status)

    if len(losses) >= FEWEST_POINTS:
        return _by_losses(losses, is_measured=bool(evaluations))

    return _too_early(losses, status)


def judge_rewards(
    rewards: Points, evaluations: Points, *, same: float | None, status: str
) -> Judgement:
    """`rewards` and `evaluations` as (step, reward) in order; `same`: the share of prompts whose
    answers were all worth the same at the latest step."""
    if len(rewards) < FEWEST_POINTS:
        return _too_early(rewards, status)

    if same is not None and same >= ALL_SAME:
        return Judgement(
            "warn",
            "There is nothing to learn from.",
            f"At the latest step {same:.0%} of prompts had answers that were all worth the same: "
            "the task may be too hard or too easy, or the temperature too low.",
        )

    begin, end, error = _ends(rewards)
    largest = max(abs(value) for _, value in rewards) or 1.0
    text = f"It went from {begin:.2f} to {end:.2f}"
    held_out = ""

    if len(evaluations) > 1:
        first = evaluations[0][1]
        last = evaluations[-1][1]
        held_out = f" On held-out prompts it went from {first:.2f} to {last:.2f}."

    change = end - begin
    noise = max(REWARD_STEP * largest, ERRORS * error)

    if abs(change) <= noise:
        return Judgement(
            "none",
            "The reward has not changed clearly.",
            f"{text}, within its noise.{held_out}",
        )

    if change > 0:
        return Judgement("good", "The reward has risen.", f"{text}.{held_out}")

    return Judgement(
        "warn",
        "The reward has fallen.",
        f"{text}: a lower learning rate may help.{held_out}",
    )


def _too_early(points: Points, status: str) -> Judgement:
    steps = points[-1][0] if points else 0
    if status in TrainRun.ENDED:
        return Judgement("none", "Too short to judge.", f"It made {counted(steps, 'step')}.")

    return Judgement("none", "Too early to say.", f"{counted(steps, 'step')} so far.")


def _too_few_rows(evaluations: Points, held_out: int | None) -> Judgement:
    """What was measured, without a verdict."""
    first, last = evaluations[0][1], evaluations[-1][1]
    went = f"Eval loss went from {first:.3f} to {last:.3f}"

    if held_out is None:
        return Judgement("none", "No verdict.", f"{went}; on how many rows is not known.")

    rows = counted(held_out, "held-out row")
    return Judgement(
        "none",
        "Too few held-out rows for a verdict.",
        f"{went} on {rows}, which may be chance. A verdict needs at least {FEWEST_HELD_OUT_ROWS} "
        "rows.",
    )


def _by_evaluations(losses: Points, evaluations: Points, status: str) -> Judgement:
    first = evaluations[0][1]
    before = evaluations[-2][1]
    last = evaluations[-1][1]
    best_step, best = min(evaluations, key=lambda point: point[1])
    has_ended = status in TrainRun.ENDED
    change = last - before

    if best_step == 0 and last > best * (1 + RISEN):
        return Judgement(
            "warn",
            "It has only got worse." if has_ended else "It is getting worse.",
            f"Eval loss was {best:.3f} before the first step and is {last:.3f} now: a lower "
            "learning rate may help.",
        )

    if last > best * (1 + RISEN):
        return Judgement(
            "warn",
            "It memorised the examples."
            if losses and losses[-1][1] < best
            else "It got worse again.",
            f"Eval loss was lowest at step {best_step:,} ({best:.3f}) and is {last:.3f} now: "
            "fewer epochs or a lower learning rate would help.",
        )

    if last >= first * (1 - LEVEL):
        return Judgement(
            "warn",
            "It learned little." if has_ended else "It has not learned yet.",
            f"Eval loss went from {first:.3f} to {last:.3f}: a higher learning rate or more epochs "
            "may help.",
        )

    fell = f"Eval loss fell from {first:.3f} to {last:.3f}"
    if abs(change) <= LEVEL * before:
        return Judgement(
            "good",
            "It has levelled off.",
            f"{fell} and hardly moved at the end ({change_text(change, 3)}).",
        )

    if change > 0:
        return Judgement(
            "none",
            "Close to its best.",
            f"Eval loss rose by {change:.3f} at the last evaluation; best {best:.3f}.",
        )

    headlines = {
        Status.FINISHED: "Went well.",
        Status.STOPPED: "Was still learning.",
        Status.FAILED: "Was learning.",
    }

    closing = " More epochs may still help." if status == Status.FINISHED else ""
    return Judgement(
        "good",
        headlines.get(Status(status), "Looks healthy."),
        f"{fell}, and was still falling ({change_text(change, 3)} at the last "
        f"evaluation).{closing}",
    )


def _by_losses(losses: Points, *, is_measured: bool) -> Judgement:
    begin, end, error = _ends(losses)
    remark = (
        ""
        if is_measured
        else " No rows are held out, so there is no way to tell whether it memorises."
    )

    if abs(end - begin) <= max(LEVEL * abs(begin), ERRORS * error):
        return Judgement(
            "none",
            "The loss has not changed clearly.",
            f"Train loss went from {begin:.3f} to {end:.3f}, within its noise.{remark}",
        )

    if end > begin:
        return Judgement(
            "warn",
            "The loss has risen.",
            f"It was {begin:.3f} over the first points and is {end:.3f} over the last: a lower "
            "learning rate may help.",
        )

    return Judgement(
        "good",
        "The loss has fallen.",
        f"Train loss fell from {begin:.3f} to {end:.3f}.{remark}",
    )


def _ends(points: Points) -> tuple[float, float, float]:
    """Means of the first and of the last third, and the standard error of their difference.

    The error is estimated from the changes between neighbouring points, so that a steady fall
    within a third does not count as noise."""
    values = [value for _, value in points]
    third = max(2, len(values) // 3)
    steps = [after - before for before, after in itertools.pairwise(values)]
    noise = variance(steps) / 2 if len(steps) > 1 else 0.0

    first = fmean(values[:third])
    last = fmean(values[-third:])
    standard_error = (2 * noise / third) ** 0.5
    return first, last, standard_error
