"""Rules that watch a train while it runs and say what goes wrong, in words a person can act on.

Each rule looks at the metrics as they are logged. The thresholds are a matter of judgement; where
they come from stands beside them, and docs/health.md lists them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from statistics import fmean, median

from engine.schema.registry import Objective


@dataclass(frozen=True)
class Trouble:
    """Something that goes wrong in a train. `serious`: training on makes it worse; such a train is
    ended where that was asked for."""

    code: str
    message: str
    advice: str
    serious: bool = False


@dataclass(frozen=True)
class Thresholds:
    window: int = 20
    """Logged steps that count as recent; fewer are noise at batch sizes of 1 to 8."""
    spike: float = 3.0
    """Loss over its recent median. PaLM (2022, section 5.1) skipped batches at spikes; ordinary noise
    stays under 2."""
    flat: float = 0.002
    """Share by which the loss has to differ between the first and the latest window, once a third of
    the steps is done."""
    overfit: float = 0.05
    """Share by which the evaluation loss lies over its best, at three evaluations in a row."""
    gradient: float = 10.0
    """Gradient norm over its recent median; clipping at 1 hides it from the weights, not from Adam's
    second moment."""
    gradient_floor: float = 10.0
    """A norm under ten times the usual clip of 1 is never called an explosion."""
    zero_spread: float = 0.8
    """Share of groups whose answers all got the same reward: they have no advantage (DAPO, 2025,
    section 3.2). Over half a window; over a quarter where it is every group."""
    kl: float = 1.0
    """Mean KL divergence from the reference model, in nats a token. Healthy trains stay under 0.1
    (TRL's documentation of PPO calls 10 to 20 an answer healthy)."""
    entropy: float = 0.2
    """Entropy as a share of its first window: the policy has stopped exploring (DAPO, 2025, section
    3.1)."""


def thresholds_read(values: dict[str, float]) -> Thresholds:
    """The default thresholds with `values` in their place. Raises ValueError for one of an unknown
    name or not over 0."""
    known = {item.name for item in fields(Thresholds)}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{name} is none of {', '.join(sorted(known))}.")
        if not 0 < value < math.inf or (name == "window" and value < 4):
            raise ValueError(f"{name} cannot be {value:g}.")

    thresholds = replace(Thresholds(), **values)  # type: ignore[arg-type]
    return replace(thresholds, window=int(thresholds.window))


class Health:
    """Gets the metrics of each logged step and evaluation, and yields each trouble once."""

    def __init__(
        self,
        objective: Objective,
        *,
        total_steps: int,
        from_rewards: bool,
        thresholds: Thresholds | None = None,
    ) -> None:
        self.objective = objective
        self.total_steps = total_steps
        self.from_rewards = from_rewards
        self.limits = thresholds or Thresholds()
        self.first: dict[str, list[float]] = {}
        self.recent: dict[str, deque[float]] = {}
        self.best = math.nan
        self.worse_in_a_row = 0
        self.reported: set[str] = set()

    def train(self, step: int, values: dict[str, float]) -> Iterator[Trouble]:
        """One logged training step: metrics under TRL's own names."""
        rules: list[Callable[[int, dict[str, float]], Trouble | None]] = [self._gradient]

        if self.from_rewards:
            rules += [self._zero_spread, self._kl, self._entropy]
        else:
            rules += [self._spike, self._flat]

        troubles = [rule(step, values) for rule in rules]
        self._remember(values)

        for trouble in troubles:
            if trouble is not None and self._is_new(trouble):
                yield trouble

    def evaluation(self, values: dict[str, float]) -> Iterator[Trouble]:
        """One evaluation. For objectives where less is better."""
        value = values.get(self.objective.evaluation, math.nan)
        if self.objective.higher_is_better or not math.isfinite(value):
            return

        if math.isnan(self.best) or value < self.best:
            self.best = value
            self.worse_in_a_row = 0
            return

        if value > self.best * (1 + self.limits.overfit):
            self.worse_in_a_row += 1
        else:
            self.worse_in_a_row = 0

        if self.worse_in_a_row < 3:
            return

        trouble = Trouble(
            "overfit",
            f"The evaluation loss has been over its best of {self.best:.3f} by more than "
            f"{self.limits.overfit:.0%} for three evaluations: the model learns its examples by "
            "heart.",
            "Train for fewer epochs, keep the best checkpoint, or add more examples.",
            serious=True,
        )
        if self._is_new(trouble):
            yield trouble

    def _is_new(self, trouble: Trouble) -> bool:
        """Whether no trouble of this code was reported before; it counts as reported from now
        on."""
        if trouble.code in self.reported:
            return False

        self.reported.add(trouble.code)
        return True

    def _remember(self, values: dict[str, float]) -> None:
        for name in ("loss", "grad_norm", "entropy", "frac_reward_zero_std"):
            value = values.get(name)
            if value is None or not math.isfinite(value):
                continue

            first = self.first.setdefault(name, [])
            if len(first) < self.limits.window:
                first.append(value)

            recent = self.recent.setdefault(name, deque(maxlen=self.limits.window))
            recent.append(value)

    def _window(self, name: str) -> deque[float] | None:
        """The latest window of a metric, None until there is a whole one."""
        values = self.recent.get(name, deque())
        return values if len(values) == self.limits.window else None

    def _spike(self, step: int, values: dict[str, float]) -> Trouble | None:
        recent = self._window("loss")
        if recent is None:
            return None

        loss = values.get("loss", math.nan)
        usual = median(recent)
        is_spike = usual > 0 and loss > self.limits.spike * usual
        if not is_spike:
            return None

        return Trouble(
            "loss_spike",
            f"The loss jumped to {loss:.3f} at step {step:,}, from {usual:.3f}.",
            "One spike often heals. If they recur, lower the learning rate or look at the rows of "
            "that step.",
        )

    def _flat(self, step: int, values: dict[str, float]) -> Trouble | None:
        recent = self._window("loss")
        if recent is None or step < max(2 * self.limits.window, self.total_steps / 3):
            return None

        start = fmean(self.first["loss"])
        has_moved = abs(fmean(recent) - start) > self.limits.flat * abs(start)
        if has_moved or start == 0:
            return None

        return Trouble(
            "no_change",
            f"The loss has not moved in {step:,} steps.",
            "Raise the learning rate, or check that the answers are learned from and not cut away.",
        )

    def _gradient(self, step: int, values: dict[str, float]) -> Trouble | None:
        recent = self._window("grad_norm")
        if recent is None:
            return None

        norm = values.get("grad_norm", math.nan)
        usual = median(recent)
        is_explosion = norm > max(self.limits.gradient * usual, self.limits.gradient_floor)
        if not is_explosion:
            return None

        return Trouble(
            "gradient_explosion",
            f"The gradient norm jumped to {norm:.3g} at step {step:,}, from {usual:.3g}.",
            "Lower the learning rate, lengthen the warm-up, or clip gradients lower.",
        )

    def _zero_spread(self, step: int, values: dict[str, float]) -> Trouble | None:
        recent = self.recent.get("frac_reward_zero_std")
        if not recent:
            return None

        share = fmean(recent)
        in_every_group = len(recent) >= self.limits.window // 4 and min(recent) == 1
        in_most_groups = len(recent) >= self.limits.window // 2 and share >= self.limits.zero_spread
        if not in_every_group and not in_most_groups:
            return None

        return Trouble(
            "zero_spread",
            f"In {share:.0%} of the groups lately all answers got the same reward: from these "
            "nothing is learned.",
            "Raise the temperature or the number of generations, or choose rewards that tell "
            "answers apart.",
        )

    def _kl(self, step: int, values: dict[str, float]) -> Trouble | None:
        kl = values.get("kl", math.nan)
        if not kl > self.limits.kl:
            return None

        return Trouble(
            "kl_runaway",
            f"The model has moved {kl:.2g} nats per token away from its reference at step {step:,}: "
            "answers may have become nonsense that the reward likes.",
            "Look at the sampled answers. Raise the KL coefficient or lower the learning rate.",
            serious=True,
        )

    def _entropy(self, step: int, values: dict[str, float]) -> Trouble | None:
        recent = self._window("entropy")
        if recent is None or step < 2 * self.limits.window:
            return None

        start = fmean(self.first["entropy"])
        now = fmean(recent)
        has_collapsed = start > 0 and now < self.limits.entropy * start
        if not has_collapsed:
            return None

        return Trouble(
            "entropy_collapse",
            f"The entropy of the answers fell to {now:.2g} from {start:.2g}: they have become all "
            "alike.",
            "Raise the temperature, lower the learning rate, or stop here.",
            serious=True,
        )
