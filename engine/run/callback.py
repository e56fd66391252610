"""What the trainer does, as events and as lines of the log; and when it evaluates, saves and stops.

The trainer's own strategies are switched off: they cannot save every N epochs, keep the best
checkpoint besides the last ones, or leave when a file appears."""

from __future__ import annotations

import math
import resource
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from engine.contract.arithmetic import total_steps
from engine.contract.rundir import (
    checkpoint_is_whole,
    checkpoint_seal,
    checkpoints,
    folder_size,
    save_taken,
)
from engine.messages.failures import TrainError
from engine.messages.health import Health, Trouble, thresholds_read
from engine.run.job import Job
from engine.schema.registry import Objective
from engine.schema.train import TrainParameters

# Broken weights never mend: three lines without a loss are enough.
DIVERGED_AFTER = 3
# What the trainer logs besides that is no measure of the train, or is told elsewhere.
NO_METRICS = (
    "epoch",
    "step",
    "step_time",
    "total_flos",
    "num_input_tokens_seen",
    "eval_num_tokens",
)
NO_METRIC_ENDINGS = ("_runtime", "_per_second", "_per_step", "_preparation_time")
FROM_REWARDS = ("grpo", "ppo")
LEFT_OUT_OF_CHECKPOINTS = ("training_args.bin", "README.md")


@dataclass(frozen=True)
class Plan:
    """`evaluate_every` and `save_every` in steps; 0: never (save: only at the end)."""

    train_rows: int
    total_steps: int
    steps_per_epoch: int
    evaluate_every: int
    save_every: int
    save_total_limit: int

    @classmethod
    def of(cls, given: TrainParameters, train_rows: int, eval_rows: int, batches: int) -> Plan:
        """`batches` in one epoch as the trainer counts them: packing and a dropped last batch
        change their number."""
        per_epoch = max(1, math.ceil(batches / given.gradient_accumulation_steps))
        steps = total_steps(per_epoch, 1, 1, given.epochs, given.max_steps)
        save_every = {"epochs": per_epoch * given.save_every, "steps": given.save_every, "end": 0}

        return cls(
            train_rows=train_rows,
            total_steps=steps,
            steps_per_epoch=per_epoch,
            evaluate_every=max(1, round(steps * given.evaluation_every)) if eval_rows else 0,
            save_every=save_every[given.save_strategy],
            save_total_limit=given.save_total_limit,
        )

    def saves_at(self, step: int) -> bool:
        return step % self.save_every == 0 if self.save_every else step == self.total_steps

    def evaluates_at(self, step: int) -> bool:
        """A checkpoint is measured too, unless more are written than evaluations were asked for."""
        if not self.evaluate_every:
            return False

        measured = self.saves_at(step) and not 0 < self.save_every < self.evaluate_every
        return step % self.evaluate_every == 0 or step == self.total_steps or measured


class Watch(TrainerCallback):
    """Hooks are called in the order on_step_begin, on_step_end, on_log, on_evaluate, on_save."""

    def __init__(self, job: Job, plan: Plan, objective: Objective) -> None:
        self.job = job
        self.plan = plan
        self.objective = objective
        self.seconds = 0.0
        self.step_began = 0.0
        self.seconds_of_tokens = 0.0
        self.logged_tokens = 0.0
        self.earlier_tokens = 0.0
        self.logged_epoch = 0.0
        self.without_loss = 0
        self.evaluations: dict[int, float] = {}
        self.last: dict[str, float] = {}
        self.phase = ""
        self.health = Health(
            objective,
            total_steps=plan.total_steps,
            from_rewards=job.spec.recipe in FROM_REWARDS,
            thresholds=thresholds_read(job.spec.health),
        )

        self.ended_early = ""
        self.trouble: Trouble | None = None
        self.failure: TrainError | None = None

    def enter(self, phase: str) -> None:
        if phase != self.phase:
            self.phase = phase
            self.job.phase(phase)

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A resumed train counts on from what its checkpoint had counted."""
        self.logged_epoch = state.epoch or 0.0
        counted = [entry["num_tokens"] for entry in state.log_history if "num_tokens" in entry]
        self.logged_tokens = counted[-1] if counted else 0.0
        # Trainers that count in their state go on by themselves; the others begin at 0 again.
        self.earlier_tokens = 0.0 if state.num_input_tokens_seen else self.logged_tokens
        name = self.objective.evaluation
        measured = {int(entry["step"]): entry[name] for entry in state.log_history if name in entry}
        self.evaluations = measured | self.evaluations
        self.enter("training")

    def on_step_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.step_began = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        self.seconds += time.monotonic() - self.step_began
        step = state.global_step
        control.should_log = control.should_log or step >= self.plan.total_steps
        control.should_evaluate = self.plan.evaluates_at(step)
        control.should_save = save_taken(self.job.directory) or self.plan.saves_at(step)
        reason = self.ends_because(step) if step < self.plan.total_steps else ""
        if reason:
            self.job.say(f"Stopping after step {step}, {reason}.")
            control.should_log, control.should_evaluate, control.should_save = True, False, True
            control.should_training_stop = True

        return control

    def ends_because(self, step: int) -> str:
        """Why the train ends before its last step, or nothing. Where that is a failure it is kept,
        to be raised once all is saved."""
        if self.job.stopping:
            return "as asked"

        if self.job.overtime:
            self.failure = TrainError(
                "time_limit",
                f"The time limit of {self.job.parameters.time_limit_minutes:,} minutes was over "
                f"after step {step:,} of "
                f"{self.plan.total_steps:,}.",
                "What it learned until then is saved. Let it go on from there, or copy it with "
                "more time.",
            )

            return "since its time is over"

        if self.trouble is not None:
            self.failure = TrainError(self.trouble.code, self.trouble.message, self.trouble.advice)
            return "since it goes wrong"

        return self.ended_early

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = logs or {}
        if any(name.startswith("eval_") for name in logs):
            self._eval_metrics(state, logs)
        elif "loss" in logs:
            self._train_metrics(state, logs)

    def _train_metrics(self, state: TrainerState, logs: dict[str, float]) -> None:
        if "num_tokens" in logs and self.earlier_tokens:
            # The next checkpoint is to hold the sum.
            logs["num_tokens"] += self.earlier_tokens
            state.log_history[-1]["num_tokens"] = logs["num_tokens"]

        values = numbers(logs)
        epoch = state.epoch or 0.0
        self.seconds_of_tokens += self.seconds

        # Steps that learn once more from answers written before count no tokens of their own.
        if (tokens := values.get("num_tokens")) is not None and self.seconds_of_tokens > 0:
            values["tokens_per_second"] = round(
                max(0.0, tokens - self.logged_tokens) / self.seconds_of_tokens, 2
            )
            self.seconds_of_tokens, self.logged_tokens = 0.0, tokens

        if self.seconds > 0:
            rows = (epoch - self.logged_epoch) * self.plan.train_rows
            values["samples_per_second"] = round(max(0.0, rows) / self.seconds, 3)

        values["peak_memory_gb"] = round(peak_memory() / 2**30, 3)
        self.seconds, self.logged_epoch = 0.0, epoch
        self.last |= values
        self.job.emit(
            "metrics", step=state.global_step, epoch=round(epoch, 6), split="train", values=values
        )
        self.job.say(
            f"step {state.global_step}/{self.plan.total_steps}  epoch {epoch:.2f}  "
            f"{self._told(values)}"
            f"learning rate {values.get('learning_rate', 0):.2e}  "
            f"{values.get('tokens_per_second', 0):.0f} tokens/s"
        )

        self._judge(values["loss"])
        self._look(self.health.train(state.global_step, values))

    def _look(self, troubles: Iterable[Trouble]) -> None:
        for trouble in troubles:
            self.job.warn(trouble.code, f"{trouble.message} {trouble.advice}")
            if trouble.serious and self.job.parameters.on_trouble == "end":
                self.trouble = trouble

    def _told(self, values: dict[str, float]) -> str:
        names = dict.fromkeys((self.objective.train, "loss"))
        return "".join(f"{name} {values[name]:.4f}  " for name in names if name in values)

    def _judge(self, loss: float) -> None:
        """Raises TrainError once the loss is no number several times in a row."""
        if math.isfinite(loss):
            self.without_loss = 0
            return

        self.without_loss += 1
        self.job.warn(
            "loss_not_finite",
            "The loss is not a number. The learning rate is most likely too high.",
        )

        if self.without_loss >= DIVERGED_AFTER:
            raise TrainError(
                "diverged",
                f"The loss has not been a number for {DIVERGED_AFTER} logged steps: the weights "
                "are broken.",
                "Copy the train with a learning rate ten times lower.",
            )

    def _eval_metrics(self, state: TrainerState, logs: dict[str, float]) -> None:
        values = numbers(logs)
        name = self.objective.evaluation
        self.evaluations[state.global_step] = values.get(name, math.nan)
        self.last |= values
        self.job.emit(
            "metrics",
            step=state.global_step,
            epoch=round(state.epoch or 0.0, 6),
            split="eval",
            values=values,
        )

        self.job.say(
            f"evaluation at step {state.global_step}  {self.objective.title.lower()} "
            f"{values.get(name, math.nan):.4f}"
        )
        self._look(self.health.evaluation(values))
        self._patience(state.global_step)

    def _patience(self, step: int) -> None:
        """Whether so many evaluations without a better one have passed that the train ends
        early."""
        patience = self.job.parameters.early_stop_after
        best = self.best_of(self.evaluations)
        if patience is None or best is None:
            return

        since = sum(best < other <= step for other in self.evaluations)
        if since >= patience:
            self.ended_early = f"since {since} evaluations were no better than that of step {best}"

    def best_of(self, steps: Iterable[int]) -> int | None:
        """The step among `steps` with the best evaluation; of equals the first."""
        measured = sorted(
            step for step in steps if math.isfinite(self.evaluations.get(step, math.nan))
        )
        better = max if self.objective.higher_is_better else min
        return better(measured, key=lambda step: self.evaluations[step], default=None)

    def on_prediction_step(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.enter("evaluating")
        self.job.stop_check()

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if 0 < state.global_step < self.plan.total_steps:
            self.enter("training")

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seal what the trainer has written, then delete what the save policy no longer keeps."""
        self.enter("saving")
        step = state.global_step
        folder = Path(args.output_dir or "") / f"checkpoint-{step}"

        for name in LEFT_OUT_OF_CHECKPOINTS:
            (folder / name).unlink(missing_ok=True)

        checkpoint_seal(folder)
        size = folder_size(folder)
        self.job.emit(
            "checkpoint",
            step=step,
            epoch=round(state.epoch or 0.0, 6),
            value=self.evaluations.get(step),
            size_bytes=size,
            pruned=self.prune(),
        )

        self.job.say(f"checkpoint of step {step} saved ({size / 2**20:.0f} MB)")

        if step < self.plan.total_steps and not control.should_training_stop:
            self.enter("training")

    def prune(self) -> list[int]:
        """Keep the last whole checkpoints and the best one besides."""
        whole = [
            (step, folder)
            for step, folder in checkpoints(self.job.directory)
            if checkpoint_is_whole(folder, hashes=False)
        ]

        best = self.best_of(step for step, _ in whole)
        pruned = [
            (step, folder) for step, folder in whole[self.plan.save_total_limit :] if step != best
        ]

        for _, folder in pruned:
            shutil.rmtree(folder)

        return sorted(step for step, _ in pruned)


def numbers(logs: dict[str, Any]) -> dict[str, float]:
    """The metrics among what the trainer logs."""
    return {
        name: float(value)
        for name, value in logs.items()
        if isinstance(value, int | float)
        and name not in NO_METRICS
        and not name.endswith(NO_METRIC_ENDINGS)
    }


def peak_memory() -> int:
    """Bytes at the highest: of the GPU's memory where there is one, else of this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
