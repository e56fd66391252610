"""Which rows are trained on and which are held out: by the seed, and as the plan of the form counts
them."""

import pytest

from engine.chat.render import Renderer, tokenizer_load
from engine.contract.arithmetic import holdout_rows
from engine.contract.rundir import DataFile, EventWriter, file_sha256
from engine.data.conversations import IGNORED, prepare
from engine.run.job import Job
from engine.run.main import job_read
from tests.engine.runs import prepare as prepare_run
from tests.engine.runs import toy_rows, train, write_rows


@pytest.fixture
def data(tiny, tmp_path):
    def make(rows=None, *, max_tokens=64, **given):
        directory = prepare_run(tmp_path / "run", tiny, rows, max_tokens=max_tokens, **given)
        job: Job = job_read(directory, EventWriter(directory))
        renderer = Renderer(
            tokenizer_load(tiny), system_prompt=job.spec.system_prompt, warn=job.warn
        )
        return prepare(job, renderer, max_tokens), renderer.tokenizer

    return make


def texts(dataset, tokenizer):
    return {tokenizer.decode(row["input_ids"]) for row in dataset}


def test_held_out_rows_are_none_of_the_training_rows(data):
    prepared, tokenizer = data(evaluation_split=0.25)
    assert (prepared.train_rows, prepared.eval_rows) == (18, holdout_rows(24, 0.25))
    assert len(texts(prepared.train, tokenizer) & texts(prepared.evaluation, tokenizer)) == 0


def test_the_seed_alone_chooses_the_held_out_rows(data):
    first, tokenizer = data(evaluation_split=0.25, seed=1)
    again, _ = data(evaluation_split=0.25, seed=1, learning_rate=0.5)
    other, _ = data(evaluation_split=0.25, seed=2)
    assert texts(first.evaluation, tokenizer) == texts(again.evaluation, tokenizer)
    assert texts(first.evaluation, tokenizer) != texts(other.evaluation, tokenizer)


def test_max_samples_takes_the_first_rows_that_are_good(data):
    prepared, tokenizer = data([{"messages": None}, *toy_rows()], max_samples=3)
    assert prepared.train_rows == 3
    assert all(
        any(f"Ball {number}?" in text for text in texts(prepared.train, tokenizer))
        for number in range(3)
    )


def test_a_dataset_of_its_own_is_measured_on(data, tmp_path, tiny):
    other = write_rows(
        tmp_path / "other.jsonl",
        [
            {
                "messages": [
                    {"role": "user", "content": "New?"},
                    {"role": "assistant", "content": "Yes."},
                ]
            }
        ],
    )
    file = DataFile(str(other), file_sha256(other), "jsonl", "messages", {"messages": "messages"})
    run = train(
        tmp_path / "train", tiny, evaluation_dataset=file, evaluation_split=0.5, max_steps=1
    )
    assert run.code == 0, run.last
    (started,) = run.of("started")
    assert (started["train_rows"], started["eval_rows"]) == (24, 1)


def test_a_cut_row_keeps_its_beginning_and_loses_its_end(data):
    whole, _ = data()
    length = max(len(row["input_ids"]) for row in whole.train)
    cut, _ = data(max_tokens=length - 2)
    assert cut.cut_rows > 0
    assert cut.train_rows == 24
    assert max(len(row["input_ids"]) for row in cut.train) == length - 2


def test_labels_are_the_learned_tokens_and_nothing_else(data):
    prepared, tokenizer = data()
    for row in prepared.train:
        answer = [label for label in row["labels"] if label != IGNORED]
        assert tokenizer.decode(answer).startswith("It is")
        assert tokenizer.decode(answer).endswith(".<|im_end|>")
        kept = [index for index, label in enumerate(row["labels"]) if label != IGNORED]
        assert [row["input_ids"][index] for index in kept] == answer


def test_where_nothing_is_held_out_the_samples_are_training_rows_and_it_says_so(tiny, tmp_path):
    run = train(
        tmp_path / "run",
        tiny,
        evaluation_split=0,
        sample_prompts=1,
        sample_max_tokens=8,
        max_steps=1,
    )
    assert run.of("sample")
    assert [event["code"] for event in run.of("warning")] == ["samples_of_training_rows"]


def test_rows_longer_than_the_model_can_read_are_cut_there_and_it_says_so(tiny, tmp_path):
    long = [
        {
            "messages": [
                {"role": "user", "content": "Go."},
                {"role": "assistant", "content": "xyz " * 400},
            ]
        }
    ] * 4
    run = train(tmp_path / "run", tiny, long, max_tokens=100_000, max_steps=1, batch_size=1)
    assert run.code == 0, run.last
    assert [event["code"] for event in run.of("warning")] == ["context_length", "no_end_learned"]
    assert run.of("metrics")[0]["values"]["num_tokens"] == 512
