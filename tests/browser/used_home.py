"""A home as it looks after months of use, written straight into the database.

Names are as long as people make them, lists have more rows than fit on a page, and every status
occurs. Nothing here ever runs: what pages look like must not depend on how fast a train is.
"""

from __future__ import annotations

import json
import math
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.db.models import Model
from django.utils import timezone

from accounts.tokens import token_create
from chains.models import Chain, Stage
from core.store import runs_folder
from core.upload import ReceivedFile
from datasets_app.checking import dataset_check
from datasets_app.models import Dataset, Label, TokenLengths
from datasets_app.services import dataset_create
from engine.contract.rundir import LOG, MODEL
from exports.models import Export
from jobs.models import Job
from methods.models import TrainingMethod
from methods.services import method_defaults, methods_install
from models_app.models import BaseModel
from openai_api.inference.models import Call
from playground.models import Answer, Conversation, Feedback, Turn
from serving.gateway.prepared import NOT_COMPARED
from sweeps.models import Sweep, Trial
from tests.tiny import CHAT_TEMPLATE
from training.models import Checkpoint, MetricRow, Sample, TrainRun
from training.train.curve_summary import curve_summaries_extend

LONG = "support-assistant-qwen3-lora-rank-64-learning-rate-2e-4-cosine-five-epochs"
SENTENCE = (
    "Thank you for writing to us. Your order left the warehouse on Tuesday, so it should arrive "
    "within three working "
    "days; if it does not, reply to this message and we send you a new one at no cost. "
)
ADDRESS = "https://support.example.org/tickets/2026/11/28/9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f0"
GIB = 1 << 30
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LENGTHS = {str(tokens): 400 - abs(tokens - 300) for tokens in range(20, 700, 7)}
PHASES = (
    "loading the model",
    "reading the dataset",
    "asking the base model",
    "training",
    "saving",
    "evaluating",
)


def used_home(home: Any) -> dict[str, str]:
    """Fill the database and `home`, the folder for uploads. Returns {what: id} for addresses."""
    people = people_make()
    models = models_make(people["alice"])
    datasets = datasets_make(people["alice"], home)
    methods_install()
    trains = trains_make(people, models, datasets)
    models |= trained_make(people["alice"], models["model"], trains["finished"])
    jobs = jobs_make(people, models, datasets)
    exports = exports_make(people["alice"], models["model"])
    chains = chains_make(people["alice"], models, datasets, trains)
    sweeps = sweeps_make(people["alice"], models, datasets, trains)
    talks = conversations_make(people["alice"], models)
    calls_make(people["alice"], models["model"])
    everything: dict[str, Model] = {
        **models,
        **datasets,
        **trains,
        **jobs,
        **exports,
        **chains,
        **sweeps,
        **talks,
    }
    ids = {name: str(thing.pk) for name, thing in everything.items()}
    return ids | {"four": ids_of(trains, 4), "six": ids_of(trains, 6), "two": ids_of(trains, 2)}


def ids_of(trains: dict[str, TrainRun], count: int) -> str:
    finished = [run for run in trains.values() if run.status in ("finished", "stopped")]
    return ",".join(str(run.pk) for run in finished[:count])


def people_make() -> dict[str, User]:
    users = User.objects
    alice = users.create_superuser(
        "alice",
        "alice@example.org",
        "alice-password-1",
        first_name="Alexandra",
        last_name="Papadopoulou-Brandenburg",
    )
    bob = users.create_user(
        "bob.montgomery-featherstonehaugh@example.org", password="bob-password-1"
    )
    return {"alice": alice, "bob": bob}


def models_make(owner: User) -> dict[str, BaseModel]:
    ready = {
        "owner": owner,
        "source": "hub",
        "status": "ready",
        "architecture": "Qwen3ForCausalLM",
        "parameter_count": 1_720_574_976,
        "context_length": 131_072,
        "dtype": "bfloat16",
        "licence": "apache-2.0",
        "size_bytes": 4 * GIB,
        "sha256": "9f86d081" * 8,
        "tokenizer_sha256": "a3bf4f1b" * 8,
        "linear_modules": MODULES,
        "chat_template": CHAT_TEMPLATE,
        "revision": "70d244cc" * 5,
        "template_example": "<|im_start|>user\n"
        + SENTENCE
        + "<|im_end|>\n<|im_start|>assistant\n"
        + ADDRESS,
    }
    make = BaseModel.objects.create
    names = (
        "Qwen3-1.7B-Instruct-2507-bf16-continued-on-support-tickets",
        "SmolLM2-135M-Instruct",
        "Llama-3.2-1B",
    )
    found = {
        f"model{number or ''}": make(
            **ready
            | {
                "name": name,
                "slug": f"model-{number}",
                "reference": f"organisation-of-long-name/{name}@main",
            }
        )
        for number, name in enumerate(names)
    }
    for model in found.values():
        model.path.mkdir(parents=True, exist_ok=True)
    found["importing"] = make(
        name="Mistral-Small-3.2-24B-Instruct-2506",
        slug="importing",
        source="hub",
        progress=0.37,
        owner=owner,
        phase="Downloading the weights",
        reference="mistralai/Mistral-Small-3.2-24B-Instruct-2506",
    )
    found["broken"] = make(
        name="an-uploaded-model-that-was-quantised-by-somebody",
        slug="broken",
        source="gguf",
        status="failed",
        reference="an-uploaded-model-that-was-quantised-by-somebody.Q4_K_M.gguf",
        owner=owner,
        error="The file ends in the middle of tensor blk.27.ffn_down.weight. Upload it again, or "
        "choose another file.",
    )
    return found


MARKDOWN = f"""## What to do

1. Open **Settings**, then `Security`.
2. Press _Reset PIN_ and wait for the mail.

| Device | Takes |
|---|---|
| {ADDRESS} | {SENTENCE} |

```python
def reset(pin: int) -> str:
    return f"{{pin:04d}} {"x" * 120}"
```

> {SENTENCE}
"""


def conversations_make(owner: User, models: dict[str, BaseModel]) -> dict[str, Conversation]:
    """Conversations with one, two and three models; answers that are long, that failed, that were
    stopped and that call a tool; a blind prompt without a vote, and feedback of every kind."""
    made = {}
    for count in (1, 2, 3):
        chosen = list(models.values())[:count]
        made[f"talk{count}"] = conversation = Conversation.objects.create(
            owner=owner,
            name=SENTENCE[:110],
            system_prompt=SENTENCE,
            blind=count == 2,
            link="link" * count,
            panes=[
                {
                    "id": index,
                    "target": f"model-{model.pk}",
                    "title": model.title,
                    "base_title": "",
                    "sampling": {"temperature": 0.7, "stop": ["</s>"]},
                }
                for index, model in enumerate(chosen)
            ],
        )
        for position in (1, 2):
            turn = Turn.objects.create(
                conversation=conversation,
                position=position,
                text=SENTENCE if position == 1 else ADDRESS,
                blind=count == 2 and position == 2,
            )
            for place, pane in enumerate(conversation.panes):
                answer_make(turn, place, pane)

    first = Turn.objects.get(conversation=made["talk2"], position=1)
    verdicts = ("vote", "better"), ("thumb", "up"), ("correction", "corrected")
    for kind, verdict in verdicts:
        Feedback.objects.create(
            conversation=made["talk2"],
            turn=first,
            kind=kind,
            verdict=verdict,
            author=owner,
            prompt=[{"role": "user", "content": SENTENCE}],
            chosen=SENTENCE,
            chosen_target=made["talk2"].panes[0]["target"],
            chosen_title=made["talk2"].panes[0]["title"],
            rejected=ADDRESS,
            rejected_target=made["talk2"].panes[1]["target"],
            rejected_title=made["talk2"].panes[1]["title"],
        )
    return made


def answer_make(turn: Turn, place: int, pane: dict[str, Any]) -> Answer:
    call = {"name": "send_mail_to_support", "arguments": json.dumps({"text": SENTENCE})}
    states: tuple[dict[str, Any], ...] = (
        {"state": "done", "text": MARKDOWN, "finish_reason": "length", "reasoning": SENTENCE},
        {"state": "stopped", "text": SENTENCE},
        {"state": "failed", "error": SENTENCE},
        {"state": "done", "tool_calls": [{"id": "1", "type": "function", "function": call}]},
    )
    # What is voted on has words on both sides.
    chosen = states[place] if turn.blind else states[(place + turn.position - 1) % len(states)]
    figures = {"prompt_tokens": 120, "tokens": 212, "rate": 48.2, "first_seconds": 0.21}
    return Answer.objects.create(
        turn=turn,
        place=place,
        pane=place,
        target=pane["target"],
        title=pane["title"],
        seconds=4.4,
        **figures,
        **chosen,
    )


def calls_make(owner: User, model: BaseModel) -> None:
    """Keys, and what programs called with them in the last hour."""
    keys = [
        token_create(user=owner, name=name, scope=scope, requests_per_minute=limit)[0]
        for name, scope, limit in (
            ("nightly-evaluation-of-the-support-assistant-on-gpu-server-basement-2", "chat", 1200),
            ("notebook", "train", None),
        )
    ]
    done = {"model": model.name, "status": 200, "tokens_in": 1_204, "tokens_out": 212}
    kinds: tuple[dict[str, Any], ...] = (
        done | {"path": "/v1/chat/completions", "token": keys[0], "seconds": 4.412},
        done | {"path": "/v1/responses", "status": 499, "seconds": 31.07},
        {"path": "/v1/files", "status": 200, "seconds": 0.021, "token": keys[1]},
        {
            "path": "/v1/fine_tuning/jobs/ftjob-9f86d081884c7d659a2feaa0c55ad015/checkpoints",
            "method": "GET",
            "status": 404,
            "code": "not_found",
            "seconds": 0.008,
        },
        done
        | {
            "path": "/v1/chat/completions",
            "status": 400,
            "code": "context_length_exceeded",
            "tokens_in": None,
            "tokens_out": None,
            "seconds": 0.3,
        },
    )
    now = timezone.now()
    Call.objects.bulk_create(
        Call(**{"method": "POST", "user": owner, "at": now - timedelta(seconds=70 * number)} | kind)
        for number, kind in enumerate(kinds * 8)
    )


def serving_state(ids: dict[str, str]) -> dict[str, Any]:
    """What the gateway of that home says (serving.gateway.gateway.Gateway.state): models answer, wait
    for questions and are loaded, and an adapter is prepared. ids: of `used_home`."""
    train = f"train-{ids['finished']}"
    row = {
        "backend": "llama.cpp",
        "reason": "llama.cpp, since it knows the model",
        "note": "",
        "phase": "ready",
        "adapters": [],
        "threads": 0,
        "parallel": 4,
        "context": 16_384,
        "pids": [1],
        "load_seconds": 4.2,
        "idle_seconds": 0,
        "answering": 0,
        "waiting": 0,
        "memory_bytes": 3 * GIB,
    }
    return {
        "rule": "share",
        "device": {"kind": "cpu", "name": "AMD EPYC 7402P 24-Core Processor"},
        "train": f"{LONG}-lora-00",
        "refusal": "",
        "models": [
            row
            | {
                "base_key": f"model-{ids['model']}",
                "adapters": [f"{train}-step-800", train],
                "note": NOT_COMPARED,
                "answering": 4,
                "waiting": 12,
                "threads": 1,
            },
            row
            | {
                "base_key": f"model-{ids['model1']}",
                "backend": "transformers",
                "idle_seconds": 412,
                "memory_bytes": GIB // 3,
            },
            row | {"base_key": f"model-{ids['model2']}", "phase": "loading"},
        ],
        "preparing": [
            {
                "base_key": f"model-{ids['model']}",
                "adapter_key": f"{train}-step-700",
                "words": "Preparing the model",
                "progress": 0.62,
            }
        ],
    }


def exports_make(owner: User, model: BaseModel) -> dict[str, Export]:
    """Exports of a model, one of each state."""
    checks = [
        {"name": name, "passed": number != 4, "detail": SENTENCE}
        for number, name in enumerate(
            ("Loads in llama.cpp", "Same tokens", "Same chat template", "End tokens", "Answers")
        )
    ]
    passed = {"passed": True, "checks": checks[:4]}
    files = [
        {"name": name, "size_bytes": size, "sha256": "9f86d081" * 8}
        for name, size in (
            ("Qwen3-1.7B-Instruct-2507-bf16-continued-on-support-tickets-Q4_K_M.gguf", GIB),
            ("passport.json", 4_812),
        )
    ]
    ready = {
        "status": "ready",
        "proof": passed,
        "files": files,
        "size_bytes": GIB,
        "made_at": timezone.now(),
    }
    states: dict[str, dict[str, Any]] = {
        "export": ready
        | {"format": "ollama", "options": {"quantization": "q4_k_m"}, "remark": SENTENCE},
        "export-differs": ready
        | {
            "format": "gguf",
            "options": {"quantization": "q5_k_m"},
            "proof": {"passed": False, "checks": checks},
        },
        "export-held": ready
        | {
            "format": "hub",
            "options": {"content": "safetensors"},
            "proof": {"passed": False, "checks": checks},
            "delivery": "held",
            "destination": "organisation-of-long-name/qwen3-1.7b-continued-on-support-tickets",
        },
        "export-making": {
            "format": "safetensors",
            "status": "making",
            "phase": "Comparing with the model",
            "progress": 0.62,
        },
        "export-failed": {
            "format": "gguf-adapter",
            "status": "failed",
            "error": "llama.cpp does not know the architecture Qwen3ForCausalLM. " + ADDRESS,
        },
    }
    return {
        name: Export.objects.create(model=model, asked_by=owner, **values)
        for name, values in states.items()
    }


def datasets_make(owner: User, home: Any) -> dict[str, Dataset]:
    rows = chat_rows(260) + bad_rows()
    made = {
        "chat": dataset_of(
            owner, home, "support-tickets-2026-answered-by-people-english-and-german", rows
        ),
        "pairs": dataset_of(
            owner, home, "preference-pairs-tone-of-voice-rated-by-three-people", pair_rows(40)
        ),
        "prompts": dataset_of(
            owner, home, "grade-school-maths-with-reference-answers", prompt_rows(40)
        ),
        "rated": dataset_of(owner, home, "thumbs-up-and-down-from-the-help-page", rated_rows(40)),
        "unusable": dataset_of(
            owner, home, "columns_exported_from_the_old_ticket_system", odd_rows(20)
        ),
    }
    chat = made["chat"]
    labels = [
        Label.objects.create(name=name)
        for name in ("support", "german-and-english", "reviewed-by-legal-2026")
    ]
    chat.labels.set(labels)
    for model in BaseModel.objects.filter(status="ready")[:1]:
        counts = {
            "rows": LENGTHS,
            "prompts": LENGTHS,
            "longest": [[1290, 12], [1180, 44]],
            "ready": True,
        }
        TokenLengths.objects.update_or_create(
            dataset=chat,
            tokenizer=model.tokenizer_sha256,
            defaults=counts | {"model_path": str(model.path)},
        )
    base = {
        "owner": owner,
        "file_type": "jsonl",
        "file_name": "rows.jsonl",
        "size_bytes": 73_400_320,
    }
    for number in range(30):
        state = (
            {"status": "checking", "checked_bytes": 40_000_000}
            if number == 29
            else {"status": "ready"}
        )
        Dataset.objects.create(
            name=f"nightly-export-of-the-knowledge-base-articles-{number:02}",
            slug=f"export-{number}",
            sha256="0" * 64,
            format="messages",
            row_count=1_204_811,
            **base | state,
        )
    made["checking"] = Dataset.objects.latest("pk")
    made["version"] = Dataset.objects.create(
        name=chat.name,
        slug="chat-v2",
        version=2,
        parent=chat,
        sha256="1" * 64,
        status="ready",
        format="messages",
        row_count=250,
        **base,
        repair={
            "slug": "drop_duplicates",
            "counts": {"read": 262, "written": 250, "changed": 4, "left_out": 12},
        },
    )
    return made


def dataset_of(owner: User, home: Any, name: str, rows: list[Any]) -> Dataset:
    path = home / f"{name}.jsonl"
    path.write_text(
        "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    )
    file = ReceivedFile.copy_of(path)
    file.name = path.name
    dataset = dataset_create(owner=owner, file=file, name=name, description=SENTENCE * 2, labels=())
    dataset_check(dataset.pk)
    dataset.refresh_from_db()
    return dataset


def chat_rows(count: int) -> list[Any]:
    return [
        {
            "messages": [
                {"role": "system", "content": "You answer the letters of our customers."},
                {
                    "role": "user",
                    "content": f"Where is order {number}? It is not at {ADDRESS}?order={number}",
                },
                {"role": "assistant", "content": SENTENCE * (1 + number % 5)},
            ],
            "ticket_number_of_the_old_system": number,
        }
        for number in range(count)
    ]


def bad_rows() -> list[Any]:
    repeated = {
        "messages": [
            {"role": "user", "content": "Hello?"},
            {"role": "assistant", "content": "Hello!"},
        ]
    }
    return [
        *[repeated] * 6,
        *[
            {"messages": [{"role": "user", "content": f"No answer {number} {ADDRESS}"}]}
            for number in range(12)
        ],
        '{"messages": [{"role": "user", "content": "this line breaks off\n',
    ]


def pair_rows(count: int) -> list[Any]:
    return [
        {
            "prompt": f"Say {number} kindly.",
            "chosen": SENTENCE + str(number),
            "rejected": f"No. {ADDRESS}",
        }
        for number in range(count)
    ]


def prompt_rows(count: int) -> list[Any]:
    return [
        {"prompt": f"What is {number} + {number}? {SENTENCE}", "answer": str(2 * number)}
        for number in range(count)
    ]


def rated_rows(count: int) -> list[Any]:
    return [
        {
            "prompt": f"Question {number}?",
            "completion": SENTENCE + str(number),
            "label": number % 3 > 0,
        }
        for number in range(count)
    ]


def odd_rows(count: int) -> list[Any]:
    return [
        {"ticket_text_as_it_was_received": SENTENCE, "department_that_answered_it": 3, "n": n}
        for n in range(count)
    ]


def trained_make(owner: User, base: BaseModel, run: TrainRun) -> dict[str, BaseModel]:
    """Models that were trained here: one on another, five times, and each in another state."""
    proof = {
        "passed": True,
        "checks": [
            {"name": "Same answers", "passed": True, "detail": SENTENCE},
            {"name": "End tokens", "passed": False, "detail": ADDRESS},
        ],
    }
    origin = {
        "train": run.pk,
        "name": run.name,
        "method": run.method.name,
        "step": 1200,
        "precision": "auto",
        "base_model": {"id": base.pk, "name": base.name},
        "datasets": {"training": {"id": 0, "title": SENTENCE, "licence": "cc-by-nc-4.0"}},
    }
    values = {
        "owner": owner,
        "source": "train",
        "reference": f"train {run.pk}",
        "architecture": "Qwen3ForCausalLM",
        "parameter_count": 1_720_574_976,
        "size_bytes": 4 * GIB,
        "licence": "apache-2.0",
        "sha256": "9f86d081" * 8,
    }
    states = ({}, {"proof": proof}, {"proof": proof | {"passed": False}}, {"status": "failed"})
    found, parent = {}, base

    for number in range(6):
        model = BaseModel.objects.create(
            **{"status": "ready"} | values | states[number % 4],
            name="Support-desk-answers-in-the-tone-of-the-house-second-attempt",
            version=f"{number + 1}",
            slug=f"trained-{number}",
            parent=parent,
            trained_from=origin if number == 1 else origin | {"base_model": {}, "train": 0},
            error=SENTENCE if number % 4 == 3 else "",
        )
        measures = {
            "evaluation": {
                "metric": "eval_loss",
                "first": {"step": 0, "value": 2.31},
                "best": {"step": 900, "value": 1.204},
                "last": {"step": 1200, "value": 1.31},
            }
        }
        model.path.mkdir(parents=True, exist_ok=True)
        (model.path / "passport.json").write_text(json.dumps({"files": {}, "measures": measures}))
        found[f"trained{number or ''}"] = parent = model

    found["merging"] = BaseModel.objects.create(
        **values,
        name="Merging",
        version="1",
        slug="merging",
        parent=base,
        trained_from=origin,
        progress=0.6,
        phase="Comparing with the trained model",
    )
    return found


def trains_make(
    people: dict[str, User], models: dict[str, BaseModel], datasets: dict[str, Dataset]
) -> dict[str, TrainRun]:
    lora = {
        "method": "lora",
        "dataset": datasets["chat"],
        "owner": people["alice"],
        "base_model": models["model"],
    }
    grpo = lora | {"method": "grpo", "dataset": datasets["prompts"]}
    found = {
        "failed": train_make(**lora, status="failed", **failure()),
        "stopped": train_make(**lora, status="stopped"),
        "grpo": train_make(**grpo, status="finished", metric="reward"),
        "dpo": train_make(
            **lora | {"method": "dpo", "dataset": datasets["pairs"]}, status="finished"
        ),
        "other": train_make(
            **lora | {"owner": people["bob"], "base_model": models["model1"]}, status="finished"
        ),
    }
    for number in range(32):
        status = ("finished", "failed", "stopped", "finished", "finished")[number % 5]
        owner = people["bob" if number % 3 == 0 else "alice"]
        TrainRun.objects.create(
            **train_row(**lora | {"owner": owner}, status=status, number=number)
        )
    found["finished"] = train_make(**lora, status="finished")
    found["running"] = train_make(
        **lora,
        status="running",
        phase="training",
        eta_seconds=5400.0,
        devices=[{"identity": "0", "slot": "0", "label": ""}],
        warnings=[
            {"code": "rows_cut", "message": "41 of 1,144,570 rows are cut at 2,048 tokens."},
            {"code": "no_system_turn", "message": f"{SENTENCE} {ADDRESS}"},
        ],
    )
    found["waiting"] = train_make(**lora, status="queued", measured=False, notes=SENTENCE)
    found["next"] = train_make(
        **lora, status="queued", measured=False, starts_after=found["waiting"]
    )
    return found


def chains_make(
    owner: User,
    models: dict[str, BaseModel],
    datasets: dict[str, Dataset],
    trains: dict[str, TrainRun],
) -> dict[str, Chain]:
    """A chain of every status: supervised, by preferences, by rewards."""
    bound = {"gate": "at_most", "gate_metric": "eval_loss", "gate_value": 1.25}
    reason = (
        "The gate behind stage 1 is closed: stage 2 starts if the eval loss of stage 1 is at most "
        "1.25, but it was 1.482."
    )
    begun = {"began_at": timezone.now(), "passed": True}
    closed = begun | {"measured": 1.482, "passed": False}
    opened = begun | {"measured": 1.204, "model": models["model1"]}
    plans: dict[str, tuple[dict[str, Any], ...]] = {
        "draft": (bound, {"gate": "better"}, {"dataset": None}),
        "running": (
            bound | opened | {"run": trains["finished"]},
            begun | {"run": trains["running"]},
        ),
        "stopped": (bound | closed | {"run": trains["other"]}, {}, {}),
        "succeeded": (bound | opened | {"run": trains["dpo"]}, begun | {"run": trains["grpo"]}),
        "cancelled": (begun | {"run": trains["stopped"]}, {}),
    }
    rows = (("lora", "chat"), ("dpo", "pairs"), ("grpo", "prompts"))
    found = {}
    for status, stages in plans.items():
        chain = Chain.objects.create(
            owner=owner,
            name=f"{LONG}-{status}" if status == "stopped" else f"support-in-stages-{status}",
            status=status,
            reason=reason if status == "stopped" else "",
            ordered_at=None if status == "draft" else timezone.now(),
        )
        for position, ((method, data), given) in enumerate(zip(rows, stages, strict=False), 1):
            asked = {
                "name": f"support-{method}",
                "method": TrainingMethod.objects.get(slug=method),
                "dataset": datasets[data],
                "base_model": models["model"] if position == 1 else None,
            }
            Stage.objects.create(chain=chain, position=position, **asked | given)
        found[f"chain-{status}"] = chain

    return found


def sweeps_make(
    owner: User,
    models: dict[str, BaseModel],
    datasets: dict[str, Dataset],
    trains: dict[str, TrainRun],
) -> dict[str, Sweep]:
    """A sweep of every status: two settings, and nine with all that a sweep can change."""
    few: dict[str, Any] = {
        "learning_rate": {"low": 1e-5, "high": 1e-3, "scale": "log"},
        "lora_rank": {"values": [8, 16, 64]},
    }
    many = few | {
        "weight_decay": {"low": 0.0, "high": 0.1, "scale": "linear"},
        "scheduler": {"values": ["cosine", "linear", "constant_with_warmup"]},
        "target_modules": {"values": ["all-linear", ["q_proj", "k_proj", "v_proj", "o_proj"]]},
        "use_dora": {"values": [True, False]},
        "warmup_ratio": {"values": [0.0, 0.03, 0.1]},
    }
    reason = (
        "3 trains in a row have failed. The last one, #12: The GPU ran out of memory while the "
        "optimizer made its first step."
    )
    plans: dict[str, tuple[dict[str, Any], int, str]] = {
        "running": (many, 15, ""),
        "paused": (few, 2, ""),
        "succeeded": (few, 24, "Its budget of 24 trains is used up."),
        "stopped": (few, 5, reason),
    }
    usual = [run for run in trains.values() if run.status == "finished"]
    taken: set[int] = set()
    found = {}

    for status, (space, count, why) in plans.items():
        sweep = Sweep.objects.create(
            owner=owner,
            name=f"{LONG}-sweep" if status == "running" else f"support-rates-{status}",
            status=status,
            reason=why,
            method=TrainingMethod.objects.get(slug="lora"),
            base_model=models["model"],
            dataset=datasets["chat"],
            space=space,
            metric="eval_loss",
            search="tpe",
            pruner="median",
            budget_trains=24,
            budget_asked=24,
            importance={"learning_rate": 0.71, "lora_rank": 0.29} if count > 20 else {},
        )
        free = [run for run in usual if run.pk not in taken]
        for number in range(1, count + 1):
            run = free.pop() if len(free) > 2 else None
            taken |= {run.pk} if run is not None else set()
            trial_make(sweep, number, run, is_last=number == count)

        found[f"sweep-{status}"] = sweep

    return found


def trial_make(sweep: Sweep, number: int, run: TrainRun | None, *, is_last: bool) -> Trial:
    """Every third is pruned; the last one of a sweep that runs is open, and of one that has stopped
    has failed."""
    values: dict[str, Any] = {}
    for place, (name, entry) in enumerate(sweep.space.items()):
        share = (number * (place + 3) * 7 % 17) / 17
        if "values" in entry:
            values[name] = entry["values"][int(share * len(entry["values"]))]
        elif entry["scale"] == "log":
            values[name] = float(f"{entry['low'] * (entry['high'] / entry['low']) ** share:.4g}")
        else:
            values[name] = round(entry["low"] + share * (entry["high"] - entry["low"]), 3)

    state, reason = Trial.State.COMPLETE, ""
    if is_last and sweep.status in ("running", "stopped"):
        is_running = sweep.status == "running"
        state = Trial.State.OPEN if is_running else Trial.State.FAILED
        reason = "" if is_running else "The GPU ran out of memory while the optimizer stepped."
    elif number % 3 == 0:
        state = Trial.State.PRUNED
        reason = "Pruned: at step 40 its eval loss 2.312 was above the median 1.904 of 5 trains."

    is_complete = state == Trial.State.COMPLETE
    return Trial.objects.create(
        sweep=sweep,
        number=number,
        values=values,
        run=run,
        state=state,
        reason=reason,
        value=1.2 + (number * 11 % 13) / 20 if is_complete else None,
        seconds=600 + 37 * number,
        began_at=timezone.now(),
        ended_at=None if state == Trial.State.OPEN else timezone.now(),
    )


def jobs_make(
    people: dict[str, User], models: dict[str, BaseModel], datasets: dict[str, Dataset]
) -> dict[str, Job]:
    """Background work of every kind and status, beside the trains, which are jobs too."""
    now = timezone.now()
    alice, bob = people["alice"], people["bob"]
    here = {"worker": "background-1", "host": "gpu-server-basement-2.example.org"}
    make = Job.objects.create
    check = {
        "kind": "dataset-check",
        "name": datasets["checking"].name,
        "arguments": [datasets["checking"].pk],
        "owner": alice,
        "limit_seconds": 7200,
        "lane": Job.Lane.NORMAL,
    }
    fetch = {
        "kind": "model-import",
        "name": models["importing"].name,
        "arguments": [models["importing"].pk],
        "owner": alice,
        "lane": Job.Lane.LONG,
    }
    started = {"started_at": now - timedelta(minutes=4)}
    broken = {
        **started,
        "status": "failed",
        "finished_at": now - timedelta(minutes=1),
        "attempt": 4,
        "error_code": "broke_off",
        "error": "The file ends in the middle of tensor blk.27.ffn_down.weight. Upload it again, "
        "or choose another file.",
        "error_advice": "Its log says more. Often the machine has too little memory for it.",
    }
    found = {
        "job-running": make(
            **check, **started, **here, status="running", phase="reading rows", progress=0.62
        ),
        "job-stopping": make(
            **fetch | {"owner": bob}, **started, **here, status="stopping", phase="Downloading"
        ),
        "job-waiting": make(
            **fetch,
            attempt=2,
            due_at=now + timedelta(minutes=2),
            error="ConnectionError: the hub at https://huggingface.co did not answer in 30 s.",
        ),
        "job-failed": make(**fetch | {"name": models["broken"].name}, **here, **broken),
    }
    make(kind="notices", name="Notices", owner=None, lane=Job.Lane.QUICK)
    make(kind="reward-trial", name=datasets["prompts"].name, owner=bob, lane=Job.Lane.NORMAL)
    for number in range(30):
        make(
            kind="token-count",
            name=f"{LONG}-{number:02}",
            owner=bob if number % 4 == 0 else alice,
            status=("finished", "finished", "stopped")[number % 3],
            started_at=now - timedelta(hours=number, minutes=9),
            finished_at=now - timedelta(hours=number),
            lane=Job.Lane.QUICK,
            **here,
        )

    for job in found.values():
        job.directory.mkdir(parents=True, exist_ok=True)
        lines = [
            f"2026-11-28 14:07:{second % 60:02} read {second},000 rows" for second in range(90)
        ]
        job.log_path.write_text("\n".join(lines) + "\n")

    return found


def failure() -> dict[str, str]:
    return {
        "error_code": "out_of_memory",
        "error": "The GPU ran out of memory: 23.4 of 24.0 GB were taken when the train asked for "
        "1.2 GB more.",
        "error_advice": "Take a smaller batch with more accumulation, or shorter rows.",
    }


def train_row(*, method: str, status: str, number: int = 0, **values: Any) -> dict[str, Any]:
    """Fields of a train that ran for hours, some days ago."""
    found = TrainingMethod.objects.get(slug=method)
    began = timezone.now() - timedelta(days=3, hours=number)
    defaults = method_defaults(found)
    waiting = status == "queued"
    ended = status in TrainRun.ENDED
    where = {
        "step": 903,
        "total_steps": 1204,
        "epoch": 2.25,
        "started_at": began,
        "host": "gpu-server-basement-2",
        "last_metrics": {
            "loss": 1.204,
            "reward": 0.89,
            "tokens_per_second": 18_402,
            "num_tokens": 48_211_904,
            "peak_memory_gb": 21.4,
        },
        "last_evaluation": {"eval_loss": 1.31, "eval_reward": 0.9},
        "best_value": 1.298,
        "best_step": 840,
        "curve": [[step, 3 / (1 + step / 300)] for step in range(1, 900, 20)],
        "facts": facts(began),
    }
    return {
        "name": f"{LONG}-{method}-{number:02}",
        "method": found,
        "status": status,
        "created_at": began,
        "parameters": defaults | {"learning_rate": 1e-4 + number * 1e-6},
        "defaults": defaults,
        "finished_at": began + timedelta(hours=5, minutes=12) if ended else None,
        **({} if waiting else where),
        **(failure() if status == "failed" else {}),
        **values,
    }


def facts(began: Any) -> dict[str, Any]:
    moments = [began.timestamp() + number * 900 for number in range(len(PHASES))]
    return {
        "device": {
            "kind": "cuda",
            "name": "NVIDIA RTX 6000 Ada Generation Laptop GPU",
            "memory_gb": 47.9,
        },
        "precision": "bfloat16",
        "train_rows": 1_144_570,
        "eval_rows": 60_241,
        "left_out_rows": 13,
        "trainable_count": 18_464_768,
        "parameter_count": 1_739_039_744,
        "steps_per_epoch": 401,
        "versions": {
            "torch": "2.9.1+cu128",
            "transformers": "4.57.1",
            "trl": "0.25.0",
            "peft": "0.18.0",
        },
        "phases": [list(pair) for pair in zip(PHASES, moments, strict=True)],
    }


def train_make(*, metric: str = "loss", measured: bool = True, **values: Any) -> TrainRun:
    run = TrainRun.objects.create(**train_row(**values))
    run.directory.mkdir(parents=True, exist_ok=True)
    if not measured:
        return run
    metrics_make(run, metric)
    samples_make(run)
    Checkpoint.objects.bulk_create(
        Checkpoint(
            run=run,
            step=step,
            epoch=step / 401,
            value=2 - step / 1000,
            size_bytes=GIB // 12,
            time=1_790_000_000 + step,
            kept=step > 200,
        )
        for step in range(100, 901, 100)
    )
    lines = [
        f"2026-11-28 14:{n // 60 % 60:02}:{n % 60:02} step {n} of 1204 loss 1.204 {ADDRESS}"
        for n in range(400)
    ]
    (runs_folder() / str(run.pk) / LOG).write_text("\n".join(lines))
    if run.status == "finished":
        (run.directory / MODEL).mkdir()
    return run


def metrics_make(run: TrainRun, metric: str) -> None:
    rows = []
    for step in range(1, 904, 6):
        wave = math.sin(step) / 10
        values = {
            "loss": 3 / (1 + step / 300) + wave,
            "learning_rate": 2e-4 * (1 - step / 1204),
            "grad_norm": 1 + wave,
        }
        values |= {
            "num_tokens": step * 53_390,
            "tokens_per_second": 18_402 + wave,
            "peak_memory_gb": 21.4,
        }
        if metric == "reward":
            values |= {
                "reward": 0.2 + step / 1300 + wave,
                "reward_std": 0.1 + wave / 2,
                "kl": step / 9000,
            }
            values |= {
                "rewards/same_answer/mean": 0.4 + wave,
                "completions/mean_length": 200 + 100 * wave,
            }
        rows.append((step, "train", values))
    for step in range(60, 901, 60):
        measured = {
            f"eval_{metric}": 2.6 / (1 + step / 400),
            "eval_mean_token_accuracy": 0.5 + step / 3000,
        }
        rows.append((step, "eval", measured))
    MetricRow.objects.bulk_create(
        MetricRow(
            run=run,
            seq=seq,
            step=step,
            epoch=step / 401,
            split=split,
            time=1_790_000_000 + step * 20,
            values=of,
        )
        for seq, (step, split, of) in enumerate(sorted(rows, key=lambda row: row[0]), 1)
    )
    TrainRun.objects.filter(pk=run.pk).update(last_seq=len(rows))
    curve_summaries_extend(run, len(rows))


def samples_make(run: TrainRun) -> None:
    found = []
    for index in range(6):
        prompt = f"Where is order {index}? It is not at {ADDRESS}?order={index}"
        for stage, text in (
            ("before", "I am a language model. " * 9),
            ("after", SENTENCE * (1 + index % 3)),
        ):
            found.append(
                {
                    "index": index,
                    "stage": stage,
                    "prompt": prompt,
                    "reference": SENTENCE,
                    "text": text,
                }
            )
    if run.method.slug == "grpo":
        rewards = {"same_answer": 1.0, "length_between": 0.25}
        found += [
            {
                "index": n,
                "stage": "completion",
                "step": 900,
                "prompt": f"What is {n}? {SENTENCE}",
                "text": SENTENCE + ADDRESS,
                "rewards": rewards,
            }
            for n in range(8)
        ]
    Sample.objects.bulk_create(
        Sample(
            run=run, seq=10_000 + seq, tokens=64, stopped=seq % 2 == 0, **{"step": 903, **values}
        )
        for seq, values in enumerate(found)
    )
