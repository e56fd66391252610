"""The callback of every train: it writes what the trainer does as events and into the log, and
decides when the trainer evaluates, saves and stops.

The trainer's own strategies are switched off: they cannot save every N epochs, keep the best
checkpoint besides the last ones, or stop when a file appears."""

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
from engine.run.hardware import freed_memory_return
from engine.run.job import Job
from engine.schema.registry import RECIPES, Objective
from engine.schema.train import TrainParameters

# Weights that have become NaN never recover: three logged steps without a loss are enough.
DIVERGED_AFTER = 3
# Logged by the trainer, but not a metric of the train, or reported elsewhere.
NO_METRICS = (
    "epoch",
    "step",
    "step_time",
    "total_flos",
    "num_input_tokens_seen",
    "eval_num_tokens",
)
NO_METRIC_ENDINGS = ("_runtime", "_per_second", "_per_step", "_preparation_time")
# Costs about as much as a tenth of a step.
MEMORY_RETURN_STEPS = 10
LEFT_OUT_OF_CHECKPOINTS = ("training_args.bin", "README.md")


@dataclass(frozen=True)
class Plan:
    """When a train evaluates and saves. `evaluate_every` and `save_every` are in steps; 0 means
    never, and for `save_every` only at the end."""

    train_rows: int
    total_steps: int
    steps_per_epoch: int
    evaluate_every: int
    save_every: int
    save_total_limit: int

    @classmethod
    def of(cls, parameters: TrainParameters, train_rows: int, eval_rows: int, batches: int) -> Plan:
        """`batches` in one epoch as the trainer counts them: packing and a dropped last batch
        change their number."""
        per_epoch = max(1, math.ceil(batches / parameters.gradient_accumulation_steps))
        steps = total_steps(per_epoch, 1, 1, parameters.epochs, parameters.max_steps)

        evaluate_every = 0
        if eval_rows:
            evaluate_every = max(1, round(steps * parameters.evaluation_every))

        save_every = {
            "epochs": per_epoch * parameters.save_every,
            "steps": parameters.save_every,
            "end": 0,
        }

        return cls(
            train_rows=train_rows,
            total_steps=steps,
            steps_per_epoch=per_epoch,
            evaluate_every=evaluate_every,
            save_every=save_every[parameters.save_strategy],
            save_total_limit=parameters.save_total_limit,
        )

    def saves_at(self, step: int) -> bool:
        if not self.save_every:
            return step == self.total_steps

        return step % self.save_every == 0

    def evaluates_at(self, step: int) -> bool:
        """A checkpoint is evaluated too, unless more of them are saved than evaluations were asked
        for."""
        if not self.evaluate_every:
            return False
        if step % self.evaluate_every == 0 or step == self.total_steps:
            return True

        saves_more_often = 0 < self.save_every < self.evaluate_every
        return self.saves_at(step) and not saves_more_often


class TrainCallback(TrainerCallback):
    """Hooks are called in the order on_step_begin, on_step_end, on_log, on_evaluate, on_save."""

    def __init__(self, job: Job, plan: Plan, objective: Objective) -> None:
        self.job = job
        self.plan = plan
        self.objective = objective
        self.phase = ""

        # Time spent in steps since the last log, and since tokens were last counted.
        self.step_began = 0.0
        self.is_training = False
        self.has_begun = False
        self.seconds = 0.0
        self.seconds_of_tokens = 0.0

        # In bytes, of the rank that takes most.
        self.peak_memory = 0.0
        self.logged_epoch = 0.0
        self.logged_tokens = 0.0
        self.earlier_tokens = 0.0

        # {step: value of the objective}, and the latest value of every metric.
        self.evaluations: dict[int, float] = {}
        self.last: dict[str, float] = {}

        self.steps_without_loss = 0
        self.health = Health(
            objective,
            total_steps=plan.total_steps,
            from_rewards=RECIPES[job.spec.recipe].learns_from_rewards,
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
        """A resumed train starts from the counts of its checkpoint."""
        self.is_training = True
        self.take(state)

        # Trainers that keep the count in their state resume it themselves; others restart at 0.
        if not state.num_input_tokens_seen:
            self.earlier_tokens = self.logged_tokens

        if not args.eval_on_start:
            self.enter("training")

    def take(self, state: TrainerState) -> None:
        """Go on from what an earlier attempt has logged."""
        self.logged_epoch = state.epoch or 0.0

        evaluations = {}
        for entry in state.log_history:
            if "num_tokens" in entry:
                self.logged_tokens = entry["num_tokens"]
            if self.objective.evaluation in entry:
                evaluations[int(entry["step"])] = entry[self.objective.evaluation]

        self.evaluations = evaluations | self.evaluations

    def on_step_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.step_began = time.monotonic()
        self.has_begun = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        self.seconds += time.monotonic() - self.step_began

        step = state.global_step
        if step % MEMORY_RETURN_STEPS == 0 and not torch.cuda.is_available():
            freed_memory_return()

        is_last = step >= self.plan.total_steps
        control.should_log = control.should_log or is_last
        control.should_evaluate = self.plan.evaluates_at(step)

        stops, saves, ends = self.wishes()
        control.should_save = saves or self.plan.saves_at(step)

        if not is_last and (stops or ends):
            reason = self.reason_to_end(step, stops)
            self.job.say(f"Stopping after step {step}, {reason}.")
            control.should_log = True
            control.should_evaluate = False
            control.should_save = True
            control.should_training_stop = True

        return control

    def wishes(self) -> tuple[bool, bool, bool]:
        """Whether a stop was asked for, whether a checkpoint was, and whether the train is to end by
        itself: the same on all ranks. Anybody may be told to stop; the rest is decided by the
        first rank, which alone knows the metrics and takes the request to save away."""
        job = self.job
        if not job.ranks.is_first:
            return job.ranks.any_of(job.stopping, False, False)  # type: ignore[return-value]

        ends = job.overtime or self.trouble is not None or bool(self.ended_early)
        return job.ranks.any_of(  # type: ignore[return-value]
            job.stopping, save_taken(job.directory), ends
        )

    def reason_to_end(self, step: int, stops: bool) -> str:
        """Why the train ends before its last step. A failure is kept in `failure`, to be raised once
        everything is saved."""
        if stops:
            return "as asked"

        if self.job.overtime:
            self.failure = TrainError(
                "time_limit",
                f"The time limit of {self.job.parameters.time_limit_minutes:,} minutes was over "
                f"after step {step:,} of {self.plan.total_steps:,}.",
                "What it learned until then is saved. Resume the train, or copy it with more time.",
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
        is_train = "loss" in logs
        if is_train:
            self.peak_memory = self.job.ranks.largest(peak_memory())

        if not self.job.ranks.is_first:
            return

        if any(name.startswith("eval_") for name in logs):
            self._eval_metrics(state, logs)
        elif is_train:
            self._train_metrics(state, logs)

    def _train_metrics(self, state: TrainerState, logs: dict[str, float]) -> None:
        if "num_tokens" in logs and self.earlier_tokens:
            # The next checkpoint is to hold the sum.
            logs["num_tokens"] += self.earlier_tokens
            state.log_history[-1]["num_tokens"] = logs["num_tokens"]

        step = state.global_step
        epoch = state.epoch or 0.0
        values = numbers(logs)
        values |= self._speeds(epoch, values.get("num_tokens"))
        values["peak_memory_gb"] = round(self.peak_memory / 2**30, 3)
        self.last |= values

        self.job.emit("metrics", step=step, epoch=round(epoch, 6), split="train", values=values)
        self.job.say(
            f"step {step}/{self.plan.total_steps}  epoch {epoch:.2f}  "
            f"{self._losses_text(values)}"
            f"learning rate {values.get('learning_rate', 0):.2e}  "
            f"{values.get('tokens_per_second', 0):.0f} tokens/s"
        )

        self._check_loss(values["loss"])
        self._report_troubles(self.health.train(step, values))

    def _speeds(self, epoch: float, tokens: float | None) -> dict[str, float]:
        """Tokens and rows a second since the last log."""
        speeds = {}
        self.seconds_of_tokens += self.seconds

        # Steps that learn once more from answers written before count no tokens of their own.
        if tokens is not None and self.seconds_of_tokens > 0:
            new_tokens = max(0.0, tokens - self.logged_tokens)
            speeds["tokens_per_second"] = round(new_tokens / self.seconds_of_tokens, 2)
            self.seconds_of_tokens = 0.0
            self.logged_tokens = tokens

        if self.seconds > 0:
            rows = (epoch - self.logged_epoch) * self.plan.train_rows
            speeds["samples_per_second"] = round(max(0.0, rows) / self.seconds, 3)

        self.seconds = 0.0
        self.logged_epoch = epoch
        return speeds

    def _report_troubles(self, troubles: Iterable[Trouble]) -> None:
        for trouble in troubles:
            self.job.warn(trouble.code, f"{trouble.message} {trouble.advice}")
            if trouble.serious and self.job.parameters.on_trouble == "end":
                self.trouble = trouble

    def _losses_text(self, values: dict[str, float]) -> str:
        """The objective and the loss, once each."""
        names = dict.fromkeys((self.objective.train, "loss"))
        return "".join(f"{name} {values[name]:.4f}  " for name in names if name in values)

    def _check_loss(self, loss: float) -> None:
        """Raises TrainError once the loss has not been finite several times in a row."""
        if math.isfinite(loss):
            self.steps_without_loss = 0
            return

        self.steps_without_loss += 1
        self.job.warn(
            "loss_not_finite",
            "The loss is not a number. The learning rate is most likely too high.",
        )

        if self.steps_without_loss >= DIVERGED_AFTER:
            raise TrainError(
                "diverged",
                f"The loss has not been a number for {DIVERGED_AFTER} logged steps: the weights "
                "are broken.",
                "Copy the train with a learning rate ten times lower.",
            )

    def _eval_metrics(self, state: TrainerState, logs: dict[str, float]) -> None:
        step = state.global_step
        epoch = round(state.epoch or 0.0, 6)
        values = numbers(logs)
        result = values.get(self.objective.evaluation, math.nan)
        self.evaluations[step] = result
        self.last |= values

        self.job.emit("metrics", step=step, epoch=epoch, split="eval", values=values)
        self.job.say(f"evaluation at step {step}  {self.objective.title.lower()} {result:.4f}")

        self._report_troubles(self.health.evaluation(values))
        self._check_patience(step)

    def _check_patience(self, step: int) -> None:
        """End the train early where enough evaluations have passed without a better one."""
        patience = self.job.parameters.early_stop_after
        best = self.best_of(self.evaluations)
        if patience is None or best is None:
            return

        since = sum(best < other <= step for other in self.evaluations)
        if since >= patience:
            self.ended_early = f"since {since} evaluations were no better than that of step {best}"

    def best_of(self, steps: Iterable[int]) -> int | None:
        """The step among `steps` with the best evaluation; the first of equal ones."""
        evaluated = [step for step in steps if math.isfinite(self._result_at(step))]
        better = max if self.objective.higher_is_better else min
        return better(sorted(evaluated), key=self._result_at, default=None)

    def _result_at(self, step: int) -> float:
        return self.evaluations.get(step, math.nan)

    def on_prediction_step(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.enter("evaluating")
        self.job.stop_check_together()

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.is_training and state.global_step < self.plan.total_steps:
            self.enter("training")

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seal what the trainer has written, once all ranks have, then delete what the save policy no
        longer keeps."""
        self.enter("saving")
        self.job.ranks.barrier()
        if self.job.saved is not None:
            self.job.saved(checkpoint_folder(args, state))
        if self.job.ranks.is_first:
            self._seal(args, state)

        if state.global_step < self.plan.total_steps and not control.should_training_stop:
            self.enter("training")

    def _seal(self, args: TrainingArguments, state: TrainerState) -> None:
        step = state.global_step
        folder = checkpoint_folder(args, state)

        for name in LEFT_OUT_OF_CHECKPOINTS:
            (folder / name).unlink(missing_ok=True)

        checkpoint_seal(folder)
        size = folder_size(folder)
        replaced = self.replaced()

        self.job.emit(
            "checkpoint",
            step=step,
            epoch=round(state.epoch or 0.0, 6),
            value=self.evaluations.get(step),
            size_bytes=size,
            pruned=sorted(replaced),
        )
        # Not before: a train on a cluster resumes only from what its events tell of.
        for older in replaced.values():
            shutil.rmtree(older)

        self.job.say(f"checkpoint of step {step} saved ({size / 2**20:.0f} MB)")

    def replaced(self) -> dict[int, Path]:
        """The checkpoints that are not needed any more: all but the last whole ones and the best one
        besides."""
        # Newest first.
        whole = {
            step: folder
            for step, folder in checkpoints(self.job.directory)
            if checkpoint_is_whole(folder, hashes=False)
        }
        kept = {*list(whole)[: self.plan.save_total_limit], self.best_of(whole)}
        return {step: folder for step, folder in whole.items() if step not in kept}


def checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """Where the trainer writes the checkpoint of the current step."""
    return Path(args.output_dir or "") / f"checkpoint-{state.global_step}"


def numbers(logs: dict[str, Any]) -> dict[str, float]:
    """The metrics among what the trainer logs."""
    metrics = {}

    for name, value in logs.items():
        if name in NO_METRICS or name.endswith(NO_METRIC_ENDINGS):
            continue
        if isinstance(value, int | float):
            metrics[name] = float(value)

    return metrics


def peak_memory() -> int:
    """Peak memory in bytes: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
