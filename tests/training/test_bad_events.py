"""What no engine of ours writes: a custom method's program may put anything into its events. Each
counts as one that cannot be read, and costs nothing but itself."""

import json

import pytest

from engine.contract.rundir import EVENT_TYPES, EVENTS, EventWriter
from training.models import TrainRun
from training.train.resuming import train_end_or_resume
from training.work.ingest import ENDINGS, ingest
from training.work.outcome import decide

# What every event of a type has, and what some have: whatever is read of it anywhere, and what the
# platform keeps beside it under names of its own.
FIELDS = {
    "phase": {"name": '"training"'},
    "started": {
        "total_steps": "1000",
        "steps_per_epoch": "10",
        "resumed_from": "null",
        "evaluate_every": "5",
        "save_every": "5",
        "device": '{"kind": "cpu", "name": "CPU"}',
        "train_rows": "20",
        "eval_rows": "2",
        "phases": "null",
        "spent": "null",
        "seams": "null",
        "training_before": "null",
        "evaluated_at": "null",
        "rounds_of_similar": "null",
    },
    "metrics": {"step": "1", "epoch": "0.1", "split": '"eval"', "values": '{"eval_loss": 2.5}'},
    "sample": {
        "index": "0",
        "step": "1",
        "stage": '"before"',
        "prompt": '"Hi"',
        "reference": '"Ho"',
        "text": '"Hm"',
        "tokens": "1",
        "stopped": "true",
        "rewards": '{"length": 1.0}',
        "advantage": "0.5",
    },
    "checkpoint": {
        "step": "1",
        "epoch": "0.1",
        "value": "2.5",
        "size_bytes": "9",
        "pruned": "[]",
    },
    "warning": {"code": '"note"', "message": '"careful"'},
    **{
        ending: {"step": "1", "code": '"x"', "message": '"m"', "advice": '"a"'}
        for ending in ENDINGS
    },
}
# As they stand in the file: some are no values of Python's json.
BAD = {
    "an object": '{"eval_loss": 2.3}',
    "an empty object": "{}",
    "objects": '{"a": {"b": [1e999, NaN]}}',
    "a list": "[[1, 2]]",
    "an empty list": "[]",
    "a word": '"n/a"',
    "nan": '"nan"',
    "inf": '"-inf"',
    "beyond all floats": "1e999",
    "beyond all negative floats": "-1e999",
    "no JSON": "NaN",
    "the largest float": "1.7e308",
    "a long count": "9" * 400,
    "too large a count": str(1 << 62),
    "negative": "-1",
    "null": "null",
    "true": "true",
    "false": "false",
    "long": '"' + 100_000 * "x" + '"',
    "deep": 400 * "[" + 400 * "]",
    "deeper": 5000 * "[" + 5000 * "]",
    "half a character": '"\\ud800"',
}


def test_every_type_of_event_is_walked():
    assert set(FIELDS) == EVENT_TYPES


@pytest.fixture
def run(make_train):
    run = make_train(status="running")
    run.directory.mkdir(parents=True, exist_ok=True)
    return run


@pytest.mark.parametrize("kind", sorted(FIELDS))
def test_an_event_that_cannot_be_read_costs_nothing_but_itself(run, kind):
    """Each field of each type with each value, a step that is well between each two. Whoever reads
    may have read all before, or begin with the file as it lies there."""
    writer = EventWriter(run.directory)
    writer.write("started", total_steps=1000)
    writer.write("phase", name="training")

    step = 0
    for field in ["time", *FIELDS[kind]]:
        for value in BAD.values():
            _write(writer, kind, field, value)
            step += 1
            values = {"loss": 1 / step}
            writer.write("metrics", step=step, epoch=step / 9, split="train", values=values)
            ingest(TrainRun.objects.get(pk=run.pk))

    seen = _stored(run)
    assert [row["step"] for row in seen["metrics"] if row["split"] == "train"] == list(
        range(1, step + 1)
    )
    assert seen["train"]["step"] == step
    # No infinity and no NaN in any of it, which JSON does not have.
    json.dumps(seen, default=str, allow_nan=False)

    TrainRun.objects.filter(pk=run.pk).update(
        events_offset=0, last_seq=0, warnings=[], curve=[], record_gaps=[], facts={}, outcome={}
    )
    run.metrics.all().delete()
    fresh = TrainRun.objects.get(pk=run.pk)
    ingest(fresh)
    assert run.metrics.filter(split="train").count() == step

    # And it ends as other trains do.
    assert train_end_or_resume(fresh, decide(fresh, None))
    assert TrainRun.objects.get(pk=run.pk).ended


def _write(writer: EventWriter, kind: str, field: str, value: str) -> None:
    writer.seq += 1
    event = {"seq": str(writer.seq), "time": "1.0", "type": f'"{kind}"'}
    event |= FIELDS[kind] | {field: value}
    pairs = ", ".join(f'"{name}": {text}' for name, text in event.items())
    with (writer.path).open("a") as stream:
        stream.write("{" + pairs + "}\n")


def _stored(run: TrainRun) -> dict:
    return {
        "train": TrainRun.objects.values().get(pk=run.pk),
        **{
            name: list(getattr(run, name).values())
            for name in ("metrics", "samples", "checkpoints", "curve_summaries")
        },
    }


def test_a_checkpoint_whose_value_is_no_number_is_kept_without_it(run):
    writer = EventWriter(run.directory)
    writer.write("checkpoint", step=3, epoch=0.3, size_bytes=9, value={"eval_loss": 2.3})
    writer.write("checkpoint", step=6, epoch=0.6, size_bytes=9, value="n/a", pruned=[3])
    ingest(run)

    kept = run.checkpoints.order_by("step").values_list("step", "value", "kept")
    assert list(kept) == [(3, None, False), (6, None, True)]


def test_what_an_event_claims_does_not_replace_what_the_platform_measured(run):
    writer = EventWriter(run.directory)
    writer.write("phase", name="training")
    writer.write("started", total_steps=5, phases="n/a", spent=[1], seams={"a": 1})
    ingest(run)
    assert [name for name, _ in run.facts["phases"]] == ["training"]
    assert run.facts["spent"] == {}
    assert "seams" not in run.facts


def test_a_moment_that_no_calendar_has_is_no_events(run):
    path = run.directory / EVENTS
    path.write_text('{"seq": 1, "time": 1e200, "type": "finished"}\n')
    ingest(run)
    assert run.outcome == {}
    assert [warning["code"] for warning in run.warnings] == ["bad_event"]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("started", {"total_steps": 5, "device": "A100"}),
        ("started", {"total_steps": "5", "steps_per_epoch": "12", "eval_rows": "5"}),
        ("started", {"steps_per_epoch": "few", "eval_rows": [1]}),
        ("started", {"total_steps": 5, "device": {"memory_gb": "much"}}),
        ("failed", {"step": "n/a", "message": {"why": 1}}),
    ],
)
def test_the_pages_of_such_a_train_open(run, client, alice, make_train, kind, values):
    other = make_train(status="finished", best_value=2.0)
    writer = EventWriter(run.directory)
    writer.write(kind, **values)
    for step in (1, 2):
        writer.write("metrics", step=step, epoch=0.1, split="train", values={"loss": 1.0})
        writer.write("metrics", step=step, epoch=0.1, split="eval", values={"eval_loss": 1.0})

    ingest(run)
    run.transition(TrainRun.Status.FAILED)
    client.force_login(alice)
    for address in (
        f"/trains/{run.pk}/",
        f"/trains/{run.pk}/evaluation/",
        f"/trains/{run.pk}/series/",
        f"/trains/{run.pk}/judgement/",
        f"/trains/{run.pk}/log/",
        f"/trains/compare/?ids={run.pk},{other.pk}",
        f"/trains/compare/series/?ids={run.pk},{other.pk}",
        f"/api/v1/trains/{run.pk}/",
    ):
        assert client.get(address).status_code == 200, address
