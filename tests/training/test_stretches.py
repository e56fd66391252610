"""Long curves in summaries: no spike, no gap and no end is lost, and a rewind leaves nothing of
what is gone."""

import random

import pytest

import training.train.curve_summary
from engine.contract.rundir import EventWriter
from training.models import CurveSummary
from training.pages.charts import series_of
from training.train.curve_summary import EPOCH, STEP, TIME, VALUE, points_read
from training.work.ingest import ingest

MOST = 6


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Summaries of a few events, so that a few hundred rows have all sizes."""
    monkeypatch.setattr(training.train.curve_summary, "SIZES", (4, 16, 64))


@pytest.fixture
def running(make_train):
    run = make_train(status="running")
    run.directory.mkdir(parents=True, exist_ok=True)
    return run, EventWriter(run.directory)


def tell(writer: EventWriter, draw: random.Random, first: int, last: int) -> None:
    for step in range(first, last + 1):
        loss = (
            None
            if draw.random() < 0.05
            else draw.uniform(1, 2) * (50 if draw.random() < 0.02 else 1)
        )
        writer.write(
            "metrics",
            step=step,
            epoch=step / 10,
            split="train",
            values={"loss": loss, "grad_norm": step % 7},
        )
        if not step % 10:
            writer.write(
                "metrics",
                step=step,
                epoch=step / 10,
                split="eval",
                values={"eval_loss": draw.random()},
            )
            writer.write("phase", name="training")


def rows_of(run, name: str) -> list[list]:
    rows = run.metrics.order_by("seq").values_list("step", "epoch", "time", "values")
    return [
        [step, round(epoch, 4), round(time, 2), values[name]]
        for step, epoch, time, values in rows
        if name in values
    ]


def same(one: list, other: list) -> bool:
    """Values are returned with six digits."""
    return one[:VALUE] == other[:VALUE] and one[VALUE] == (
        None if other[VALUE] is None else pytest.approx(other[VALUE], rel=1e-5)
    )


def check(run, steps: tuple[int, int] | None = None) -> int:
    """Every point that is returned is a row; of each metric the lowest and the highest, a gap and
    the last are returned. Returns how many points there are of the loss."""
    found = points_read(run, MOST, steps)
    first, last = steps or (0, 10**9)
    for name in ("loss", "grad_norm", "eval_loss"):
        rows = [row for row in rows_of(run, name) if first <= row[STEP] <= last]
        returned = found.get(name, [])
        assert [point[STEP] for point in returned] == sorted(point[STEP] for point in returned)
        by_step = {row[STEP]: row for row in rows}
        assert all(same(point, by_step[point[STEP]]) for point in returned)
        if not rows:
            continue
        numbers = [row[VALUE] for row in rows if row[VALUE] is not None]
        shown = [point[VALUE] for point in returned if point[VALUE] is not None]
        if steps is None:
            assert max(shown) == pytest.approx(max(numbers), rel=1e-5)
            assert min(shown) == pytest.approx(min(numbers), rel=1e-5)
            assert (None in [row[VALUE] for row in rows]) == (
                None in [point[VALUE] for point in returned]
            )
    return len(found["loss"])


@pytest.mark.parametrize("seed", range(4))
def test_a_curve_that_grows_in_bursts_keeps_what_a_chart_must_not_lose(running, seed):
    run, writer = running
    draw = random.Random(seed)
    step = 0
    while step < 600:
        more = draw.randint(1, 90)
        tell(writer, draw, step + 1, step + more)
        step += more
        ingest(run)
        check(run)
    assert check(run) < 200
    sizes = set(run.curve_summaries.values_list("size", flat=True))
    assert sizes == {4, 16, 64}
    for size in sizes:
        numbers = list(run.curve_summaries.filter(size=size).values_list("number", flat=True))
        assert numbers == list(range((run.last_seq + 1) // size))


def test_zooming_in_fetches_every_row(running):
    run, writer = running
    tell(writer, random.Random(1), 1, 600)
    ingest(run)
    assert check(run, (101, 110)) == 10
    assert check(run, (1, 9)) == 9
    assert check(run, (595, 700)) == 6
    assert 12 < check(run, (101, 400)) < 100


def test_a_later_attempt_leaves_no_summary_of_what_it_took_back(running):
    run, writer = running
    draw = random.Random(2)
    tell(writer, draw, 1, 300)
    ingest(run)
    writer.write("started", total_steps=600, resumed_from=130)
    tell(writer, draw, 131, 500)
    ingest(run)
    check(run)
    assert [row[STEP] for row in rows_of(run, "loss")] == list(range(1, 501))
    assert check(run, (129, 132)) == 4
    writer.write("started", total_steps=600, resumed_from=0)
    ingest(run)
    assert points_read(run, MOST) == {}
    assert not CurveSummary.objects.filter(last_step__gt=0).exists()


def test_a_train_of_before_there_were_summaries_is_read_row_by_row(running):
    run, writer = running
    tell(writer, random.Random(3), 1, 100)
    ingest(run)
    run.curve_summaries.all().delete()
    assert check(run) == 100


def test_a_series_of_a_range_is_returned_by_the_page_and_a_bad_one_is_the_whole(
    client, alice, running
):
    run, writer = running
    tell(writer, random.Random(4), 1, 300)
    ingest(run)
    client.force_login(alice)
    part = client.get(f"/trains/{run.pk}/series/?from=41&to=45").json()["series"]
    assert [point[STEP] for point in part["loss"]] == [41, 42, 43, 44, 45]
    assert part["loss"][0][EPOCH] == 4.1
    assert part["loss"][0][TIME] > 0
    for query in ("?from=x&to=5", "?from=9&to=5", "?from=1", "?from=-1&to=99999999999999999999"):
        answer = client.get(f"/trains/{run.pk}/series/{query}")
        assert answer.status_code == 200
        assert answer.json()["series"]["loss"][-1][STEP] == 300
    assert series_of(run)["next"] == run.last_seq
