"""Charts: long series made short, the sentence under the main chart, answers, and the pages that
show them."""

import csv
import io

import pytest
from django.utils import timezone

from training.models import MetricRow, Sample
from training.pages.answers import answers_of, difference, overlap
from training.pages.chart_table import CHARTS, NOT_CHARTED
from training.pages.chart_views import cell
from training.pages.charts import planned_of, reduce_points, series_of
from training.train.judgement import judge, judgement_of


def points(values):
    return [[step, step / 10, 100.0 + step, value] for step, value in enumerate(values)]


def log(run, step, seq, split="train", **values):
    return MetricRow.objects.create(
        run=run, seq=seq, step=step, epoch=step / 10, split=split, time=1000 + step, values=values
    )


def test_a_short_series_is_sent_as_it_is():
    series = points([3.0, 2.0, None, 1.0])

    assert reduce_points(series, 4) == series


@pytest.mark.parametrize("length", [2001, 4567, 100_000])
def test_a_long_series_keeps_its_ends_its_order_and_every_spike(length):
    values = [1.0] * length
    values[length // 3], values[length // 2] = 99.0, -99.0

    short = reduce_points(points(values), 2000)

    assert len(short) <= 2000
    assert short[0][0] == 0
    assert short[-1][0] == length - 1
    assert [point[0] for point in short] == sorted(point[0] for point in short)
    assert {99.0, -99.0} <= {point[3] for point in short}


def test_a_long_series_keeps_its_gaps():
    values = [1.0] * 10_000
    values[5000] = None

    short = reduce_points(points(values), 2000)

    assert len(short) <= 2000
    assert [point[0] for point in short if point[3] is None] == [5000]


def test_series_are_split_by_metric_and_polling_goes_on_after_the_last_row(make_train):
    run = make_train(status="running", total_steps=10, last_seq=7)
    log(run, 1, 1, loss=2.0, num_tokens=100)
    log(run, 1, 7, split="eval", eval_loss=1.5)

    found = series_of(run)

    assert found["series"] == {
        "loss": [[1, 0.1, 1001.0, 2.0]],
        "eval_loss": [[1, 0.1, 1001.0, 1.5]],
    }
    assert found["next"] == 7
    assert found["status"] == "running"


def test_the_axis_ends_where_the_train_is_planned_to(make_train):
    run = make_train(total_steps=30, facts={"steps_per_epoch": 10})

    assert planned_of(run) == {"step": 30, "epoch": 3.0, "per_epoch": 10}


def test_no_metric_is_in_two_charts_or_charted_and_left_out():
    names = [name for chart in CHARTS for name in (chart.train, chart.eval) if name]

    assert len(names) == len(set(names))
    assert not set(names) & set(NOT_CHARTED)


@pytest.mark.parametrize(
    ("evaluations", "losses", "tone", "says"),
    [
        ([(10, 2.0), (20, 1.5), (30, 1.2)], [(30, 1.2)], "good", "−0.300"),
        ([(10, 2.0), (20, 1.2), (30, 1.199)], [(30, 1.2)], "good", "levelled off"),
        ([(10, 2.0), (20, 1.2), (30, 1.5)], [(30, 0.4)], "warn", "memorised"),
        ([(10, 2.0), (20, 1.999)], [(20, 2.0)], "warn", "higher learning rate"),
        ([(0, 2.0), (10, 2.2)], [(20, 2.0)], "warn", "before the first step"),
        ([], [(1, 2.0)], "none", "Too early to say. 1 step so far."),
        ([], [(step, 3.0 - step / 5) for step in range(9)], "good", "2.800 to 1.600"),
        ([], [(step, 1.0 + step) for step in range(9)], "warn", "has risen"),
    ],
)
def test_it_says_how_the_train_goes_with_its_number(evaluations, losses, tone, says):
    judgement = judge(losses, evaluations, held_out=200)

    assert judgement.tone == tone
    assert says in f"{judgement.headline} {judgement.text}"


FALLING = [(0, 2.0), (20, 1.5), (30, 1.2)]


@pytest.mark.parametrize("held_out", [1, 3, 19, None])
def test_there_is_no_verdict_on_a_few_held_out_rows(held_out):
    judgement = judge([(30, 1.2)], FALLING, held_out=held_out, status="finished")

    assert judgement.tone == "none"
    assert "2.000 to 1.200" in judgement.text
    assert (f"on {held_out} held-out row" if held_out else "is not known") in judgement.text


@pytest.mark.parametrize(
    ("status", "headline"),
    [
        ("running", "Looks healthy."),
        ("stopping", "Looks healthy."),
        ("finished", "Went well."),
        ("stopped", "Was still learning."),
        ("failed", "Was learning."),
    ],
)
def test_only_a_train_that_came_to_its_end_went_well(status, headline):
    assert judge([(30, 1.2)], FALLING, held_out=200, status=status).headline == headline


def test_a_change_within_the_noise_is_none():
    losses = [(step, 1.5 + (0.4 if step % 2 else -0.4) - step / 500) for step in range(60)]
    assert judge(losses, [], held_out=0).headline == "The loss has not changed clearly."


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"status": "queued"}, "It has not started."),
        ({"status": "running", "started_at": timezone.now()}, "It has not logged a step."),
        ({"status": "failed"}, "This train logged no step."),
    ],
)
def test_a_train_without_a_step_is_not_judged(make_train, fields, text):
    assert judgement_of(make_train(**fields)).text == text


def test_a_loss_that_is_no_number_comes_before_all_else():
    assert judge([(1, 2.0)], [(1, 2.0), (2, 1.0)], held_out=200, broken=True).tone == "bad"


def test_words_are_compared_with_the_reference_and_order_counts_for_change():
    assert overlap("Open the Settings.", "open settings") == pytest.approx(0.8)
    assert overlap("anything", "") is None
    assert difference("one two three", "one two three") == 0
    assert difference("one two", "three four") == 1


def test_the_biggest_change_comes_first_and_a_running_train_has_no_after(make_train):
    run = make_train(status="finished")
    for seq, (index, stage, text) in enumerate(
        [
            (0, "before", "same words"),
            (0, "after", "same words"),
            (1, "before", "old words"),
            (1, "after", "all new"),
        ]
    ):
        Sample.objects.create(
            run=run, seq=seq, index=index, stage=stage, prompt=f"p{index}", text=text
        )
    Sample.objects.create(run=run, seq=9, index=2, stage="before", prompt="p2", text="only before")

    found = answers_of(run)

    assert [answer.index for answer in found] == [1, 0, 2]
    assert found[2].after is None


def test_the_page_shows_judgement_answers_and_no_html_of_a_model(client, alice, make_train):
    run = make_train(status="finished", facts={"eval_rows": 50})
    log(run, 10, 1, split="eval", eval_loss=2.0)
    log(run, 20, 2, split="eval", eval_loss=1.0)
    Sample.objects.create(
        run=run, seq=3, index=0, stage="before", prompt="<script>alert(1)</script>", text="<b>x</b>"
    )
    client.force_login(alice)

    page = client.get(f"/trains/{run.pk}/evaluation/").content.decode()

    assert "Went well." in page
    assert "<script>alert(1)" not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page


@pytest.mark.parametrize(
    "path", ["evaluation/", "evaluation/answers/", "judgement/", "series/", "metrics.csv"]
)
def test_a_stranger_finds_nothing(client, bob, make_train, path):
    run = make_train(status="finished")
    client.force_login(bob)

    assert client.get(f"/trains/{run.pk}/{path}").status_code == 404


def test_the_csv_file_has_every_step_with_every_value(client, alice, make_train):
    run = make_train(name="my train", status="finished")
    log(run, 1, 1, loss=2.123456789)
    log(run, 2, 2, loss=None, grad_norm=1)
    client.force_login(alice)

    response = client.get(f"/trains/{run.pk}/metrics.csv")
    rows = list(csv.DictReader(io.StringIO(response.getvalue().decode())))

    assert [row["loss"] for row in rows] == ["2.123456789", ""]
    assert rows[1]["grad_norm"] == "1"
    assert "attachment" in response["Content-Disposition"]


def test_the_csv_file_holds_no_formula():
    assert cell("=cmd|' /C calc'!A0") == "'=cmd|' /C calc'!A0"
    assert cell(-1.5) == -1.5
