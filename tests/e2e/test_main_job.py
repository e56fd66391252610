"""The main job through the API of a running platform: upload, train, watch, take the result away,
repeat by hand."""

import concurrent.futures
import io
import json
import zipfile

import pytest

from engine.contract.rundir import read_spec
from tests.live import Platform

ROWS = 40


def toy_rows(count: int = ROWS) -> bytes:
    """A task that even a tiny random model gets better at: the same answer to every question."""
    rows = [
        {"prompt": f"Question {number}?", "completion": "The answer is yes."}
        for number in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture(scope="module")
def dataset(platform: Platform):
    dataset = platform.upload("toys.jsonl", toy_rows())
    assert (dataset["status"], dataset["row_count"], dataset["problem_count"]) == ("ready", ROWS, 0)
    return dataset


@pytest.fixture(scope="module")
def finished(platform: Platform, dataset):
    run = platform.start(
        dataset, epochs=3, batch_size=4, learning_rate=1e-2, evaluation_split=0.1, save_every=1
    )
    return platform.ended(run)


def test_the_train_finishes_and_its_loss_falls(platform, finished):
    assert (finished["status"], finished["error"]) == ("finished", None)
    assert finished["step"] == finished["total_steps"] == 27  # 36 rows in batches of 4, three times
    answer = platform.get(f"trains/{finished['id']}/metrics/")
    losses = [row["values"]["loss"] for row in answer["rows"] if row["split"] == "train"]
    held_out = [row["values"]["eval_loss"] for row in answer["rows"] if row["split"] == "eval"]
    assert len(losses) == 27
    # An adapter on random frozen weights reaches about 5.15 from ln(320) = 5.77.
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])
    assert held_out[-1] < held_out[0]


def test_metrics_come_once_and_in_order(platform, finished):
    first = platform.get(f"trains/{finished['id']}/metrics/")
    numbers = [row["seq"] for row in first["rows"]]
    assert numbers == sorted(set(numbers))
    half = numbers[len(numbers) // 2]
    later = platform.get(f"trains/{finished['id']}/metrics/", after=half)
    assert [row["seq"] for row in later["rows"]] == [number for number in numbers if number > half]
    assert platform.get(f"trains/{finished['id']}/metrics/", after=first["next"])["rows"] == []


def test_the_log_is_read_in_pieces_that_join(platform, finished):
    whole = platform.get(f"trains/{finished['id']}/log/")
    assert whole["offset"] == whole["size"] > 0
    joined, offset = "", 0
    while offset < whole["size"]:
        piece = platform.get(f"trains/{finished['id']}/log/", offset=offset, limit=200)
        assert piece["offset"] > offset
        joined, offset = joined + piece["text"], piece["offset"]
    assert joined == whole["text"]


def test_samples_tell_before_from_after(platform, finished):
    samples = platform.get(f"trains/{finished['id']}/samples/")
    stages = {(row["index"], row["stage"]) for row in samples}
    assert {(0, "before"), (0, "after"), (1, "before"), (1, "after")} <= stages
    assert all(row["prompt"] and row["reference"] for row in samples)


def test_checkpoints_are_listed_and_whole(platform, finished):
    from engine.contract.rundir import checkpoint_is_whole

    checkpoints = [
        row for row in platform.get(f"trains/{finished['id']}/checkpoints/") if row["kept"]
    ]
    assert checkpoints
    for row in checkpoints:
        folder = (
            platform.home
            / "runs"
            / str(finished["id"])
            / "checkpoints"
            / f"checkpoint-{row['step']}"
        )
        assert checkpoint_is_whole(folder)


def test_the_downloaded_adapter_loads_in_plain_peft(platform, finished, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    answer = platform.api("GET", f"trains/{finished['id']}/model/")
    assert answer.headers["Content-Type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path)
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= set(names)
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]

    base_folder = read_spec(platform.home / "runs" / str(finished["id"])).base_model_path
    base = AutoModelForCausalLM.from_pretrained(base_folder)
    tokens = AutoTokenizer.from_pretrained(tmp_path)("Question 1?", return_tensors="pt")
    with torch.no_grad():
        before = base(**tokens).logits
        after = PeftModel.from_pretrained(base, tmp_path)(**tokens).logits
    assert not torch.allclose(before, after)


@pytest.mark.long
def test_the_engine_repeats_the_run_by_hand_with_the_same_losses(platform, finished, warm):
    directory = platform.home / "runs" / str(finished["id"])
    before = (directory / "events.jsonl").read_bytes()
    result = warm.run("engine", str(directory), env=platform.env)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (directory / "events.jsonl").read_bytes() == before

    def losses(path):
        events = [json.loads(line) for line in path.read_text().splitlines()]
        return [
            event["values"]["loss"]
            for event in events
            if event["type"] == "metrics" and event["split"] == "train"
        ]

    (again,) = (directory / "repeats").rglob("events.jsonl")
    assert losses(again) == losses(directory / "events.jsonl")


@pytest.mark.long
def test_full_fine_tuning_leaves_a_whole_model(platform, dataset):
    run = platform.ended(platform.start(dataset, method="sft", max_steps=3, batch_size=4))
    assert (run["status"], run["error"]) == ("finished", None)
    names = {path.name for path in (platform.home / "runs" / str(run["id"]) / "model").iterdir()}
    assert {"config.json", "model.safetensors"} <= names
    assert "adapter_config.json" not in names


def test_a_double_click_starts_one_train(platform, dataset):
    body = {
        "method": "lora",
        "base_model": "tiny",
        "dataset": dataset["id"],
        "parameters": {"max_steps": 1, "max_tokens": 64},
    }
    platform.get("trains/")  # signs in, so that the two calls below start together

    def post(_):
        return platform.api(
            "POST", "trains/", json=body, headers={"Idempotency-Key": "double-click"}
        )

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(post, range(2)))
    assert sorted(answer.status_code for answer in answers) == [200, 201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    platform.ended(answers[0].json())


def test_a_copy_changes_one_thing_and_remembers_where_it_came_from(platform, finished):
    answer = platform.api(
        "POST",
        f"trains/{finished['id']}/copy/",
        json={"parameters": {"learning_rate": 1e-3, "epochs": 1}},
    )
    assert answer.status_code == 201, answer.text
    copy = answer.json()
    assert copy["copied_from"] == finished["id"]
    changed = {
        name for name, value in copy["parameters"].items() if value != finished["parameters"][name]
    }
    assert changed == {"learning_rate", "epochs"}
    assert platform.ended(copy)["status"] == "finished"

    comparison = platform.get("trains/compare/", ids=f"{finished['id']},{copy['id']}")
    assert set(comparison["differences"]) == {"learning_rate", "epochs"}
    assert comparison["outcomes"]["steps"] == {str(finished["id"]): 27, str(copy["id"]): 9}


def test_a_branch_begins_where_a_checkpoint_was(platform, finished, dataset):
    kept = [row for row in platform.get(f"trains/{finished['id']}/checkpoints/") if row["kept"]]
    body = {
        "name": "branch",
        "method": "lora",
        "base_model": "tiny",
        "dataset": dataset["id"],
        "parameters": finished["parameters"]
        | {"epochs": 1, "max_steps": None, "learning_rate": 1e-3},
        "branched_from": finished["id"],
        "branch_step": kept[0]["step"],
    }
    answer = platform.api("POST", "trains/", json=body)
    assert answer.status_code == 201, answer.text
    run = platform.ended(answer.json())
    assert (run["status"], run["branched_from"], run["branch_step"]) == (
        "finished",
        finished["id"],
        kept[0]["step"],
    )
    before = platform.get(f"trains/{run['id']}/metrics/")["rows"][0]
    assert before["values"]["eval_loss"] == pytest.approx(kept[0]["value"], abs=1e-4)
    refused = platform.api(
        "POST", "trains/", json=body | {"parameters": body["parameters"] | {"lora_rank": 2}}
    )
    assert list(refused.json()["error"]["fields"]) == ["parameters.lora_rank"]


def test_what_a_train_used_is_not_deleted(platform, dataset, finished):
    answer = platform.api("DELETE", f"datasets/{dataset['id']}/")
    assert answer.status_code == 400
    assert "archive" in answer.json()["error"]["message"].lower()
    assert platform.api("POST", f"datasets/{dataset['id']}/archive/").status_code == 200
    assert platform.api("POST", f"datasets/{dataset['id']}/restore/").status_code == 200


def test_a_stranger_finds_nothing(platform, dataset, finished):
    for path in ("", "metrics/", "log/", "samples/", "checkpoints/", "model/"):
        assert platform.api("GET", f"trains/{finished['id']}/{path}", by="bob").status_code == 404
    assert platform.api("POST", f"trains/{finished['id']}/stop/", by="bob").status_code == 404
    assert platform.api("GET", f"datasets/{dataset['id']}/", by="bob").status_code == 404
    assert platform.api("GET", "trains/", by="bob").json()["results"] == []
