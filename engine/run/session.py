"""What every recipe does alike, in order: load the model, report the start, evaluate, train, save,
and write samples before and after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
import trl
from safetensors.torch import load_file
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.utils import SAFE_WEIGHTS_NAME

from engine.chat.render import tokenizer_load
from engine.contract.rundir import checkpoint_is_whole, checkpoints
from engine.distributed.sharding import make_whole, sharding_check
from engine.loading import lm_head
from engine.loading.lora_targets import adapted_describe
from engine.loading.model import (
    adapter_add,
    adapter_carry_on,
    fit_check,
    model_load,
    parameter_counts,
)
from engine.messages.failures import Stopped, TrainError
from engine.messages.plural import are, counted
from engine.publish.model import model_save, newer_only
from engine.run.callback import Plan, TrainCallback, numbers
from engine.run.card import Facts, card_write
from engine.run.hardware import Device, Precision, detect, precision_choose
from engine.run.job import Job
from engine.run.trainer import (
    device_configure,
    one_gpu_alone,
    rank_options,
    silence_libraries,
    trainer_options,
    warmup_fit,
)
from engine.schema.registry import RECIPES, carry_on_obstacle

VERSIONS = {"torch": torch, "transformers": transformers, "trl": trl, "peft": peft}

# Writes samples as events: what the model answers (or how it scores) now. Called with "before" and
# step 0, then with "after" and the step of the model.
Sampler = Callable[[str, int], None]


@dataclass(frozen=True)
class RowCounts:
    """`train` and `evaluation`: rows that the trainer gets; `left_out`: rows that cannot be learned
    from under these parameters."""

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
        spec = job.spec
        parameters = job.parameters
        job.say(f"{spec.name}: {spec.method} on {spec.base_model_name}, attempt {spec.attempt}")
        job.phase("loading model")

        silence_libraries()
        job.ranks.join()
        device = detect()
        sharding_check(parameters, device.kind)
        # Measured: ranks may find different things.
        device = replace(device, bf16=job.ranks.of_first(device.bf16))
        device_configure(device, parameters.seed)
        lm_head.install(job.say)

        wanted: str = parameters.precision
        if wanted == "auto":
            wanted = job.earlier_precision(device.kind) or wanted

        precision = precision_choose(wanted, device, adapter=parameters.adapter == "lora")

        folder = Path(spec.base_model_path)
        tokenizer = tokenizer_load(folder)
        model: Any = load(folder, precision, device, parameters)
        fit_check(model, tokenizer)
        parameter_count, _ = parameter_counts(model)
        job.say(
            f"{parameter_count:,} weights on {device.name}, {precision.name}, "
            f"{device.threads} threads{_ranks_text(job)}"
        )

        job.stop_check()
        job.phase("preparing data")

        return cls(job, device, precision, tokenizer, model, parameter_count)

    def adapted(self, task: str = "CAUSAL_LM") -> Any:
        """What is trained: the model with a new adapter or with the one that is carried on, or the
        model itself. `task`: of peft; SEQ_CLS trains and saves a head of scores besides. Raises
        TrainError."""
        job = self.job
        folder = job.adapter_to_carry_on()
        if folder is None:
            is_whole = job.parameters.adapter == "none"
            return self.model if is_whole else adapter_add(self.model, job.parameters, task)

        if obstacle := carry_on_obstacle(job.spec.recipe, job.parameters.adapter):
            raise TrainError("bad_adapter", obstacle, "Train on the merged weights.")

        return adapter_carry_on(self.model, folder, job.parameters)

    def options(self, config: Callable[..., Any], **own: Any) -> Any:
        """An instance of `config`, TRL's dataclass of options: those of every method, this method's
        `own`, and the other options of the form. Raises TrainError for one that TRL refuses."""
        options = trainer_options(self.job, self.device, self.precision)
        options |= rank_options(self.job, self.model) | own
        for name, value in self.job.parameters.more.items():
            if value is not None:
                options[name] = value

        try:
            return one_gpu_alone(config(**options))
        except (TypeError, ValueError, ImportError) as error:
            raise TrainError(
                "bad_option",
                f"The trainer refuses an option: {error}",
                "Copy the train and correct it.",
            ) from error

    def run(self, trainer: Any, rows: RowCounts, sample: Sampler) -> bool:
        """Train to the end or to a stop; write events, checkpoints and model/. Returns whether it
        came to its end.

        `trainer` is a transformers Trainer with engine.run.trainer.TrainerHooks. The held-out rows
        are evaluated before the first step, unless the train resumes from a checkpoint. Raises
        TrainError."""
        job = self.job
        trainer.ranks = job.ranks
        lm_head.routers_quiet(trainer.model)

        if job.parameters.adapter == "lora":
            job.say(f"adapter on {adapted_describe(trainer.model)}")

        plan = self._plan(trainer, rows)
        callback = TrainCallback(job, plan, RECIPES[job.spec.recipe].objective)
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.add_callback(callback)
        _, trainable_count = parameter_counts(trainer.model)
        self._report_start(plan, rows, trainable_count)

        checkpoint = job.resume_checkpoint()
        job.rewind()
        job.ranks.seed_apart(job.parameters.seed)

        if checkpoint is None:
            if (weights := job.branch_weights()) is not None:
                self._load_branch(trainer, weights)

            callback.enter("answering")
            if job.ranks.is_first:
                sample("before", 0)

            if rows.evaluation:
                self._evaluate_at_start(trainer)

        job.stop_check_together()

        try:
            if checkpoint is not None and self._is_trained(plan):
                self._take_trained(trainer, callback, checkpoint)
            else:
                trainer.train(resume_from_checkpoint=checkpoint)
        except Stopped:
            if not callback.has_begun:
                raise

            # Asked for during an evaluation: the step before it is complete.
            trainer.checkpoint_now()

        step = trainer.state.global_step
        is_stopped = step < plan.total_steps and not callback.ended_early
        model_step = step
        if job.parameters.keep_best:
            model_step = self._load_best(trainer, callback, step)

        if is_sharded := job.parameters.is_sharded():
            make_whole(trainer.model, job.ranks)

        if not job.ranks.is_first:
            # What is left to do is done by the first rank.
            return not is_stopped

        callback.enter("saving")
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
            metrics=callback.last,
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
        if is_sharded:
            job.say("no sample answers: the model is split over the devices")
        else:
            callback.enter("answering")
            sample("after", model_step)

        if callback.failure is not None:
            raise callback.failure

        result = {"step": step, "model_step": model_step, "model_bytes": model_bytes}
        if is_stopped:
            job.emit("stopped", **result)
            job.say(f"Stopped after step {step:,}.")
        else:
            job.emit("finished", **result, metrics=callback.last)
            job.say("Finished.")

        return not is_stopped

    def _load_branch(self, trainer: Any, folder: str) -> None:
        """The model is not split yet, and the trainer would look for the file of one that is."""
        whole = Path(folder) / SAFE_WEIGHTS_NAME
        if self.job.parameters.is_sharded() and whole.is_file():
            trainer.model.load_state_dict(load_file(whole), strict=False)
        else:
            trainer._load_from_checkpoint(folder)

    def _is_trained(self, plan: Plan) -> bool:
        """Whether the checkpoint to resume from is that of the last step: what came after it is left
        to do. The trainer would train one step more."""
        return self.job.resumed_step >= plan.total_steps and not self.job.parameters.is_sharded()

    def _take_trained(self, trainer: Any, callback: TrainCallback, checkpoint: str) -> None:
        trainer._load_from_checkpoint(checkpoint)
        state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        trainer.state = state
        callback.take(state)
        for entry in state.log_history:
            callback.last |= numbers(entry)

    def _evaluate_at_start(self, trainer: Any) -> None:
        """Evaluate before the first step. Of several ranks that is the first thing in training:
        an evaluation before it would mark the model as prepared, so that training never wraps it,
        and the ranks would exchange no gradients."""
        if self.job.ranks.are_several:
            trainer.args.eval_on_start = True
        else:
            trainer.evaluate()

    def _plan(self, trainer: Any, rows: RowCounts) -> Plan:
        """How many steps there are, and when to evaluate and save. Fits the trainer's warm-up to it.
        Raises TrainError where the rows do not make one step."""
        job = self.job
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
        return plan

    def _load_best(self, trainer: Any, callback: TrainCallback, step: int) -> int:
        """Load the weights of the best checkpoint that is kept into the model. Returns its step;
        `step`, the current one, where there is none better."""
        ranks = self.job.ranks
        kept = dict(checkpoints(self.job.directory))
        best = None
        if ranks.is_first:
            whole = [number for number, folder in kept.items() if checkpoint_is_whole(folder)]
            best = callback.best_of(whole)

        best = ranks.of_first(best)
        if best is None or best == step:
            return step

        # All ranks of a split model read it together.
        if self.job.parameters.is_sharded() and not all(ranks.gathered(best in kept)):
            self.job.warn(
                "best_not_everywhere",
                f"The model is that of step {step:,} and not of step {best:,}, the best of those "
                "kept: that checkpoint is on one node alone.",
            )
            return step

        # Of ranks on machines of their own the first alone has it, and publishes the model.
        if best in kept:
            trainer._load_from_checkpoint(str(kept[best]))

        self.job.say(f"The model is that of step {best:,}, the best of those kept.")
        return best

    def _report_start(self, plan: Plan, rows: RowCounts, trainable_count: int) -> None:
        job = self.job
        resumed = {"resumed_from": job.resumed_step} if job.spec.attempt > 1 else {}
        job.emit(
            "started",
            device=asdict(self.device) | job.place,
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
            **resumed,
            **self._ranks_facts(),
        )

        rows_per_step = job.parameters.rows_per_step()
        job.say(
            f"{counted(plan.total_steps, 'step')} of {counted(rows_per_step, 'row')}, "
            f"{trainable_count:,} weights to train"
        )

    def _ranks_facts(self) -> dict[str, Any]:
        """What is reported of a train on several devices besides."""
        ranks = self.job.ranks
        if not ranks.are_several:
            return {}

        strategy = "shard" if self.job.parameters.is_sharded() else "replicate"
        return {"ranks": ranks.count, "strategy": strategy}


def _ranks_text(job: Job) -> str:
    if not job.ranks.are_several:
        return ""

    how = "the model split over them" if job.parameters.is_sharded() else "a whole copy on each"
    return f" on each of {job.ranks.count} devices, {how}"


def versions() -> dict[str, str]:
    return {name: str(library.__version__) for name, library in VERSIONS.items()}
