"""Direct preference optimisation, from top to bottom: model, data, trainer, train, save."""

from __future__ import annotations

from functools import partial
from typing import Any

from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from engine.chat.render import Renderer
from engine.data.pairs import pair_add, prepare
from engine.fast.choose import switch_on
from engine.loading.model import max_tokens_of, stop_tokens_learn
from engine.run import samples
from engine.run.job import Job
from engine.run.session import Session
from engine.run.trainer import PreparedRows
from engine.schema.dpo import DpoParameters


class Trainer(PreparedRows, DPOTrainer):
    def rows_of(self, inputs: Any) -> int:
        """The better answers come first, then the worse ones."""
        return len(inputs["input_ids"]) // 2


def train(job: Job) -> bool:
    """Train; write events, checkpoints and model/. False where it was stopped before its end."""
    parameters = job.parameters
    assert isinstance(parameters, DpoParameters)
    session = Session.open(job)
    model, tokenizer = session.model, session.tokenizer

    renderer = Renderer(
        tokenizer, system_prompt=job.spec.system_prompt, thinking=parameters.thinking, warn=job.warn
    )
    max_tokens = max_tokens_of(job, model, parameters.max_tokens)
    data = prepare(job, renderer, max_tokens, pair_add)
    prompts = samples.prompts_of(data.sample_examples, renderer, max_tokens)

    model = session.adapted()
    if parameters.adapter == "none":
        job.say(
            "the reference model is a second copy of the base model: it needs as much memory again"
        )

    stop_tokens_learn(model, tokenizer, set(renderer.stop_ids(None)))
    switch_on(session, model)
    trainer = Trainer(
        model=model,
        args=session.options(
            DPOConfig,
            # Rows are cut already.
            max_length=None,
            beta=parameters.beta,
            loss_type=[parameters.loss_type],
            label_smoothing=parameters.label_smoothing,
        ),
        train_dataset=data.train,
        eval_dataset=data.evaluation,
        processing_class=tokenizer,
        lengths=data.lengths,
    )

    return session.run(
        trainer, data.counts, partial(samples.write, job, trainer.model, tokenizer, prompts)
    )
