"""A reward model, from top to bottom: model, data, trainer, train, save."""

from __future__ import annotations

from typing import Any

import torch
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from engine.chat.render import Renderer
from engine.data.cache import Rows
from engine.data.pairs import pair_add, prepare
from engine.fast.choose import switch_on
from engine.loading.model import max_tokens_of, scorer_load
from engine.rows.examples import Example
from engine.run import samples
from engine.run.job import Job
from engine.run.session import Session
from engine.run.trainer import PreparedRows
from engine.schema.reward import RewardParameters


class Trainer(PreparedRows, RewardTrainer):
    def rows_of(self, inputs: Any) -> int:
        """The better answers come first, then the worse ones."""
        return len(inputs["input_ids"]) // 2


def train(job: Job) -> bool:
    """Train; write events, checkpoints and model/. False where it was stopped before its end."""
    parameters = job.parameters
    assert isinstance(parameters, RewardParameters)
    session = Session.open(job, scorer_load)
    model, tokenizer = session.model, session.tokenizer
    # The model finds the end of each text by its padding.
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id

    renderer = Renderer(
        tokenizer, system_prompt=job.spec.system_prompt, thinking=parameters.thinking, warn=job.warn
    )
    max_tokens = max_tokens_of(job, model, parameters.max_tokens)
    data = prepare(job, renderer, max_tokens, whole_pair_add)

    model = session.adapted("SEQ_CLS")
    switch_on(session, model)
    trainer = Trainer(
        model=model,
        args=session.options(
            RewardConfig,
            # Rows are cut already.
            max_length=None,
            center_rewards_coefficient=parameters.center_rewards_coefficient or None,
        ),
        train_dataset=data.train,
        eval_dataset=data.evaluation,
        processing_class=tokenizer,
        lengths=data.lengths,
    )

    def scores_write(stage: str, step: int) -> None:
        for index, example in enumerate(data.sample_examples):
            score_write(
                job,
                trainer.model,
                renderer,
                example,
                max_tokens,
                index=index,
                stage=stage,
                step=step,
            )

    return session.run(trainer, data.counts, scores_write)


def whole_pair_add(rows: Rows, example: Example, renderer: Renderer, max_tokens: int) -> None:
    """Add a pair as chosen_ids and rejected_ids, each with its prompt."""
    pairs = Rows()
    pair_add(pairs, example, renderer, max_tokens)
    rows.left_out += pairs.left_out
    rows.alike += pairs.alike
    rows.codes |= pairs.codes
    rows.cut += pairs.cut

    # One row, or none where the pair is left out.
    for index, length in enumerate(pairs.lengths):
        prompt = pairs.columns["prompt_ids"][index]
        rows.add(
            example,
            length,
            chosen_ids=prompt + pairs.columns["chosen_ids"][index],
            rejected_ids=prompt + pairs.columns["rejected_ids"][index],
        )


@torch.no_grad()
def score_write(
    job: Job,
    model: Any,
    renderer: Renderer,
    example: Example,
    max_tokens: int,
    *,
    index: int,
    stage: str,
    step: int,
) -> None:
    """Write the scores of both answers of a held-out pair as a sample event."""
    model.eval()
    scores = {}

    for side in ("chosen", "rejected"):
        prompt, answer = renderer.answered(
            example.messages or [], getattr(example, side), example.tools
        )
        ids = torch.tensor([(prompt + answer)[:max_tokens]], device=model.device)
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits  # (1, 1)
        scores[side] = round(float(logits[0, 0]), 4)

    text = f"better answer {scores['chosen']:+.2f}, worse answer {scores['rejected']:+.2f}"
    text = text.replace("-", "−")

    job.emit(
        "sample",
        index=index,
        stage=stage,
        step=step,
        prompt=samples.shown(example.asked),
        reference=example.answer,
        text=text,
        rewards=scores,
    )

    job.say(f"sample {index + 1} {stage}: {text}")
