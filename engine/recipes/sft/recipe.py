"""Supervised fine-tuning, from top to bottom: model, data, trainer, train, save."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
import trl
from trl.trainer.sft_config import SFTConfig

from engine import samples
from engine.card import Facts, card_write
from engine.data import prepare
from engine.events import Plan, Watch
from engine.failures import Stopped, TrainError
from engine.hardware import Device, Precision, detect, precision_choose
from engine.job import Job
from engine.model import (
    adapter_add,
    fit_check,
    max_tokens_of,
    model_load,
    model_save,
    parameter_counts,
    stop_tokens_learn,
)
from engine.recipes.sft.parameters import SftParameters
from engine.render import Renderer, tokenizer_load
from engine.trainer import Trainer, quiet, settle, trainer_options

VERSIONS = {"torch": torch, "transformers": transformers, "trl": trl, "peft": peft}


def train(job: Job) -> bool:
    """Train, write events, checkpoints and model/; whether it came to its end, and was not stopped before."""
    spec, given = job.spec, job.parameters
    assert isinstance(given, SftParameters)
    versions = {name: str(library.__version__) for name, library in VERSIONS.items()}
    job.say(f"{spec.name}: {spec.method} on {spec.base_model_name}, attempt {spec.attempt}")

    job.phase("loading model")
    quiet()
    device = detect()
    settle(device, given.seed)
    precision = precision_choose(given.precision, device, adapter=given.adapter == "lora")
    tokenizer = tokenizer_load(Path(spec.base_model_path))
    model: Any = model_load(Path(spec.base_model_path), precision, device, given)
    fit_check(model, tokenizer)
    parameter_count, _ = parameter_counts(model)
    job.say(f"{parameter_count:,} weights on {device.name}, {precision.name}, {device.threads} threads")
    job.stop_check()

    job.phase("preparing data")
    renderer = Renderer(tokenizer, system_prompt=spec.system_prompt, answers_only=given.answers_only, warn=job.warn)
    max_tokens = max_tokens_of(job, model)
    data = prepare(job, renderer, max_tokens)
    prompts = samples.prompts_of(data.sample_examples, renderer, max_tokens)
    job.say(
        f"{data.train_rows:,} rows to train on, {data.eval_rows:,} held out, {data.cut_rows:,} cut at "
        f"{max_tokens:,} tokens, {data.left_out_rows:,} left out because their whole answer was cut"
    )

    if given.adapter == "lora":
        model = adapter_add(model, given)
    stop_tokens_learn(model, tokenizer, data.turn_ends)
    _, trainable_count = parameter_counts(model)
    options = config_of(job, given, device, precision, max_tokens)
    trainer = Trainer(
        model=model,
        args=options,
        train_dataset=data.train,
        eval_dataset=data.evaluation,
        processing_class=tokenizer,
        grouped=not (given.packing or given.more.get("train_sampling_strategy")),
    )
    plan = Plan.of(given, data.train_rows, data.eval_rows, len(trainer.get_train_dataloader()))
    watch = Watch(job, plan)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(watch)
    job.emit(
        "started",
        device=asdict(device),
        versions=versions,
        precision=precision.name,
        parameter_count=parameter_count,
        trainable_count=trainable_count,
        train_rows=data.train_rows,
        eval_rows=data.eval_rows,
        left_out_rows=data.left_out_rows,
        total_steps=plan.total_steps,
        steps_per_epoch=plan.steps_per_epoch,
        evaluate_every=plan.evaluate_every,
    )
    job.say(
        f"{plan.total_steps:,} steps of {given.batch_size * given.gradient_accumulation_steps} rows, "
        f"{trainable_count:,} weights to train"
    )

    watch.enter("evaluating")
    samples.write(job, trainer.model, tokenizer, prompts, "before", 0)
    if data.evaluation is not None and spec.resume_from is None:
        trainer.evaluate()
    job.stop_check()

    try:
        trainer.train(resume_from_checkpoint=job.checkpoint_given())
    except Stopped:
        # Asked for in the midst of an evaluation: the step before it is complete.
        trainer.checkpoint_now()
    step = trainer.state.global_step
    is_stopped = step < plan.total_steps

    watch.enter("saving")
    facts = Facts(
        device=device.name, precision=precision.name, versions=versions,
        parameter_count=parameter_count, trainable_count=trainable_count,
        train_rows=data.train_rows, eval_rows=data.eval_rows, step=step, total_steps=plan.total_steps,
        metrics=watch.last, is_adapter=given.adapter == "lora", is_stopped=is_stopped,
    )  # fmt: skip
    model_bytes = model_save(job, trainer.model, tokenizer, precision, card_write(job, facts))
    job.say(f"model saved ({model_bytes / 2**20:.0f} MB)")
    watch.enter("evaluating")
    samples.write(job, trainer.model, tokenizer, prompts, "after", step)
    if is_stopped:
        job.emit("stopped", step=step, model_bytes=model_bytes)
        job.say(f"Stopped after step {step:,}.")
    else:
        job.emit("finished", step=step, model_bytes=model_bytes, metrics=watch.last)
        job.say("Finished.")
    return not is_stopped


def config_of(job: Job, given: SftParameters, device: Device, precision: Precision, max_tokens: int) -> SFTConfig:
    """The trainer's options: every method's, this one's, and those that were asked for by their own name."""
    options = trainer_options(job, device, precision) | {
        "max_length": max_tokens,
        "packing": given.packing,
        "neftune_noise_alpha": given.neftune_noise_alpha or None,
        # Without packing the rows are cut and labelled already; preparing them again would only copy them.
        "dataset_kwargs": {"skip_prepare_dataset": not given.packing},
    }
    try:
        return SFTConfig(**options | {name: value for name, value in given.more.items() if value is not None})
    except (TypeError, ValueError) as error:
        raise TrainError(
            "bad_option", f"The trainer refuses an option: {error}", "Copy the train and correct it."
        ) from error
