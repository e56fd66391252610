"""One plain sentence on how a train goes, with the number it rests on. Rules of thumb, said as such and in order."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from training.models import TrainRun

# Under half a percent of the loss two evaluations count as equal: noise of a few hundred rows.
LEVEL = 0.005
# Evaluation loss this far over its best, as a share, is memorising and no noise.
RISEN = 0.02
# Rewards are noisy: so many points before anything is said, and so much of their size as a change.
FEWEST_REWARDS = 6
REWARD_STEP = 0.03
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


def signed(number: float) -> str:
    return f"{'−' if number < 0 else '+'}{abs(number):.3f}"


def judgement_of(run: TrainRun) -> Judgement:
    objective = run.objective
    evaluations = [
        (step, float(values[objective.evaluation]))
        for step, values in run.metrics.filter(split="eval").order_by("seq").values_list("step", "values")
        if values.get(objective.evaluation) is not None
    ]
    losses = [(int(step), float(value)) for step, value in run.curve]
    # null and named `nonfinite` in the event, so that the latest value is None and not absent
    broken = "loss" in run.last_metrics and run.last_metrics["loss"] is None
    if objective.higher_is_better and not broken:
        return judge_rewards(losses, evaluations, same=run.last_metrics.get("frac_reward_zero_std"), ended=run.ended)
    return judge(losses, evaluations, broken=broken, ended=run.ended)


def judge(
    losses: list[tuple[int, float]], evaluations: list[tuple[int, float]], *, broken: bool = False, ended: bool = False
) -> Judgement:
    """`losses` and `evaluations` as (step, loss) in order; `broken` where the latest loss was not a number."""
    if broken:
        return Judgement(
            "bad", "The loss is not a number any more.", "A lower learning rate or a gradient clip usually helps."
        )
    if len(evaluations) >= 2:
        return _by_evaluations(losses, evaluations, ended)
    if len(losses) >= 6:
        return _by_losses(losses, bool(evaluations))
    if not losses:
        return Judgement("none", "Nothing to judge yet.", "" if ended else "The first steps are on their way.")
    return Judgement("none", "Too early to say.", f"{len(losses)} points so far.")


def judge_rewards(
    rewards: list[tuple[int, float]], evaluations: list[tuple[int, float]], *, same: float | None, ended: bool
) -> Judgement:
    """`rewards` and `evaluations` as (step, reward) in order; `same`: the share of prompts whose answers were all worth
    the same at the latest step."""
    if len(rewards) < FEWEST_REWARDS:
        text = "" if ended else f"{len(rewards)} points so far." if rewards else "The first answers are being written."
        return Judgement("none", "Too early to say." if rewards else "Nothing to judge yet.", text)
    if same is not None and same >= ALL_SAME:
        return Judgement(
            "warn",
            "Nothing is learned.",
            f"At the latest step {same:.0%} of prompts had answers that were all worth the same: the task may be too "
            "hard or too easy, or the temperature too low.",
        )
    third = max(2, len(rewards) // 3)
    begin = sum(value for _, value in rewards[:third]) / third
    end = sum(value for _, value in rewards[-third:]) / third
    spread = max(abs(value) for _, value in rewards) or 1.0
    beside = (
        f" On held-out prompts it went from {evaluations[0][1]:.2f} to {evaluations[-1][1]:.2f}."
        if (len(evaluations) > 1)
        else ""
    )
    if end > begin + REWARD_STEP * spread:
        return Judgement("good", "The reward rises.", f"It went from {begin:.2f} to {end:.2f}.{beside}")
    if end < begin - REWARD_STEP * spread:
        return Judgement(
            "warn",
            "The reward falls.",
            f"It went from {begin:.2f} to {end:.2f}: a lower learning rate may help.{beside}",
        )
    return Judgement("none", "The reward stands still.", f"It went from {begin:.2f} to {end:.2f}.{beside}")


def _by_evaluations(losses: list[tuple[int, float]], evaluations: list[tuple[int, float]], ended: bool) -> Judgement:
    first, (before, last) = evaluations[0][1], (evaluations[-2][1], evaluations[-1][1])
    best_step, best = min(evaluations, key=lambda point: point[1])
    change = last - before
    if last > best * (1 + RISEN):
        return Judgement(
            "warn",
            "It memorises." if losses and losses[-1][1] < best else "It got worse again.",
            f"Eval loss was lowest at step {best_step:,} ({best:.3f}) and is {last:.3f} now: "
            "fewer epochs or a lower learning rate would help.",
        )
    if last >= first * (1 - LEVEL):
        return Judgement(
            "warn",
            "It has not learned yet." if not ended else "It learned little.",
            f"Eval loss went from {first:.3f} to {last:.3f}: a higher learning rate or more epochs may help.",
        )
    if abs(change) <= LEVEL * before:
        return Judgement(
            "good",
            "It has levelled off.",
            f"Eval loss fell from {first:.3f} to {last:.3f} and hardly moved at the end ({signed(change)}).",
        )
    closing = " More epochs may still help." if ended else ""
    if change > 0:
        return Judgement(
            "none", "Hardly above its best.", f"Eval loss rose by {change:.3f} at the last evaluation; best {best:.3f}."
        )
    headline = "Looks healthy." if not ended else "Went well."
    return Judgement(
        "good",
        headline,
        f"Eval loss fell from {first:.3f} to {last:.3f}, and was still falling ({signed(change)} at the last "
        f"evaluation).{closing}",
    )


def _by_losses(losses: list[tuple[int, float]], measured: bool) -> Judgement:
    third = max(2, len(losses) // 3)
    begin = sum(loss for _, loss in losses[:third]) / third
    end = sum(loss for _, loss in losses[-third:]) / third
    beside = "" if measured else " Nothing is held out, so whether it memorises cannot be told."
    if end > begin * 1.1:
        return Judgement(
            "warn",
            "The loss rises.",
            f"It was {begin:.3f} over the first points and is {end:.3f} over the last: a lower learning rate may help.",
        )
    if end < begin * (1 - LEVEL):
        return Judgement("good", "It learns.", f"Train loss fell from {begin:.3f} to {end:.3f}.{beside}")
    return Judgement("none", "The loss stands still.", f"Train loss went from {begin:.3f} to {end:.3f}.{beside}")
