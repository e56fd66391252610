"""What every recipe does alike, in order: load the model, tell the start, measure, train, save,
measure again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
import trl

from engine.chat.render import tokenizer_load
from engine.contract.rundir import checkpoint_is_whole, checkpoints
from engine.loading import lm_head
from engine.loading.lora_targets import adapted_describe
from engine.loading.model import fit_check, model_load, parameter_counts
from engine.messages.failures import Stopped, TrainError
from engine.messages.plural import are, counted
from engine.publish.model import model_save, newer_only
from engine.run.callback import Plan, Watch
from engine.run.card import Facts, card_write
from engine.run.hardware import Device, Precision, detect, precision_choose
from engine.run.job import Job
from engine.run.trainer import quiet, settle, trainer_options, warmup_fit
from engine.schema.registry import RECIPES

VERSIONS = {"torch": torch, "transformers": transformers, "trl": trl, "peft": peft}

# Tells samples as events: what the model says (or how it scores) now. Called with "before" and 0,
# "after" and the step.
Sampler = Callable[[str, int], None]


@dataclass(frozen=True)
class RowCounts:
    """`train` and `evaluation` are what the trainer gets; `left_out` cannot be learned from under
    the parameters."""

    train: int
    evaluation: int
    left_out: int = 0


@dataclass
class Session:
    """The loaded base model and its device. `model` is what will be trained: a recipe puts the
    adapter on it."""

    job: Job
    device: Device
    precision: Precision
    tokenizer: Any
    model: Any
    parameter_count: int

    @classmethod
    def open(cls, job: Job, load: Callable[..., Any] = model_load) -> Session:
        """Load the base model with `load`, which takes (folder, precision, device, parameters)."""
        spec, given = job.spec, job.parameters
        job.say(f"{spec.name}: {spec.method} on {spec.base_model_name}, attempt {spec.attempt}")
        job.phase("loading model")
        quiet()
        device = detect()
        settle(device, given.seed)
        lm_head.install(job.say)
        wanted: str = given.precision
        if wanted == "auto" and (before := job.precision_before(device.kind)):
            wanted = before

        precision = precision_choose(wanted, device, adapter=given.adapter == "lora")
        folder = Path(spec.base_model_path)
        tokenizer = tokenizer_load(folder)
        model: Any = load(folder, precision, device, given)
        fit_check(model, tokenizer)
        parameter_count, _ = parameter_counts(model)
        job.say(
            f"{parameter_count:,} weights on {device.name}, {precision.name}, {device.threads} "
            "threads"
        )
        job.stop_check()
        job.phase("preparing data")

        return cls(job, device, precision, tokenizer, model, parameter_count)

    def options(self, config: Callable[..., Any], **own: Any) -> Any:
        """The trainer's options: every method's, this method's `own`, and those asked for by their
        own name."""
        given = self.job.parameters
        options = trainer_options(self.job, self.device, self.precision) | own

        try:
            return config(
                **options | {name: value for name, value in given.more.items() if value is not None}
            )
        except (TypeError, ValueError, ImportError) as error:
            raise TrainError(
                "bad_option",
                f"The trainer refuses an option: {error}",
                "Copy the train and correct it.",
            ) from error

    def run(self, trainer: Any, rows: RowCounts, sample: Sampler) -> bool:
        """Train to the end or to a stop; write events, checkpoints and model/. Returns whether it
        came to its end.

        `trainer` is a transformers Trainer with engine.run.trainer.Seams. What it holds out is measured
        before the first step, unless the train goes on from a checkpoint."""
        job, objective = self.job, RECIPES[self.job.spec.recipe].objective
        lm_head.routers_quiet(trainer.model)

        if job.parameters.adapter == "lora":
            job.say(f"adapter on {adapted_describe(trainer.model)}")

        batches = len(trainer.get_train_dataloader())
        if not batches:
            raise TrainError(
                "batch_too_large",
                f"{counted(rows.train, 'row')} to train on {are(rows.train)} fewer than the "
                f"{job.parameters.rows_per_step():,} of one step.",
                "Copy the train with a smaller batch size or less gradient accumulation.",
            )

        plan = Plan.of(job.parameters, rows.train, rows.evaluation, batches)
        warmup_fit(job, trainer.args, plan.total_steps)
        watch = Watch(job, plan, objective)
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.add_callback(watch)
        _, trainable_count = parameter_counts(trainer.model)
        self._tell_start(plan, rows, trainable_count)

        checkpoint = job.checkpoint_given()
        job.rewind()

        if checkpoint is None:
            if (weights := job.branch_given()) is not None:
                trainer._load_from_checkpoint(weights)

            watch.enter("answering")
            sample("before", 0)

            if rows.evaluation:
                trainer.evaluate()

        job.stop_check()

        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        except Stopped:
            # Asked for in the midst of an evaluation: the step before it is complete.
            trainer.checkpoint_now()

        step = trainer.state.global_step
        is_stopped = step < plan.total_steps and not watch.ended_early
        model_step = self._best_loaded(trainer, watch, step) if job.parameters.keep_best else step

        watch.enter("saving")
        facts = Facts(
            device=self.device.name,
            precision=self.precision.name,
            versions=versions(),
            parameter_count=self.parameter_count,
            trainable_count=trainable_count,
            train_rows=rows.train,
            eval_rows=rows.evaluation,
            step=model_step,
            total_steps=plan.total_steps,
            metrics=watch.last,
            is_adapter=job.parameters.adapter == "lora",
            is_stopped=is_stopped,
            newer_only=newer_only(trainer.model),
        )

        model_bytes = model_save(
            job,
            trainer.model,
            self.tokenizer,
            self.precision,
            card_write(job, facts),
            beside=trainer.beside_model(),
        )

        job.say(f"model saved ({model_bytes / 2**20:.0f} MB)")
        watch.enter("answering")
        sample("after", model_step)

        if watch.failure is not None:
            raise watch.failure

        told = {"step": step, "model_step": model_step, "model_bytes": model_bytes}
        if is_stopped:
            job.emit("stopped", **told)
            job.say(f"Stopped after step {step:,}.")
        else:
            job.emit("finished", **told, metrics=watch.last)
            job.say("Finished.")

        return not is_stopped

    def _best_loaded(self, trainer: Any, watch: Watch, step: int) -> int:
        """Put the weights of the best kept checkpoint into the model. Returns its step, or `step`
        where it is that."""
        kept = dict(checkpoints(self.job.directory))
        best = watch.best_of(
            number for number, folder in kept.items() if checkpoint_is_whole(folder)
        )
        if best is None or best == step:
            return step

        trainer._load_from_checkpoint(str(kept[best]))
        self.job.say(f"The model is that of step {best:,}, the best of those kept.")
        return best

    def _tell_start(self, plan: Plan, rows: RowCounts, trainable_count: int) -> None:
        self.job.emit(
            "started",
            device=asdict(self.device),
            versions=versions(),
            precision=self.precision.name,
            parameter_count=self.parameter_count,
            trainable_count=trainable_count,
            train_rows=rows.train,
            eval_rows=rows.evaluation,
            left_out_rows=rows.left_out,
            total_steps=plan.total_steps,
            steps_per_epoch=plan.steps_per_epoch,
            evaluate_every=plan.evaluate_every,
            save_every=plan.save_every,
            **({"resumed_from": self.job.begins_at} if self.job.spec.attempt > 1 else {}),
        )

        given = self.job.parameters
        self.job.say(
            f"{counted(plan.total_steps, 'step')} of {counted(given.rows_per_step(), 'row')}, "
            f"{trainable_count:,} weights to train"
        )


def versions() -> dict[str, str]:
    return {name: str(library.__version__) for name, library in VERSIONS.items()}
