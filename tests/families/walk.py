"""One family from its folder to a trained model, held against plain transformers and peft on the
same rows.

Every train has one batch of all rows a step, so that the order of rows cannot differ between ours
and theirs."""

from __future__ import annotations

import copy
import json
import shutil
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.engine.runs import COLOURS, Run, prepare, write_rows
from tests.families.maker import family_model, folder_without_weights

STEPS = 3
TRAIN_ROWS, HELD_OUT_ROWS = 6, 3
LEARNING_RATE = 2e-3
# Of losses about 5, in fp32, over three steps: rounding in another order, and nothing else.
TOLERANCE = 2e-4
# One step of bf16 in the output layer's logits.
HALF_TOLERANCE = 0.03

TRAINS, PADDED, REFUSED, FAILS = "trains", "trains padded", "refused", "FAILS"


@dataclass
class Verdict:
    """`verdict`: one of the four above. `words`: why it is refused or what fails. `adapted`: the
    log's line."""

    family: str
    verdict: str
    words: str = ""
    adapted: str = ""
    worst: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Failure(AssertionError):
    """What went wrong at which stage, in one line."""


def family_walk(family: str, place: Path) -> Verdict:
    """Import, LoRA as the form has it, LoRA and full fine-tuning beside plain libraries, samples,
    save, load."""
    from engine.models.inspect import ModelProblem, folder_read
    from engine.programs.convert import Refused, folder_try

    folder = place / "model"
    try:
        family_model(folder, family)
    except Exception as error:
        made = f"{type(error).__name__}: {error}"
        folder_without_weights(folder, family)
    else:
        made = ""

    try:
        folder_read(folder)
        folder_try(folder)
    except (ModelProblem, Refused) as error:
        return Verdict(family, REFUSED, str(error))
    if made:
        return Verdict(family, FAILS, f"no tiny model could be made: {made}"[:300])

    try:
        return _trained(family, folder, place)
    except Failure as failure:
        return Verdict(family, FAILS, str(failure)[:500])


def _trained(family: str, folder: Path, place: Path) -> Verdict:
    worst: dict[str, float] = {}

    run = _train(place / "form", folder, adapter="lora", precision="bf16")
    _samples_check("form", run)
    worst["form"] = _adapter_check(run, folder)

    for name, options in (
        ("lora", {"adapter": "lora", "lora_dropout": 0.0}),
        ("full", {"adapter": "none"}),
    ):
        with _begun() as begun:
            run = _train(place / name, folder, precision="fp32", **options)
        _samples_check(name, run)
        plain = _plain_losses(folder, run, begun.get("adapter"))
        worst[name] = _compare(name, run, plain)
        worst[f"{name} saved"] = _saved_check(name, run, folder)

    log = (place / "form" / "log").read_text()
    verdict = PADDED if "padding stays" in log else TRAINS
    adapted = next(
        (line.split("] ", 1)[-1] for line in log.splitlines() if "adapter on" in line), ""
    )
    return Verdict(
        family,
        verdict,
        adapted=adapted,
        worst={name: float(f"{value:.1e}") for name, value in worst.items()},
    )


def rows(start: int, count: int) -> list[dict[str, Any]]:
    """Conversations of several lengths."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"Ball {number}" + " and so on" * (number % 3) + "?"},
                {
                    "role": "assistant",
                    "content": f"It is {COLOURS[number % 4]}" + ", I think" * (number % 2) + ".",
                },
            ]
        }
        for number in range(start, start + count)
    ]


def _train(directory: Path, folder: Path, **given: Any) -> Run:
    """A train with the form's defaults but for what a tiny one needs, its log beside it. Raises
    Failure."""
    from contextlib import redirect_stdout

    from engine.contract.rundir import DataFile, file_sha256
    from engine.run.main import run
    from engine.schema.sft import SftParameters

    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    held_out = write_rows(directory / "held_out.jsonl", rows(100, HELD_OUT_ROWS))
    defaults = SftParameters.model_validate({"max_steps": STEPS}).model_dump(mode="json")
    values = defaults | {
        "batch_size": TRAIN_ROWS,
        "gradient_accumulation_steps": 1,
        "learning_rate": LEARNING_RATE,
        "evaluation_every": 1.0,
        "sample_prompts": 2,
        "sample_max_tokens": 8,
        "save_strategy": "end",
    }
    prepare(
        directory,
        folder,
        rows(0, TRAIN_ROWS),
        evaluation_dataset=DataFile(str(held_out), file_sha256(held_out), "jsonl", "messages"),
        **values | given,
    )
    with (directory / "log").open("w") as log, redirect_stdout(log):
        code = run(directory)
    done = Run(code, directory)
    if code != 0:
        raise Failure(f"{directory.name}: {done.last.get('code')}: {done.last.get('message')}")
    return done


@contextmanager
def _begun() -> Any:
    """Hears which adapter a train begins with, so that the plain one can begin with the same."""
    from engine.run import session

    heard: dict[str, Any] = {}
    before = session.adapter_add

    def hear(*arguments: Any, **options: Any) -> Any:
        model = before(*arguments, **options)
        heard["adapter"] = {
            name: value.detach().clone()
            for name, value in model.named_parameters()
            if "lora_" in name
        }
        return model

    session.adapter_add = hear
    try:
        yield heard
    finally:
        session.adapter_add = before


def _samples_check(name: str, run: Run) -> None:
    stages = [event["stage"] for event in run.of("sample")]
    if stages.count("before") != 2 or stages.count("after") != 2:
        raise Failure(f"{name}: samples: {stages}")


def tokenised(tokenizer: Any, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """(ids, labels) of a row as a person would write them by hand: ChatML, the answer and its end
    are learned."""
    question, answer = (turn["content"] for turn in row["messages"])
    prompt = tokenizer(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")[
        "input_ids"
    ]
    learned = tokenizer(f"{answer}<|im_end|>")["input_ids"]
    rest = tokenizer("\n")["input_ids"]
    return prompt + learned + rest, [-100] * len(prompt) + learned + [-100] * len(rest)


def _batch(tokenizer: Any, chosen: list[dict[str, Any]]) -> dict[str, Any]:
    """Padded on the right."""

    pairs = [tokenised(tokenizer, row) for row in chosen]
    width = max(len(ids) for ids, _ in pairs)
    return {
        "input_ids": torch.tensor(
            [ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in pairs]
        ),
        "attention_mask": torch.tensor(
            [[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in pairs]
        ),
        "labels": torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in pairs]),
    }


def _plain_losses(folder: Path, run: Run, adapter: Any) -> dict[str, list[float]]:
    """Losses of each step and of the held-out rows before and after, by transformers' Trainer
    alone."""
    from transformers import Trainer, TrainingArguments

    tokenizer, model = _tokenizer(folder), _plain_model(folder)
    parameters = json.loads((run.directory / "spec.json").read_text())["parameters"]
    if adapter is not None:
        model = _adapted(model, run, adapter)
    weight = _router_loss(model)

    batch, held_out = (
        _batch(tokenizer, rows(0, TRAIN_ROWS)),
        _batch(tokenizer, rows(100, HELD_OUT_ROWS)),
    )
    before = _loss(model, held_out)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(run.directory / "plain"),
            per_device_train_batch_size=TRAIN_ROWS,
            max_steps=STEPS,
            learning_rate=parameters["learning_rate"],
            lr_scheduler_type=parameters["scheduler"],
            warmup_steps=parameters["warmup_ratio"],
            weight_decay=parameters["weight_decay"],
            max_grad_norm=parameters["max_grad_norm"],
            seed=parameters["seed"],
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            remove_unused_columns=False,
        ),
        train_dataset=[{"index": index} for index in range(TRAIN_ROWS)],
        data_collator=lambda _: copy.copy(batch),
        compute_loss_func=partial(_next_token_loss, router_weight=weight),
    )
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    torch.manual_seed(parameters["seed"])
    trainer.train()
    steps = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"steps": steps, "held out": [before, _loss(model, held_out)]}


def _router_loss(model: Any) -> float:
    """Mixtures of experts learn with the routers' loss, as TRL has it where the config gives it a
    weight: switch it on and return the weight."""
    config = model.config.get_text_config()
    if not hasattr(config, "output_router_logits") or not getattr(
        config, "router_aux_loss_coef", 0.0
    ):
        return 0.0
    config.output_router_logits = True
    return float(config.router_aux_loss_coef)


def _next_token_loss(
    outputs: Any, labels: Any, *, router_weight: float, num_items_in_batch: Any = None
) -> Any:
    """By hand, since a few families (BART's decoder and its relatives) leave it to the caller to
    shift the labels."""
    from torch.nn.functional import cross_entropy

    logits = outputs.logits[:, :-1].float().flatten(0, 1)
    loss = cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100)
    if router_weight and isinstance(outputs.aux_loss, torch.Tensor):
        loss = loss + router_weight * outputs.aux_loss
    return loss


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def _plain_model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def _adapted(model: Any, run: Run, adapter: dict[str, Any]) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig.from_pretrained(run.directory / "model")
    config.inference_mode = False
    model = get_peft_model(model, config)
    own = {name: value for name, value in model.named_parameters() if "lora_" in name}
    if own.keys() != adapter.keys():
        raise Failure(
            f"lora: peft makes another adapter: {sorted(own.keys() ^ adapter.keys())[:3]}"
        )
    for name, value in own.items():
        value.data.copy_(adapter[name])
    return model


def _loss(model: Any, batch: dict[str, Any]) -> float:
    """Mean over the learned tokens, from logits in fp32; without any other loss of the model's."""

    model.eval()
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    wanted = batch["labels"][:, 1:]
    return float(
        torch.nn.functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), wanted.flatten(), ignore_index=-100
        )
    )


def _compare(name: str, run: Run, plain: dict[str, list[float]]) -> float:
    """The largest difference between what the page shows and what plain libraries have. Raises
    Failure."""
    ours = {"steps": list(run.losses().values()), "held out": list(run.losses("eval").values())}
    worst = 0.0
    for part, values in plain.items():
        mine = ours[part] if part == "steps" else [ours[part][0], ours[part][-1]]
        if len(mine) != len(values):
            raise Failure(f"{name}: {part}: {mine} beside {values}")
        difference = max(abs(left - right) for left, right in zip(mine, values, strict=True))
        if not difference < TOLERANCE:
            shown = [[round(number, 5) for number in numbers] for numbers in (mine, values)]
            raise Failure(f"{name}: {part}: ours {shown[0]}, plain {shown[1]}")
        worst = max(worst, difference)
    return worst


def _saved_check(name: str, run: Run, folder: Path) -> float:
    """What was saved, loaded by plain libraries, has the loss that the page shows last. Raises
    Failure."""
    saved = run.directory / "model"
    if name == "full":
        model = _plain_model(saved)
    else:
        from peft import PeftModel

        model = PeftModel.from_pretrained(_plain_model(folder), saved)
    found = _loss(model, _batch(_tokenizer(saved), rows(100, HELD_OUT_ROWS)))
    reported = list(run.losses("eval").values())[-1]
    if not abs(found - reported) < TOLERANCE:
        raise Failure(
            f"{name}: the saved model's loss is {found:.5f}, the page says {reported:.5f}"
        )
    return abs(found - reported)


def _adapter_check(run: Run, folder: Path) -> float:
    """The adapter of the form's defaults: all of it has learned, and plain peft reads it. Raises
    Failure."""
    from peft import PeftModel
    from safetensors.torch import load_file

    saved = run.directory / "model"
    weights = load_file(saved / "adapter_model.safetensors")
    still = [
        name for name, value in weights.items() if "lora_B" in name and not value.abs().max() > 0
    ]
    if still or not weights:
        raise Failure(
            f"form: {len(still)} of {len(weights) // 2} adapter layers have learned nothing, as "
            f"{still[:2]}"
        )
    model = PeftModel.from_pretrained(_plain_model(folder), saved)
    found = _loss(model, _batch(_tokenizer(saved), rows(100, HELD_OUT_ROWS)))
    reported = list(run.losses("eval").values())[-1]
    if not abs(found - reported) < HALF_TOLERANCE:
        raise Failure(
            f"form: the adapter's loss is {found:.4f} in fp32, the page says {reported:.4f} in bf16"
        )
    return abs(found - reported)
