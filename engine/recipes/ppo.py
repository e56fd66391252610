"""Proximal policy optimisation, from top to bottom: model, data, trainer, train, save."""

from __future__ import annotations

from functools import partial

from trl.trainer.grpo_config import GRPOConfig

from engine.chat.render import Renderer
from engine.fast.choose import switch_on
from engine.loading.model import stop_tokens_learn
from engine.recipes.ppo_trainer import PpoTrainer
from engine.recipes.rollouts import context_check, prepare, rollout_options
from engine.rewards.panel import Panel
from engine.run import samples
from engine.run.job import Job
from engine.run.session import Session
from engine.schema.ppo import PpoParameters


def train(job: Job) -> bool:
    """Train; write events, checkpoints and model/. False where it was stopped before its end."""
    parameters = job.parameters
    assert isinstance(parameters, PpoParameters)
    session = Session.open(job)
    model, tokenizer = session.model, session.tokenizer
    context_check(job, model, parameters)

    panel = Panel.of(parameters.rewards, job.spec.resources)
    renderer = Renderer(tokenizer, system_prompt=job.spec.system_prompt, warn=job.warn)
    data = prepare(job, renderer, parameters.max_prompt_tokens, panel.columns)
    prompts = samples.prompts_of(data.sample_examples, renderer, parameters.max_prompt_tokens)

    model = session.adapted()
    stop_tokens_learn(model, tokenizer, set(renderer.stop_ids(None)))
    switch_on(session, model, entropy_is_learned=bool(parameters.more.get("entropy_coef")))
    trainer = PpoTrainer(
        parameters=parameters,
        job=job,
        panel=panel,
        prompts=data,
        stops=renderer.stop_ids(model.generation_config.eos_token_id),
        model=model,
        tokenizer=tokenizer,
        args=session.options(
            GRPOConfig,
            # A number that passes TRL's checks; the trainer sets it to 1.
            num_generations=parameters.effective_batch(),
            num_iterations=parameters.ppo_epochs,
            beta=parameters.kl_coef,
            epsilon=parameters.clip_range,
            # A mean over the tokens of all answers of the step.
            loss_type="dapo",
            scale_rewards="none",
            **rollout_options(parameters),
        ),
    )

    return session.run(
        trainer, data.counts, partial(samples.write, job, trainer.model, tokenizer, prompts)
    )
