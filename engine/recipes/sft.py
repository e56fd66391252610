"""Supervised fine-tuning, from top to bottom: model, data, trainer, train, save."""

from __future__ import annotations

from functools import partial

from trl.trainer.sft_config import SFTConfig

from engine.chat.render import Renderer
from engine.data.conversations import prepare
from engine.fast.choose import switch_on
from engine.loading.model import max_tokens_of, stop_tokens_learn
from engine.messages.plural import counted
from engine.recipes.sft_trainer import Trainer
from engine.run import samples
from engine.run.job import Job
from engine.run.session import RowCounts, Session
from engine.schema.sft import SftParameters


def train(job: Job) -> bool:
    """Train; write events, checkpoints and model/. False where it was stopped before its end."""
    parameters = job.parameters
    assert isinstance(parameters, SftParameters)
    session = Session.open(job)
    model, tokenizer = session.model, session.tokenizer

    renderer = Renderer(
        tokenizer,
        system_prompt=job.spec.system_prompt,
        answers_only=parameters.answers_only,
        thinking=parameters.thinking,
        warn=job.warn,
    )

    max_tokens = max_tokens_of(job, model, parameters.max_tokens)
    data = prepare(job, renderer, max_tokens)
    prompts = samples.prompts_of(data.sample_examples, renderer, max_tokens)
    job.say(
        f"{counted(data.train_rows, 'row')} to train on, {data.eval_rows:,} held out, "
        f"{data.cut_rows:,} cut at {max_tokens:,} tokens, {data.left_out_rows:,} left out"
    )

    model = session.adapted()
    stop_tokens_learn(model, tokenizer, data.turn_ends)
    paths = switch_on(session, model, rows=data.train[:2]["input_ids"])
    packing = parameters.packing and paths.segments
    if parameters.packing and not packing:
        job.warn(
            "not_packed",
            "Packing is off: this model does not keep the rows of a packed sequence apart. They "
            "are padded instead.",
        )

    trainer = Trainer(
        model=model,
        args=session.options(
            SFTConfig,
            # Without packing the rows are cut already.
            max_length=max_tokens if packing else None,
            packing=packing,
            padding_free=paths.segments,
            neftune_noise_alpha=parameters.neftune_noise_alpha or None,
            # Without packing the rows are cut and labelled already; preparing them again would only
            # copy them.
            dataset_kwargs={"skip_prepare_dataset": not packing},
        ),
        train_dataset=data.train,
        eval_dataset=data.evaluation,
        processing_class=tokenizer,
        plain_attention=paths.plain_attention,
        grouped=not (paths.segments or parameters.more.get("train_sampling_strategy")),
    )

    rows = RowCounts(data.train_rows, data.eval_rows, data.left_out_rows)
    return session.run(
        trainer, rows, partial(samples.write, job, trainer.model, tokenizer, prompts)
    )
