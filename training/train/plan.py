"""What a train will do, before it does it: rows, steps, cuts. The form shows the plan, and a train
whose plan has errors cannot start."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from core.errors import UserError
from core.text import are, counted
from datasets_app.models import Dataset, TokenLengths
from datasets_app.services import token_lengths_get
from engine.chat.row_notes import ASKED_OTHERWISE, NO_PLACE, ONLY_LAST, TAKEN_OUT, RowNotes
from engine.contract.arithmetic import (
    HOLDOUT_LIMIT,
    holdout_rows,
    total_steps,
    warmup_is_long,
    warmup_steps,
)
from engine.forecast.disk import disk_forecast
from engine.forecast.shape import ShapeUnknown, shape_read
from engine.rewards.registry import REWARDS
from engine.schema.registry import RECIPES
from engine.schema.train import TrainParameters
from methods.models import TrainingMethod
from methods.schema import method_fields, plain
from methods.services import parameters_warnings
from models_app.models import BaseModel


@dataclass
class Plan:
    """Rows and steps of a train, with warnings and errors by field.

    counted: whether the tokens of the rows are known. Only then: `cut` of `total` rows lose their
    end, and `lost` ones their whole answer.
    fixes: {field: [{"label", "effect", "set": {field: value}}]}, what a warning or error offers as
    a button."""

    effective_batch: int
    train_rows: int
    eval_rows: int
    steps_per_epoch: int
    steps: int
    counted: bool = False
    cut: int = 0
    lost: int = 0
    total: int = 0
    warnings: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    fixes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def train_plan(
    *,
    method: TrainingMethod,
    base_model: BaseModel,
    dataset: Dataset,
    evaluation_dataset: Dataset | None,
    parameters: dict[str, Any],
) -> Plan:
    """`parameters` as methods.services.parameters_validate resolved them. What keeps the train from
    starting is in `errors` of the plan."""
    if method.is_custom:
        # Its program decides on the number of steps, and reports it when it starts.
        return Plan(
            effective_batch=0,
            train_rows=dataset.good_row_count,
            eval_rows=0,
            steps_per_epoch=0,
            steps=0,
            warnings=parameters_warnings(method, parameters),
        )

    lengths = token_lengths_get(
        dataset=dataset,
        model_path=str(base_model.path),
        tokenizer_sha256=base_model.tokenizer_sha256,
    )

    # The recipe's own arithmetic; the values were validated before.
    recipe_parameters = RECIPES[method.recipe].parameters.model_construct(**parameters)
    max_tokens = parameters.get("max_tokens")
    notes = RowNotes.read(lengths.notes)
    counts = _counts(lengths, parameters) if lengths.ready and lengths.rows else None

    # What the chat template cannot write is the answer of a row. Methods that only ask need none.
    unwritable = notes.left_out if max_tokens is not None else 0
    lost = counts["lost"] if counts else 0
    per_row = rows_per_row(method, dataset)

    usable = max(0, (dataset.good_row_count - unwritable) * per_row - lost)
    if parameters["max_samples"] is not None:
        usable = min(usable, parameters["max_samples"] * per_row)

    if evaluation_dataset is not None:
        held_out = min(HOLDOUT_LIMIT, evaluation_dataset.good_row_count)
        train_rows = usable
    else:
        held_out = holdout_rows(usable, parameters["evaluation_split"])
        train_rows = usable - held_out

    per_epoch = recipe_parameters.steps_per_epoch(train_rows)
    steps = 0
    if per_epoch:
        steps = total_steps(per_epoch, 1, 1, parameters["epochs"], parameters["max_steps"])

    plan = Plan(
        effective_batch=recipe_parameters.effective_batch(),
        train_rows=train_rows,
        eval_rows=held_out,
        steps_per_epoch=per_epoch,
        steps=steps,
        warnings=parameters_warnings(method, parameters),
    )

    if counts:
        plan.counted = True
        plan.cut = counts["cut"]
        plan.lost = counts["lost"]
        plan.total = counts["total"]

    _judge_rows(plan, parameters, recipe_parameters, train_rows)
    _judge_modules(plan, parameters, base_model)
    _judge_rate(plan, method, parameters)
    _judge_warmup(plan, parameters)
    _judge_template(plan, parameters, notes)

    if max_tokens is None:
        _judge_prompts(plan, parameters, base_model)
        _judge_rewards(plan, parameters, dataset)
        return plan

    if counts:
        _judge_tokens(plan, lengths.rows, max_tokens, base_model)

    _judge_context(plan, max_tokens, base_model)
    return plan


def rows_per_row(method: TrainingMethod, dataset: Dataset) -> int:
    """KTO makes two rated answers of a pair."""
    makes_two = method.recipe == "kto" and dataset.format == "preference"
    return 2 if makes_two else 1


def _counts(lengths: TokenLengths, parameters: dict[str, Any]) -> dict[str, int]:
    """Rows cut and lost. Prompts that are too long are left out whole."""
    if "max_tokens" in parameters:
        return lengths.cut_by(parameters["max_tokens"])

    lost = _longer_than(parameters["max_prompt_tokens"], lengths.prompts)
    return {
        "cut": lost,
        "lost": lost,
        "total": sum(lengths.prompts.values()),
    }


def _longer_than(limit: int, lengths: dict[str, int]) -> int:
    """lengths: {number of tokens: how many rows have it}."""
    return sum(count for length, count in lengths.items() if int(length) > limit)


def _fix(label: str, effect: str, **values: Any) -> dict[str, Any]:
    return {"label": label, "effect": effect, "set": values}


def _judge_rows(
    plan: Plan,
    parameters: dict[str, Any],
    recipe_parameters: TrainParameters,
    train_rows: int,
) -> None:
    batch = parameters["batch_size"]
    answers = "max_tokens" not in parameters
    # A step that generates answers needs all its prompts; one that reads rows may be smaller.
    needed = recipe_parameters.rows_per_step() if answers else batch

    if train_rows < 1:
        plan.errors["dataset"] = (
            "No row is left to train on. Choose another dataset, or raise the token limits."
        )
    elif needed > train_rows and answers:
        plan.errors["batch_size"] = (
            f"Only {counted(train_rows, 'prompt')} {are(train_rows)} left to train on, and each "
            f"step takes {needed:,}. Use a smaller batch size, or less gradient accumulation."
        )
    elif needed > train_rows:
        plan.errors["batch_size"] = (
            f"Only {counted(train_rows, 'row')} {are(train_rows)} left to train on, and a batch of "
            f"{batch:,} needs as many. Use at most {train_rows:,}."
        )

        plan.fixes["batch_size"] = [_fix(f"Use {train_rows:,}", "", batch_size=train_rows)]


def _judge_rate(plan: Plan, method: TrainingMethod, parameters: dict[str, Any]) -> None:
    """Training all weights takes about a tenth of an adapter's rate, where both can be chosen."""
    fields = method_fields(method)
    if parameters.get("adapter") != "none" or fields["adapter"].fixed:
        return

    adapter_rate = fields["learning_rate"].default
    if parameters["learning_rate"] < adapter_rate:
        return

    lower = plain(float(f"{adapter_rate / 10:.6g}"))
    plan.warnings["learning_rate"] = (
        f"For all weights about {lower} is usual; this is an adapter's rate."
    )
    plan.fixes["learning_rate"] = [_fix(f"Use {lower}", "", learning_rate=lower)]


def _judge_warmup(plan: Plan, parameters: dict[str, Any]) -> None:
    """In a train of a few steps even a small share of them is most of it."""
    warmup = warmup_steps(plan.steps, parameters["warmup_ratio"], parameters["scheduler"])
    if warmup_is_long(plan.steps, warmup):
        plan.warnings["warmup_ratio"] = (
            f"Warm-up takes {warmup:,} of only {counted(plan.steps, 'step')}: the learning rate "
            "hardly gets to where it should."
        )

        plan.fixes["warmup_ratio"] = [_fix("Use 0%", "", warmup_ratio=0)]


def _judge_template(plan: Plan, parameters: dict[str, Any], notes: RowNotes) -> None:
    """Warn of what the base model's chat template does to the rows, where this train does nothing
    about it."""
    thinking = parameters.get("thinking")
    if thinking is None:
        # A method that only asks learns no answers of the rows.
        return

    if thinking == "in_front":
        notes = notes.without(NO_PLACE)
    elif thinking == "leave_out":
        # Without its thinking a row may begin as it is asked for: the train's log says so where it
        # does not.
        notes = notes.without(NO_PLACE, TAKEN_OUT, ONLY_LAST, ASKED_OTHERWISE)

    texts = [text for _, text in notes.messages()]
    if "dataset" in plan.warnings:
        texts.insert(0, plan.warnings["dataset"])
    if texts:
        plan.warnings["dataset"] = " ".join(texts)


def _judge_prompts(plan: Plan, parameters: dict[str, Any], base_model: BaseModel) -> None:
    """Prompt and answer must fit the context together."""
    prompt = parameters["max_prompt_tokens"]
    answer = parameters["max_completion_tokens"]
    context = base_model.context_length

    total = prompt + answer

    if context and total > context:
        plan.errors["max_completion_tokens"] = (
            f"{prompt:,} prompt and {answer:,} answer tokens are {total:,}, and {base_model.name} "
            f"reads {context:,}."
        )

        room = context - prompt
        if room > 0:
            fix = _fix(f"Use {room:,}", "", max_completion_tokens=room)
            plan.fixes["max_completion_tokens"] = [fix]

    if plan.cut:
        prompts = counted(plan.total, "prompt")
        plan.warnings["max_prompt_tokens"] = (
            f"{plan.cut:,} of {prompts} {are(plan.cut)} longer, and left out."
        )


def _judge_rewards(plan: Plan, parameters: dict[str, Any], dataset: Dataset) -> None:
    """Rewards that compare with a reference need data that has one."""
    needing: list[str] = []
    for choice in parameters["rewards"]:
        reward = REWARDS.get(choice["function"])
        if reward is not None and reward.needs_reference:
            needing.append(reward.title)

    if needing and dataset.format == "prompt-only":
        plan.errors["rewards"] = (
            f"{' and '.join(needing)} compare answers with a reference, and the rows of "
            f"{dataset.name} have none."
        )


def _judge_modules(plan: Plan, parameters: dict[str, Any], base_model: BaseModel) -> None:
    """Named layers must be layers of this base model. Where its layers are not known, the engine
    checks them."""
    names = parameters.get("target_modules")
    if parameters.get("adapter") != "lora" or not isinstance(names, list):
        return

    unknown = [name for name in names if name not in base_model.linear_modules]
    if not names:
        plan.errors["target_modules"] = "Choose at least one layer, or all of them."
    elif base_model.linear_modules and unknown:
        plan.errors["target_modules"] = (
            f"{base_model.name} has no layers named {', '.join(unknown[:5])}. "
            f"It has: {', '.join(base_model.linear_modules)}."
        )

    if "target_modules" in plan.errors:
        fix = _fix("Use all linear layers", "", target_modules="all-linear")
        plan.fixes["target_modules"] = [fix]


def _cut_text(plan: Plan, max_tokens: int) -> str:
    """What happens to rows that are longer than `max_tokens`."""
    share = plan.cut / plan.total
    rows = f"{counted(plan.cut, 'row')} ({share:.1%})"
    text = f"{rows} {are(plan.cut)} longer than {max_tokens:,} tokens and will be cut at the end"
    if not plan.lost:
        return f"{text}, so the model may learn to stop early."
    if plan.lost == plan.cut:
        they = "it is" if plan.lost == 1 else "they are"
        return f"{text}. Nothing is left of the answer, so {they} left out."

    return f"{text}. {plan.lost:,} of them {are(plan.lost)} left out: no answer is left."


def _judge_tokens(
    plan: Plan, lengths: dict[str, int], max_tokens: int, base_model: BaseModel
) -> None:
    if plan.lost >= plan.total > 0:
        plan.errors["max_tokens"] = (
            f"At {max_tokens:,} tokens every row loses its whole answer, so there is nothing to "
            "learn from."
        )
    elif plan.cut:
        plan.warnings["max_tokens"] = _cut_text(plan, max_tokens)

    if plan.cut:
        plan.fixes["max_tokens"] = _longer(lengths, max_tokens, base_model.context_length)


def _judge_context(plan: Plan, max_tokens: int, base_model: BaseModel) -> None:
    context = base_model.context_length
    if not context or max_tokens <= context:
        return

    plan.warnings["max_tokens"] = f"{base_model.name} reads at most {context:,} tokens."
    plan.fixes["max_tokens"] = [_fix(f"Use {context:,}", "", max_tokens=context)]


def _longer(lengths: dict[str, int], max_tokens: int, context: int) -> list[dict[str, Any]]:
    """The next power of two that cuts under one row in a hundred, and what it would cut."""
    total = sum(lengths.values())
    size = 32
    while size <= max_tokens or _longer_than(size, lengths) * 100 > total:
        size *= 2

    if context and size > context:
        size = context
    if size <= max_tokens:
        return []

    cut = _longer_than(size, lengths)
    return [_fix(f"Use {size:,}", f"cuts {cut:,}", max_tokens=size)]


def disk_bytes(base_model: BaseModel, parameters: dict[str, Any]) -> int:
    """What the train will write: the model once, and what is trained with its optimizer state in each
    checkpoint that is kept."""
    if "save_strategy" in parameters:
        with suppress(ShapeUnknown):
            return disk_forecast(shape_read(base_model.path), "", parameters)

    # A custom program, or a model whose files do not say.
    if parameters.get("adapter") == "none":
        return 3 * base_model.size_bytes

    return base_model.size_bytes // 2


def plan_check(plan: Plan) -> None:
    """Raises UserError where the plan cannot be run."""
    if plan.errors:
        raise UserError({name: [text] for name, text in plan.errors.items()})
