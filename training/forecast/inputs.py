"""What a forecast is made from: the parameters that decide, the lengths of the rows, the models that score."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

from datasets_app.models import Dataset, TokenLengths
from datasets_app.services import token_lengths_get
from engine.forecast.batches import Batch, lengthened, turn_tokens
from engine.forecast.shape import ModelShape
from engine.forecast.workload import Target, evaluation_batch, largest_batch
from models_app.models import BaseModel
from training.train.reward_resources import reward_models, scorers_named

# What decides on memory: configurations that are alike in all of these take the same.
DECIDING = (
    "batch_size",
    "gradient_accumulation_steps",
    "max_tokens",
    "max_prompt_tokens",
    "max_completion_tokens",
    "num_generations",
    "adapter",
    "lora_rank",
    "lora_dropout",
    "target_modules",
    "use_dora",
    "precision",
    "quantization",
    "use_liger_kernel",
    "gradient_checkpointing",
    "packing",
    "beta",
    "kl_coef",
    "more",
    "devices",
    "strategy",
    "offload",
    "use_vllm",
)
# The format whose rows are no conversations.
PLAIN_TEXT = "text"
Parameters = Mapping[str, Any]


def deciding_of(parameters: Parameters) -> dict[str, Any]:
    """The part of the parameters that decides on memory."""
    values = {name: parameters[name] for name in DECIDING if name in parameters}
    # It matters whether there is dropout, not how much; and the same of a reference.
    for name in ("lora_dropout", "beta", "kl_coef"):
        if name in values:
            values[name] = bool(values[name])

    scorers = sorted(scorers_named(dict(parameters)))
    return values | {"scorers": scorers} if scorers else values


def batch_of(
    shape: ModelShape,
    recipe: str,
    parameters: Parameters,
    target: Target,
    lengths: TokenLengths,
    steps: int,
) -> Batch:
    """The largest batch on a device, at the dataset's real lengths. Raises ShapeUnknown."""
    return largest_batch(
        shape,
        recipe,
        parameters,
        target,
        rows=lengths.rows,
        prompts=lengths.prompts,
        steps=steps,
    )


def lengths_ready(
    base_model: BaseModel, dataset: Dataset, system_prompt: str = ""
) -> TokenLengths | str:
    """How long the rows are with the train's system prompt, or why that is not known, in words for
    people."""
    lengths = token_lengths_get(
        dataset=dataset,
        model_path=str(base_model.path),
        tokenizer_sha256=base_model.tokenizer_sha256,
    )
    if lengths.error:
        return f"The tokens of the dataset could not be counted. {lengths.error}"
    if not lengths.ready:
        return "The tokens of the dataset are being counted."

    return lengths_prompted(lengths, dataset, system_prompt)


def lengths_known(
    base_model: BaseModel, dataset: Dataset | None, system_prompt: str = ""
) -> TokenLengths | None:
    """How long the rows are, where they were counted. Chosen here and not by the database: of many
    trains they are prefetched."""
    if dataset is None:
        return None

    tokenizer = base_model.tokenizer_sha256
    for lengths in dataset.token_lengths.all():
        if lengths.ready and lengths.tokenizer == tokenizer:
            return lengths_prompted(lengths, dataset, system_prompt)

    return None


def evaluated_batch(
    shape: ModelShape,
    recipe: str,
    parameters: Parameters,
    target: Target,
    lengths: TokenLengths,
    own: TokenLengths | None,
) -> Batch | None:
    """The largest batch that is evaluated; None where nothing is. own: the lengths of an evaluation
    dataset, else its rows are taken to be as long as the others, of which some may be held out."""
    if own is None and not parameters.get("evaluation_split"):
        return None

    counts = own or lengths
    return evaluation_batch(
        shape, recipe, parameters, target, rows=counts.rows, prompts=counts.prompts
    )


def lengths_prompted(lengths: TokenLengths, dataset: Dataset, system_prompt: str) -> TokenLengths:
    """With a train's system prompt, which they were counted without, in each row. Not to be saved."""
    tokens = turn_tokens(system_prompt)
    if not tokens or dataset.format == PLAIN_TEXT:
        return lengths

    prompted = copy(lengths)
    prompted.rows = lengthened(lengths.rows, tokens)
    prompted.prompts = lengthened(lengths.prompts, tokens)
    return prompted


def reward_model_bytes(parameters: Parameters, reader: Any) -> int | None:
    """The weights of the trained models that score the answers, as they lie on disk; None where one is
    not there. reader: None for everybody's."""
    numbers = scorers_named(dict(parameters))
    if not numbers:
        return 0

    runs = reward_models(reader).filter(pk__in=numbers).select_related("base_model")
    sizes = [run.base_model.size_bytes for run in runs]
    return sum(sizes) if len(sizes) == len(numbers) else None
