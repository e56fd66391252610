"""What GRPO and PPO share: prompts, answers that the model writes itself, their rewards, and
resuming between them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-untyped]
from safetensors.torch import load_file, save_file
from transformers import StoppingCriteriaList
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import RepeatSampler, nanstd

from engine.chat.render import Renderer
from engine.chat.row_notes import RowNotes
from engine.chat.template import TemplateProblem
from engine.contract.rundir import DataFile
from engine.data.split import asked, examples_read, notes_warn, split
from engine.messages.failures import Stopped, TrainError
from engine.messages.plural import are, counted
from engine.rewards.base import Answer
from engine.rewards.panel import Panel, Scores
from engine.rows.examples import Example
from engine.run.job import Job
from engine.run.samples import Stop, shown
from engine.run.session import RowCounts
from engine.run.trainer import TrainerHooks
from engine.schema.rollouts import RolloutParameters

# Measuring means writing answers, which is most of the time of these methods: so many prompts tell
# enough.
EVALUATION_PROMPTS = 32
# Of the answers of a logged step so many are told, over so many steps of a train.
COMPLETIONS_TOLD = 4
STEPS_TOLD = 200

# What says nothing where each prompt has one answer and nothing is learned from it.
SINGLE = ("clip_ratio/", "frac_reward_zero_std")

STATE, BUFFER = "rollouts.json", "rollouts.safetensors"


@dataclass
class Prompts:
    """`rows`: the conversations and references by number; `train` and `evaluation`: rendered
    prompts and numbers."""

    rows: list[Example]
    train: Dataset
    evaluation: Dataset | None
    counts: RowCounts
    sample_examples: list[Example]


def prepare(job: Job, renderer: Renderer, max_prompt_tokens: int) -> Prompts:
    """Read, render and split. Prompts that are too long are left out. Raises TrainError where none
    is left."""
    rows, left_out, notes = _read(
        job, job.spec.dataset, renderer, max_prompt_tokens, job.parameters.max_samples
    )
    evaluation = job.spec.evaluation_dataset
    other, other_notes = None, None

    if evaluation is not None:
        other, _, other_notes = _read(job, evaluation, renderer, max_prompt_tokens, None)

    notes_warn(job, notes, other_notes)

    too_long = f"{counted(left_out, 'prompt')} {are(left_out)}"
    why = f": {too_long} longer than {max_prompt_tokens:,} tokens" if left_out else ""
    found = split(job, len(rows), len(other) if other is not None else None, why_none=why)
    examples = [example for example, _ in rows]
    others = [example for example, _ in other] if other is not None else None
    held_out = found.held_out[:EVALUATION_PROMPTS]
    measured = rows if other is None else other
    start = 0 if other is None else len(rows)
    prepared = Prompts(
        rows=examples + (others or []),
        train=_dataset(rows, found.kept, 0),
        evaluation=_dataset(measured, held_out, start) if held_out else None,
        counts=RowCounts(len(found.kept), len(held_out), left_out + notes.refused),
        sample_examples=asked(
            job, found, examples.__getitem__, others.__getitem__ if others is not None else None
        ),
    )

    job.say(
        f"{counted(len(found.kept), 'prompt')} to train on, {len(held_out):,} of the "
        f"{len(found.held_out):,} held out "
        f"to be measured, {left_out:,} longer than {max_prompt_tokens:,} tokens and left out"
    )

    if left_out:
        job.warn(
            "rows_left_out", f"{too_long} left out, being longer than {max_prompt_tokens:,} tokens."
        )

    return prepared


def _read(
    job: Job, data: DataFile, renderer: Renderer, max_prompt_tokens: int, limit: int | None
) -> tuple[list[tuple[Example, str]], int, RowNotes]:
    """(rows with their rendered prompts, how many were too long, what the template did to them)."""
    rows: list[tuple[Example, str]] = []
    left_out = 0
    notes = RowNotes()

    for number, (line, example) in enumerate(examples_read(job, data)):
        if limit is not None and number >= limit:
            break

        try:
            asked_turns = renderer.messages(Example(messages=example.asked, tools=example.tools))
            text = renderer.prompt(asked_turns, example.tools)
        except TemplateProblem as problem:
            notes.refuse(line, problem)
            continue

        notes.see(line, ())
        if len(renderer.tokenizer(text, add_special_tokens=False)["input_ids"]) > max_prompt_tokens:
            left_out += 1
        else:
            rows.append((example, text))

    notes.settle()
    return rows, left_out, notes


def _dataset(rows: list[tuple[Example, str]], indices: list[int], start: int) -> Dataset:
    return Dataset.from_dict(
        {
            "prompt": [rows[index][1] for index in indices],
            "number": [start + index for index in indices],
        }
    )


class PromptOrder(RepeatSampler):
    """TRL's order of prompts, which depends on seed and epoch alone: the same before and after a
    resume."""

    def __init__(self, data_source: Any, *, seed: int, **options: Any) -> None:
        super().__init__(data_source, seed=seed, **options)
        self.first_seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed(self.first_seed * 1_000_003 + self.epoch)

        return super().__iter__()  # type: ignore[no-untyped-call,no-any-return]


class RolloutTrainer(TrainerHooks, GRPOTrainer):
    """`panel` scores, `prompts` are the rows that the dataset's numbers name, `stops` the tokens
    that end an answer."""

    # Known to transformers as one of several kinds each.
    args: Any
    model: Any
    processing_class: Any
    _buffered_inputs: Any

    def __init__(
        self,
        *,
        job: Job,
        panel: Panel,
        prompts: Prompts,
        stops: list[int],
        args: Any,
        model: Any,
        tokenizer: Any,
    ) -> None:
        self.job = job
        self.panel = panel
        self.prompts = prompts
        self.reported_step = -1
        super().__init__(
            model=model,
            reward_funcs=[_placeholder(name) for name in panel.names],
            args=args,
            train_dataset=prompts.train,
            eval_dataset=prompts.evaluation,
            processing_class=tokenizer,
        )

        self.eos_token_ids = stops
        self.generation_config.eos_token_id = stops
        self.generation_kwargs["eos_token_id"] = stops
        # Long answers take minutes: a stop ends them, and the step that they were written for.
        model.generate = partial(
            model.generate,
            stopping_criteria=StoppingCriteriaList([Stop(lambda: self.job.stopping)]),
        )

    def _get_train_sampler(self, dataset: Any = None) -> PromptOrder:
        return PromptOrder(
            self.train_dataset if dataset is None else dataset,
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
        )

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """The template has written the special tokens already."""
        ids = self.processing_class(text=prompts, add_special_tokens=False)["input_ids"]
        return ids, None, {}

    def _generate_single_turn(self, *arguments: Any, **options: Any) -> Any:
        written = super()._generate_single_turn(*arguments, **options)  # type: ignore[no-untyped-call]
        if self.job.stopping:
            raise Stopped

        return written

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: Any,
        completions: list[str],
        completion_ids_list: list[list[int]],
    ) -> torch.Tensor:
        """(answers, functions), NaN throughout for an answer that one of them could not score."""
        rows = [self.prompts.rows[row["number"]] for row in inputs]
        answers = [
            Answer(row.asked, text.strip(), row.answer)
            for row, text in zip(rows, completions, strict=True)
        ]
        scores = self.panel.score(answers)
        if scores.failures:
            self._failures_tell(scores.failures, answers)

        if all(total is None for total in scores.totals):
            raise TrainError(
                "nothing_scored",
                f"None of {len(answers)} answers has a score from every reward. "
                f"{scores.failures[0]}",
                "Try the rewards on a few rows before the train, and choose others.",
            )

        if self.model.training:
            self._completions_tell(answers, scores, completion_ids_list)

        # An answer that lacks one score is left out whole: TRL's sum would count the missing one as
        # 0.
        columns = [
            [
                math.nan if total is None else score
                for score, total in zip(values, scores.totals, strict=True)
            ]
            for values in scores.values.values()
        ]
        return torch.tensor(columns, device=self.accelerator.device).T.contiguous()

    def _failures_tell(self, failures: list[Any], answers: list[Answer]) -> None:
        """Raises TrainError where a failing reward is to end the train."""
        first = failures[0]
        question = shown(answers[first.row].prompt)
        message = f"{first} The prompt was: {question[:200]!r}"

        if self.job.parameters.on_reward_error == "stop":  # type: ignore[attr-defined]
            raise TrainError(
                "reward_failed",
                f"A reward could not score an answer. {message}",
                "Correct the reward or the row, or choose to leave such answers out (More "
                "options).",
            )

        self.job.warn(
            f"reward_failed:{first.function}",
            f"Answers are left out where a reward fails. {message}",
        )
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["rewards/unscored"].append(
            len({failure.row for failure in failures}) / len(answers)
        )

    def _completions_tell(
        self, answers: list[Answer], scores: Scores, ids: list[list[int]]
    ) -> None:
        """Some answers of this step with what they were worth, so that a person sees what is
        rewarded."""
        step = self.state.global_step + 1
        every = max(1, math.ceil(max(1, self.state.max_steps) / STEPS_TOLD))
        if step == self.reported_step or (step - 1) % every:
            return

        self.reported_step = step
        advantages = self.advantages(scores.totals)
        for index, answer in enumerate(answers[:COMPLETIONS_TOLD]):
            self.job.emit(
                "sample",
                index=index,
                stage="completion",
                step=step,
                prompt=shown(answer.prompt),
                reference=answer.reference,
                text=answer.text,
                tokens=len(ids[index]),
                rewards={name: values[index] for name, values in scores.values.items()},
                advantage=advantages[index] if advantages is not None else None,
            )

    def advantages(self, totals: list[float | None]) -> list[float | None] | None:
        """How much each answer was worth beyond the mean of those to its prompt, as TRL scales it;
        None for an answer without a score, and for a method that learns from something else."""
        group = self.num_generations
        if not group or len(totals) % group:
            return None

        rewards = torch.tensor(
            [math.nan if total is None else total for total in totals], dtype=torch.float64
        )
        groups = rewards.view(-1, group)

        advantages = groups - groups.nanmean(dim=1, keepdim=True)

        if self.scale_rewards == "group":
            advantages = advantages / (nanstd(groups, dim=1).view(-1, 1) + 1e-4)
        elif self.scale_rewards == "batch":
            advantages = advantages / (nanstd(rewards) + 1e-4)

        values = [float(value) for value in advantages.flatten()]
        return [value if math.isfinite(value) else None for value in values]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Without a loss of held-out prompts, which says nothing."""
        logs.pop("eval_loss", None)
        for name in [name for name in self._metrics["eval"] if name.startswith(SINGLE)]:
            del self._metrics["eval"][name]

        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """With the answers that are still to be learned from: another draw would be another
        train."""
        super()._save_checkpoint(model, trial)  # type: ignore[no-untyped-call]
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        (folder / STATE).write_text(json.dumps({"step": self._step, "told_at": self.reported_step}))

        if (
            self._step % (self.args.steps_per_generation * self.num_iterations)
            and self._buffered_inputs
        ):
            tensors = {
                f"{number}.{name}": value.clone().contiguous()
                for number, batch in enumerate(self._buffered_inputs)
                for name, value in batch.items()
                if isinstance(value, torch.Tensor)
            }

            save_file(tensors, folder / BUFFER)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        folder = Path(resume_from_checkpoint)
        state = json.loads((folder / STATE).read_text())
        self._step, self.reported_step = state["step"], state["told_at"]

        if (folder / BUFFER).exists():
            batches: list[dict[str, Any]] = [{} for _ in range(self.args.steps_per_generation)]
            for name, value in load_file(
                folder / BUFFER, device=str(self.accelerator.device)
            ).items():
                number, _, key = name.partition(".")
                batches[int(number)][key] = value

            self._buffered_inputs = batches


def _placeholder(name: str) -> Any:
    """TRL wants a function for each reward's name; the panel computes them all at once."""

    def reward(**rows: Any) -> list[float]:
        raise NotImplementedError

    reward.__name__ = name
    return reward


def rollout_options(given: RolloutParameters) -> dict[str, Any]:
    """The options of GRPOConfig that both methods take."""
    return {
        "max_completion_length": given.max_completion_tokens,
        "temperature": given.temperature,
        "top_p": given.top_p,
        "reward_weights": [choice.weight for choice in given.rewards],
        "use_vllm": given.use_vllm,
        # One answer a prompt while measuring.
        "num_generations_eval": 1,
        # Answers are to be scored by the model that wrote them.
        "disable_dropout": True,
    }


def context_check(job: Job, model: Any, given: RolloutParameters) -> None:
    """Raises TrainError where prompt and answer together are more than the model reads."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    wanted = given.max_prompt_tokens + given.max_completion_tokens
    if context is not None and wanted > context:
        raise TrainError(
            "context_length",
            f"{given.max_prompt_tokens:,} prompt and {given.max_completion_tokens:,} answer tokens "
            "are more than the "
            f"{context:,} that {job.spec.base_model_name} reads.",
            "Lower max prompt tokens or max answer tokens.",
        )
