"""What GRPO and PPO share: prompts, the answers that the model writes to them, their rewards, and
checkpoints between writing answers and learning from them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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
from engine.data.split import notes_warn, rows_read, sample_examples, split
from engine.messages.failures import TrainError
from engine.messages.plural import are, counted
from engine.rewards.base import Answer
from engine.rewards.panel import Failure, Panel, Scores
from engine.rows.examples import Example
from engine.run.job import Job
from engine.run.samples import Stop, shown
from engine.run.session import RowCounts
from engine.run.trainer import TrainerHooks, weighted_mean
from engine.schema.rollouts import RolloutParameters

# Evaluating means writing answers, which takes most of the time of these methods: this many prompts
# are enough.
EVALUATION_PROMPTS = 32
# How many answers of a step are reported, in how many steps of a train.
REPORTED_COMPLETIONS = 4
REPORTED_STEPS = 200

# Evaluation metrics without meaning where each prompt has one answer and nothing is learned from it.
GROUP_METRICS = ("clip_ratio/", "frac_reward_zero_std")

STATE = "rollouts.json"
BUFFER = "rollouts.safetensors"


@dataclass
class Prompts:
    """`rows`: the conversations and references by number, `values`: those columns of them that
    rewards read; `train` and `evaluation`: rendered prompts with the numbers of their rows."""

    rows: list[Example]
    values: list[dict[str, Any]]
    train: Dataset
    evaluation: Dataset | None
    counts: RowCounts
    sample_examples: list[Example]


class PromptRow(NamedTuple):
    """A row with its rendered prompt, and the columns of it that rewards read. number: of the row in
    the file."""

    number: int
    example: Example
    text: str
    values: dict[str, Any]


def prepare(
    job: Job, renderer: Renderer, max_prompt_tokens: int, columns: set[str] | None
) -> Prompts:
    """Read, render and split. Prompts that are too long are left out. columns: which of the rows
    are kept for rewards, None for all. Raises TrainError where no prompt is left."""
    rows, left_out, notes = _read(
        job, job.spec.dataset, renderer, max_prompt_tokens, job.parameters.max_samples, columns
    )

    evaluation_rows = None
    evaluation_notes = None
    if job.spec.evaluation_dataset is not None:
        evaluation_rows, _, evaluation_notes = _read(
            job, job.spec.evaluation_dataset, renderer, max_prompt_tokens, None, columns
        )

    notes_warn(job, notes, evaluation_notes)

    too_long = f"{counted(left_out, 'prompt')} {are(left_out)}"
    why_none = f": {too_long} longer than {max_prompt_tokens:,} tokens" if left_out else ""
    parts = split(
        job,
        [row.number for row in rows],
        len(evaluation_rows) if evaluation_rows is not None else None,
        why_none=why_none,
    )

    # The numbers of the evaluation dataset's rows follow those of the training data.
    all_rows = rows + (evaluation_rows or [])
    first_held_out = 0 if evaluation_rows is None else len(rows)
    held_out = [first_held_out + index for index in parts.held_out[:EVALUATION_PROMPTS]]

    examples = [row.example for row in all_rows]
    prompts = Prompts(
        rows=examples,
        values=[row.values for row in all_rows],
        train=_dataset(all_rows, parts.kept),
        evaluation=_dataset(all_rows, held_out) if held_out else None,
        counts=RowCounts(len(parts.kept), len(held_out), left_out + notes.refused),
        sample_examples=sample_examples(
            job,
            parts,
            examples.__getitem__,
            lambda index: examples[first_held_out + index],
        ),
    )

    job.say(
        f"{counted(len(parts.kept), 'prompt')} to train on, {len(held_out):,} of the "
        f"{len(parts.held_out):,} held out to be measured, "
        f"{left_out:,} longer than {max_prompt_tokens:,} tokens and left out"
    )

    if left_out:
        job.warn(
            "rows_left_out", f"{too_long} left out, being longer than {max_prompt_tokens:,} tokens."
        )

    return prompts


def _read(
    job: Job,
    data: DataFile,
    renderer: Renderer,
    max_prompt_tokens: int,
    limit: int | None,
    columns: set[str] | None,
) -> tuple[list[PromptRow], int, RowNotes]:
    """(rows with their rendered prompts, how many were too long, what the template did to them)."""
    rows: list[PromptRow] = []
    left_out = 0
    notes = RowNotes()

    for index, (number, line, example, values) in enumerate(rows_read(job, data)):
        if limit is not None and index >= limit:
            break

        question = Example(messages=example.asked, tools=example.tools)
        try:
            text = renderer.prompt(renderer.messages(question), example.tools)
        except TemplateProblem as problem:
            notes.refuse(line, problem)
            continue

        notes.see(line, ())
        ids = renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) > max_prompt_tokens:
            left_out += 1
        else:
            kept = {
                name: value for name, value in values.items() if columns is None or name in columns
            }
            rows.append(PromptRow(number, example, text, kept))

    notes.settle()
    return rows, left_out, notes


def _dataset(rows: list[PromptRow], numbers: list[int]) -> Dataset:
    """The rendered prompts of these rows, with the numbers by which their answers are scored."""
    prompts = [rows[number].text for number in numbers]
    return Dataset.from_dict({"prompt": prompts, "number": numbers})


class FailedAnswer(NamedTuple):
    """An answer that could not be scored: its row among the answers of its rank, the reward that
    failed, and for people why and on which prompt."""

    rank: int
    row: int
    function: str
    text: str
    prompt: str


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
    """Writes answers, has them scored and learns from them. `panel` scores; `prompts` holds the
    rows; `stops`: the tokens that end an answer."""

    # transformers declares each of these as one of several types.
    args: Any
    model: Any
    processing_class: Any
    _buffered_inputs: Any

    # Whether answers may not end before the longest; see engine.programs.one_step.
    writes_in_full = False

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
        # Prompts in each batch of the current evaluation.
        self.evaluated: list[int] = []
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
        if self.writes_in_full:
            self.generation_config.min_new_tokens = self.max_completion_length

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
        """Without special tokens: the chat template has written them already."""
        ids = self.processing_class(text=prompts, add_special_tokens=False)["input_ids"]
        return ids, None, {}

    def _generate_single_turn(self, *arguments: Any, **options: Any) -> Any:
        written = super()._generate_single_turn(*arguments, **options)  # type: ignore[no-untyped-call]
        self.job.stop_check_together()
        return written

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: Any,
        completions: list[str],
        completion_ids_list: list[list[int]],
    ) -> torch.Tensor:
        """Shape (answers of all ranks, functions); a row of NaN for an answer that one of the
        functions could not score. Each rank has its own answers scored. Raises TrainError where no
        answer is scored, or a failure is to end the train."""
        answers = []
        for row, text in zip(inputs, completions, strict=True):
            number = row["number"]
            example, values = self.prompts.rows[number], self.prompts.values[number]
            answers.append(Answer(example.asked, text.strip(), example.answer, values))

        scores = self.panel.score(answers)
        ranks = self.job.ranks
        failures = [
            failure
            for of_rank in ranks.gathered(self._described(scores.failures, answers))
            for failure in of_rank
        ]
        totals = [total for of_rank in ranks.gathered(scores.totals) for total in of_rank]
        if failures:
            self._failures_report(failures, len(totals))

        if all(total is None for total in totals):
            raise TrainError(
                "nothing_scored",
                f"None of {len(totals)} answers has a score from every reward. {failures[0].text}",
                "Try the rewards on a few rows before the train, and choose others.",
            )

        if self.model.training:
            self._completions_report(answers, scores, totals, completion_ids_list)

        table = []
        for index, total in enumerate(scores.totals):
            values = [column[index] for column in scores.values.values()]
            # An answer that lacks one score counts with none: TRL's sum would take the missing one
            # for 0.
            table.append([math.nan] * len(values) if total is None else values)

        own = torch.tensor(table, dtype=torch.float32, device=self.accelerator.device)
        gathered: torch.Tensor = self.accelerator.gather(own)
        return gathered

    def _described(self, failures: list[Failure], answers: list[Answer]) -> list[FailedAnswer]:
        """As other ranks can read them."""
        index = self.job.ranks.index
        described = []
        for failure in failures:
            prompt = shown(answers[failure.row].prompt)
            described.append(
                FailedAnswer(index, failure.row, failure.function, str(failure), prompt)
            )

        return described

    def _failures_report(self, failures: list[FailedAnswer], count: int) -> None:
        """Warn of answers, of `count`, that could not be scored. Raises TrainError where that is to
        end the train."""
        first = failures[0]
        message = f"{first.text} The prompt was: {first.prompt[:200]!r}"

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
        unscored = {(failure.rank, failure.row) for failure in failures}
        self._metrics[mode]["rewards/unscored"].append(len(unscored) / count)

    def _completions_report(
        self,
        answers: list[Answer],
        scores: Scores,
        totals: list[float | None],
        ids: list[list[int]],
    ) -> None:
        """Write some answers of this step as events, with their rewards, so that people see what is
        rewarded. `totals`: of the answers of all ranks, of which those of the first come first."""
        step = self.state.global_step + 1
        every = max(1, math.ceil(self.state.max_steps / REPORTED_STEPS))
        if step == self.reported_step or (step - 1) % every:
            return

        self.reported_step = step
        advantages = self.advantages(totals)

        for index, answer in enumerate(answers[:REPORTED_COMPLETIONS]):
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
        """The advantage of each answer over the mean of its group, as TRL scales it; None for an
        answer without a score. None in place of the list where answers have no advantage as a
        whole."""
        group = self.num_generations
        if not group or len(totals) % group:
            return None

        rewards = torch.tensor(
            [math.nan if total is None else total for total in totals], dtype=torch.float64
        )
        groups = rewards.view(-1, group)  # (prompts, answers to each)
        advantages = groups - groups.nanmean(dim=1, keepdim=True)

        if self.scale_rewards == "group":
            advantages = advantages / (nanstd(groups, dim=1).view(-1, 1) + 1e-4)
        elif self.scale_rewards == "batch":
            advantages = advantages / (nanstd(rewards) + 1e-4)

        values = [float(value) for value in advantages.flatten()]
        return [value if math.isfinite(value) else None for value in values]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Without the loss of held-out prompts, which has no meaning here."""
        is_evaluation = logs.pop("eval_loss", None) is not None

        metrics = self._metrics["eval"]
        if is_evaluation:
            # Batches, and the rounds of several ranks, differ in size.
            weights = self.evaluated
            if self.ranks.are_several:
                weights = [entry.rows for entry in self.rounds]

            for name, values in metrics.items():
                if len(values) == len(weights):
                    metrics[name] = [mean_of_scored(values, weights)]

            self.evaluated.clear()

        for name in list(metrics):
            if name.startswith(GROUP_METRICS):
                del metrics[name]

        super().log(logs, start_time)

    def prediction_step(self, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        self.evaluated.append(len(inputs))
        return super().prediction_step(model, inputs, *arguments, **options)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """With the answers that are still to be learned from: new ones would differ, and so would
        the resumed train."""
        super()._save_checkpoint(model, trial)  # type: ignore[no-untyped-call]
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if self.job.ranks.is_first:
            state = {"step": self._step, "told_at": self.reported_step}
            (folder / STATE).write_text(json.dumps(state))

        steps_per_answers = self.args.steps_per_generation * self.num_iterations
        if not self._step % steps_per_answers or not self._buffered_inputs:
            return

        tensors = {}
        for number, batch in enumerate(self._buffered_inputs):
            for name, value in batch.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{number}.{name}"] = value.clone().contiguous()

        save_file(tensors, folder / self._buffer_name())

    def _buffer_name(self) -> str:
        """Each rank learns from answers of its own."""
        ranks = self.job.ranks
        return f"rollouts.{ranks.index}.safetensors" if ranks.are_several else BUFFER

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        folder = Path(resume_from_checkpoint)
        state = json.loads((folder / STATE).read_text())
        self._step = state["step"]
        self.reported_step = state["told_at"]

        buffer = folder / self._buffer_name()
        if not buffer.exists():
            return

        batches: list[dict[str, Any]] = [{} for _ in range(self.args.steps_per_generation)]
        tensors = load_file(buffer, device=str(self.accelerator.device))
        for name, value in tensors.items():
            number, _, key = name.partition(".")
            batches[int(number)][key] = value

        self._buffered_inputs = batches


def mean_of_scored(values: Sequence[float], weights: Sequence[float]) -> float:
    """As weighted_mean, without batches that have no value; NaN where none has."""
    scored = [pair for pair in zip(values, weights, strict=True) if not math.isnan(pair[0])]
    return weighted_mean(*zip(*scored, strict=True)) if scored else math.nan


def _placeholder(name: str) -> Any:
    """TRL wants a function for each reward's name; the panel computes them all at once."""

    def reward(**rows: Any) -> list[float]:
        raise NotImplementedError

    reward.__name__ = name
    return reward


def rollout_options(parameters: RolloutParameters) -> dict[str, Any]:
    """The options of GRPOConfig that both methods take."""
    return {
        "max_completion_length": parameters.max_completion_tokens,
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
        "reward_weights": [choice.weight for choice in parameters.rewards],
        "use_vllm": parameters.use_vllm,
        # One answer a prompt while measuring.
        "num_generations_eval": 1,
        # Answers are to be scored by the model that wrote them.
        "disable_dropout": True,
    }


def context_check(job: Job, model: Any, parameters: RolloutParameters) -> None:
    """Raises TrainError where prompt and answer together are more than the model reads."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    wanted = parameters.max_prompt_tokens + parameters.max_completion_tokens
    if context is not None and wanted > context:
        raise TrainError(
            "context_length",
            f"{parameters.max_prompt_tokens:,} prompt and {parameters.max_completion_tokens:,} answer tokens "
            f"are more than the {context:,} that {job.spec.base_model_name} reads.",
            "Lower max prompt tokens or max answer tokens.",
        )
