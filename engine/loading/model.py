"""The base model of a train and its adapter, loaded as the train's parameters ask."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import GenerationConfig, PreTrainedModel

from engine.loading.adapter_files import adapter_put
from engine.loading.architecture import Refused
from engine.loading.lm_head import routers_check
from engine.loading.lora_targets import Targets, lost_when_loaded, targets_choose, targets_without
from engine.loading.pretrained import pretrained_load_with_report
from engine.messages.failures import TrainError
from engine.models.inspect import weight_files
from engine.run.hardware import Device, Precision
from engine.run.job import Job
from engine.schema.train import TrainParameters


def model_load(
    folder: Path, precision: Precision, device: Device, parameters: TrainParameters
) -> Any:
    """The base model on its device, from a folder that has passed the gate (tokenizer_load). Raises
    ModelProblem where it holds no safetensors, and TrainError where they lack weights that its
    config names."""
    model, missing = _load(folder, precision, device, parameters)
    _refuse_missing(missing)
    routers_check(model)

    return model


def scorer_load(
    folder: Path, precision: Precision, device: Device, parameters: TrainParameters
) -> Any:
    """The base model with a new head of one score in place of its output layer. Raises as
    model_load does, and TrainError for an architecture that has no such form."""
    try:
        model, missing = _load(folder, precision, device, parameters, scores=True, num_labels=1)
    except ValueError as error:
        if "AutoModelForSequenceClassification" not in str(error):
            raise

        raise TrainError(
            "no_scorer",
            "A model of this architecture cannot score texts, so it cannot become a reward model.",
            "Choose a base model of the Llama, Qwen, Mistral or Gemma family.",
        ) from error

    # The head is new, and learned by the train.
    _refuse_missing([name for name in missing if not name.startswith("score.")])
    return model


def _load(
    folder: Path,
    precision: Precision,
    device: Device,
    parameters: TrainParameters,
    **options: Any,
) -> tuple[Any, list[str]]:
    """(the model, names of weights that its files lack). `options`: of
    pretrained_load_with_report."""
    # Raises ModelProblem for a folder without safetensors.
    weight_files(folder)
    model, report = pretrained_load_with_report(
        folder,
        dtype=getattr(torch, precision.weights),
        quantization_config=_quantization(parameters, device),
        device_map=_device_map(parameters),
        **options,
    )

    return model, sorted(report["missing_keys"])


def _device_map(parameters: TrainParameters) -> dict[str, int] | None:
    """Quantised weights are loaded onto the GPU of this process at once."""
    if parameters.quantization == "none":
        return None

    return {"": torch.cuda.current_device()}


def _refuse_missing(missing: list[str]) -> None:
    if missing:
        raise TrainError(
            "bad_model",
            f"The base model's files lack {len(missing)} of its weights, such as {missing[0]}.",
            "The folder is not complete, or its config.json is of another model. Add the model "
            "again.",
        )


def fit_check(model: Any, tokenizer: Any) -> None:
    """Raises TrainError where the tokenizer knows tokens that the model does not."""
    vocabulary = model.get_input_embeddings().num_embeddings
    if len(tokenizer) <= vocabulary:
        return

    # Mostly a padding token that somebody added without resizing the model's embeddings.
    added: list[str] = []
    for number, token in sorted(tokenizer.added_tokens_decoder.items()):
        if number >= vocabulary:
            added.append(token.content)

    advice = "Its tokenizer is of another model. Add the model again with its own."

    if len(added) == len(tokenizer) - vocabulary:
        named = ", ".join(added[:3])
        advice = (
            f"The model has no weights for tokens that were added to its tokenizer: {named}. Add "
            "the model again with its original tokenizer, or saved after these tokens were added "
            "to it too."
        )

    raise TrainError(
        "bad_model",
        f"The base model's tokenizer has {len(tokenizer):,} tokens, and the model only "
        f"{vocabulary:,}.",
        advice,
    )


def max_tokens_of(job: Job, model: Any, wanted: int) -> int:
    """`wanted`, the parameter Max tokens, or the model's context length where that is less."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or wanted
    if wanted > context:
        job.warn(
            "context_length",
            f"{job.spec.base_model_name} reads at most {context:,} tokens: rows are cut there.",
        )

    return int(min(wanted, context))


def _quantization(parameters: TrainParameters, device: Device) -> Any:
    if parameters.quantization == "none":
        return None

    if device.kind != "cuda":
        raise TrainError(
            "no_gpu",
            f"{parameters.quantization} loading needs a GPU, and this worker has none.",
            "Choose no quantisation.",
        )

    if importlib.util.find_spec("bitsandbytes") is None:
        raise TrainError(
            "no_bitsandbytes",
            f"{parameters.quantization} loading needs the library bitsandbytes, which is not "
            "installed here.",
            "Choose no quantisation, or ask your operator to install it.",
        )

    if parameters.quantization == "8-bit":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]

    return transformers.BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if device.bf16 else torch.float16,
    )


def adapter_add(
    model: PreTrainedModel, parameters: TrainParameters, task: str = "CAUSAL_LM"
) -> Any:
    """The model with a fresh LoRA adapter in fp32. Raises TrainError for target modules that it
    does not have, and for options that peft cannot apply to them.

    `task`: SEQ_CLS trains and saves the head of scores besides.
    """
    targets = targets_choose(model, parameters.target_modules)
    adapted = _adapted(model, parameters, targets, task)
    lost = lost_when_loaded(adapted)
    if not lost:
        return adapted

    plain = adapted.unload()
    return _adapted(plain, parameters, targets_without(model, targets, lost), task)


def _adapted(
    model: PreTrainedModel, parameters: TrainParameters, targets: Targets, task: str
) -> Any:
    config = LoraConfig(
        task_type=task,
        r=parameters.lora_rank,
        lora_alpha=parameters.alpha(),
        # peft has no dropout for blocks of experts, and refuses an adapter that asks for it.
        lora_dropout=0.0 if targets.has_experts else parameters.lora_dropout,
        target_modules=targets.modules,
        target_parameters=targets.blocks or None,
        use_rslora=parameters.use_rslora,
        use_dora=parameters.use_dora,
    )

    try:
        return get_peft_model(model, config)
    except ValueError as error:
        if "arget modules" in str(error):
            raise TrainError(
                "no_such_modules",
                f"The base model has none of the target modules {', '.join(targets.modules)}.",
                "Choose all linear layers, or names that the base model's page lists.",
            ) from error

        raise TrainError(
            "bad_adapter",
            f"peft cannot put this adapter on the base model: {error}",
            "Choose all linear layers, and leave DoRA off where experts are adapted.",
        ) from error


def adapter_carry_on(model: PreTrainedModel, folder: Path, parameters: TrainParameters) -> Any:
    """The model with the trained adapter in `folder`, in fp32, to be trained further. Rank, targets
    and all else are the adapter's own. Raises TrainError for one that does not fit the model.

    The reference of methods that have one is a frozen copy of the adapter as it is here: TRL's
    trainers take it when they are made, before anything else is loaded into the adapter."""
    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = False

    try:
        adapted = adapter_put(model, config, folder)
    except Refused as error:
        raise TrainError(
            "bad_adapter",
            str(error),
            "Train on the merged weights with a new adapter.",
        ) from error

    if parameters.quantization != "none":
        _round_to_bf16(adapted)

    return adapted


def _round_to_bf16(model: Any) -> None:
    """Round the adapter's two matrices as TRL's trainers do on quantised base models, so that the
    reference, which they copy before, is rounded too: the distance in the first step is 0."""
    for name, weight in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            weight.data = weight.data.bfloat16().to(weight.dtype)


def parameter_counts(model: torch.nn.Module) -> tuple[int, int]:
    """(all weights, those that are trained). A weight of four bits counts as one, though two are
    stored in each byte."""
    total = 0
    trained = 0

    for weight in model.parameters():
        is_packed = type(weight).__name__ == "Params4bit"
        total += weight.numel() * (2 if is_packed else 1)
        if weight.requires_grad:
            trained += weight.numel()

    return total, trained


def stop_tokens_learn(model: PreTrainedModel, tokenizer: Any, turn_ends: set[int]) -> None:
    """Have generation stop where the answers of the training data end: base models often stop at
    another token."""
    holder = model.get_base_model() if isinstance(model, PeftModel) else model
    config = _writable(holder.generation_config)
    holder.generation_config = config
    known = config.eos_token_id
    stops = [known] if isinstance(known, int) else list(known or [])

    for token in (*sorted(turn_ends), tokenizer.eos_token_id):
        if token not in stops:
            stops.append(token)

    config.eos_token_id = stops if len(stops) > 1 else stops[0]
    config.pad_token_id = tokenizer.pad_token_id


def _writable(config: GenerationConfig) -> GenerationConfig:
    """Settings of base models may contradict each other, such as a temperature beside
    do_sample=false. transformers then refuses to write any checkpoint, so the train goes without
    them; the finished model has the base's file."""
    try:
        config.validate(strict=True)
    except ValueError:
        return GenerationConfig(  # type: ignore[no-untyped-call]
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
        )

    return config
