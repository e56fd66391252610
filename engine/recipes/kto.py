"""Learning from rated answers (KTO), from top to bottom: model, data, trainer, train, save."""

from __future__ import annotations

from functools import partial
from typing import Any

from datasets import Dataset  # type: ignore[import-untyped]
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer

from engine.chat.render import Renderer
from engine.data.pairs import prepare, rating_add
from engine.fast.choose import switch_on
from engine.loading.model import max_tokens_of, stop_tokens_learn
from engine.messages.failures import TrainError
from engine.run import samples
from engine.run.job import Job
from engine.run.session import Session
from engine.run.trainer import PreparedRows
from engine.schema.kto import KtoParameters


class Trainer(PreparedRows, KTOTrainer):
    def rows_of(self, inputs: Any) -> int:
        return len(inputs["label"])


def train(job: Job) -> bool:
    """Train; write events, checkpoints and model/. False where it was stopped before its end."""
    parameters = job.parameters
    assert isinstance(parameters, KtoParameters)
    session = Session.open(job)
    model, tokenizer = session.model, session.tokenizer

    renderer = Renderer(
        tokenizer, system_prompt=job.spec.system_prompt, thinking=parameters.thinking, warn=job.warn
    )
    max_tokens = max_tokens_of(job, model, parameters.max_tokens)
    data = prepare(job, renderer, max_tokens, rating_add)
    prompts = samples.prompts_of(data.sample_examples, renderer, max_tokens)
    labels_check(job, data.train["label"])

    model = session.adapted()
    if parameters.adapter == "none":
        job.say(
            "the reference model is a second copy of the base model: it needs as much memory again"
        )

    stop_tokens_learn(model, tokenizer, set(renderer.stop_ids(None)))
    switch_on(session, model)
    evaluation = data.evaluation
    rows_at_once = parameters.batch_size * parameters.devices
    if evaluation is not None:
        evaluation = mismatched(evaluation, rows_at_once)

    # In random order: rows of similar length would have the same label, where good answers are
    # longer than bad ones.
    trainer = Trainer(
        model=model,
        args=session.options(
            KTOConfig,
            # Rows are cut already.
            max_length=None,
            beta=parameters.beta,
            loss_type=parameters.loss_type,
            desirable_weight=parameters.desirable_weight,
            undesirable_weight=parameters.undesirable_weight,
        ),
        train_dataset=mismatched(data.train, rows_at_once),
        eval_dataset=evaluation,
        processing_class=tokenizer,
    )

    return session.run(
        trainer, data.counts, partial(samples.write, job, trainer.model, tokenizer, prompts)
    )


def labels_check(job: Job, labels: list[bool]) -> None:
    """Raises TrainError where all answers have the same label: there is nothing to tell apart
    then."""
    good = sum(labels)
    bad = len(labels) - good
    job.say(f"{good:,} good answers, {bad:,} bad ones")

    if not good or not bad:
        raise TrainError(
            "one_label",
            f"All {len(labels):,} answers are rated {'good' if good else 'bad'}: there is nothing "
            "to tell apart.",
            "Choose a dataset with good and bad answers.",
        )


def mismatched(rows: Dataset, batch_size: int) -> Dataset:
    """The rows with a column KL_completion_ids: the answer of the previous row in the same batch, by
    which KTO estimates how far the model has moved overall. Paired as TRL does: the first row of a
    batch takes the last answer of the batch; a batch of one row takes the answer of the row before
    it."""
    answers = rows["completion_ids"]
    others = []

    for index in range(len(answers)):
        start = index - index % batch_size
        end = min(start + batch_size, len(answers))
        is_first_of_several = index == start and end - start > 1
        others.append(answers[end - 1 if is_first_of_several else index - 1])

    return rows.add_column("KL_completion_ids", others)
