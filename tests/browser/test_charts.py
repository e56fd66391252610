"""Charts drawn by Chart.js in a real browser, for every shape that a record may have."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import until
from tests.live import ROOT, Platform

pytestmark = pytest.mark.long

# Read from Chart.js itself, with what its canvas cannot tell a test otherwise.
READ = """() => [...document.querySelectorAll("[data-chart]")].map((card) => {
  const chart = Chart.getChart(card.querySelector("canvas"));
  const { chartArea: area, scales: { x, y } } = chart;
  const ticks = (scale) => scale.ticks.map((tick) => tick.label);
  return {
    name: card.dataset.chart,
    area: { left: area.left, right: area.right, top: area.top, bottom: area.bottom },
    width: chart.width,
    x: { ticks: ticks(x), title: x.options.title.display ? x.options.title.text : "", min: x.min, max: x.max },
    y: {
      ticks: ticks(y), title: y.options.title.display ? y.options.title.text : "", min: y.min, max: y.max,
      width: y.width,
    },
    text: card.querySelector(".chart-head").innerText,
    datasets: chart.data.datasets.map((dataset, index) => ({
      clip: dataset.clip,
      points: chart.getDatasetMeta(index).data.map((point, at) => ({
        known: dataset.data[at].y !== null, x: point.x, y: point.y, radius: point.options.radius ?? 0,
        step: dataset.data[at].x, value: dataset.data[at].y,
      })),
    })),
  };
})"""
# Keeps what is written on a canvas.
WRITTEN = """
  const write = CanvasRenderingContext2D.prototype.fillText;
  window.written = [];
  CanvasRenderingContext2D.prototype.fillText = function (...given) {
    written.push(given[0]);
    return write.apply(this, given);
  };
"""
# {train: colour} of the chips and of a table's heads, and the colours of the lines.
COLOURS = """() => {
  const named = (selector, name) => Object.fromEntries(
    [...document.querySelectorAll(selector)].map((one) => [name(one), getComputedStyle(one).color]));
  return {
    chips: named(".compare-chip", (chip) => chip.querySelector(".faint").textContent.match(/#\\d+/)[0]),
    heads: named("[data-settings-table] thead .swatch", (one) => one.parentElement.textContent.trim()),
    lines: Chart.getChart(document.querySelector("[data-chart] canvas")).data.datasets.map((one) => one.borderColor),
  };
}"""
# What each chart tells of: {steps: those of its marked points, tooltip: its title}.
POINTED = """() => [...document.querySelectorAll("[data-chart] canvas")].map((canvas) => {
  const chart = Chart.getChart(canvas);
  const steps = chart.getActiveElements().map((one) => chart.data.datasets[one.datasetIndex].data[one.index].x);
  return { steps, tooltip: chart.tooltip.opacity ? chart.tooltip.title[0] : "" };
})"""
SHARES = (
    "accuracy",
    "accuracies",
    "cut_off",
    "no_spread",
    "clip_ratio",
    "unscored",
    "scorer_accuracy",
)


@pytest.fixture(scope="module")
def shapes(platform: Platform) -> dict[str, int]:
    """Ids of trains whose records have every shape, by name."""
    made = subprocess.run(
        [sys.executable, "-m", "tests.shapes"],
        cwd=ROOT,
        env=platform.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


def charts_of(page, path: str) -> list[dict]:
    page.goto(path, wait_until="load")
    page.wait_for_selector("[data-chart] canvas")
    page.wait_for_timeout(150)
    return page.evaluate(READ)


def chart_of(page, path: str, name: str) -> dict:
    return next(chart for chart in charts_of(page, path) if chart["name"] == name)


def faults(chart: dict) -> list[str]:
    """What is wrong with a chart, whatever its data are."""
    found = []
    area = chart["area"]
    for axis in ("x", "y"):
        labels = [label for label in chart[axis]["ticks"] if label]
        if not chart[axis]["title"]:
            found.append(f"its {axis} axis has no title")
        if len(set(labels)) < len(labels):
            found.append(f"ticks of its {axis} axis are the same: {labels}")
        if any(label.lstrip("−-").strip("0.%") == "" and label[0] in "−-" for label in labels):
            found.append(f"a tick of its {axis} axis is minus zero: {labels}")
    if any(len(label) * 5 > chart["y"]["width"] for label in chart["y"]["ticks"]):
        found.append(f"its y axis is too narrow for {chart['y']['ticks']}")
    if chart["name"] in SHARES and not (chart["y"]["min"] == 0 and chart["y"]["max"] <= 1):
        found.append(f"shares run from {chart['y']['min']} to {chart['y']['max']}")
    if "– tok" in chart["text"] or "– GB" in chart["text"] or "−0.00" in chart["text"].split():
        found.append(f"its head says {chart['text']!r}")

    for dataset in chart["datasets"]:
        points = dataset["points"]
        for at, point in enumerate(points):
            if not point["known"]:
                continue
            inside = (
                area["left"] <= point["x"] <= area["right"]
                and area["top"] - 1 <= point["y"] <= area["bottom"] + 1
            )
            if not inside:
                found.append(f"step {point['step']} is outside of the chart")
            # Half of a point that lies on the edge would be cut away.
            if point["radius"] and dataset["clip"] < point["radius"]:
                found.append(f"step {point['step']} is cut in half")
            neighbours = [
                points[near]["known"] for near in (at - 1, at + 1) if 0 <= near < len(points)
            ]
            if not any(neighbours) and not point["radius"]:
                found.append(f"step {point['step']} stands alone and is not drawn")
    return found


# One walk in each theme, which between them see every axis and both scales.
@pytest.mark.parametrize(
    ("dark", "view"),
    [(False, "x=step&log=0"), (True, "x=epoch&log=1")],
    ids=["light", "dark and logarithmic"],
)
def test_charts_of_every_shape_are_whole_and_named(open_page, shapes, dark, view):
    page = open_page(dark=dark)
    found = []
    for name, pk in shapes.items():
        for chart in charts_of(page, f"/trains/{pk}/evaluation/?{view}"):
            found += [f"{name}, {chart['name']}: {fault}" for fault in faults(chart)]
    for chart in charts_of(page, f"/trains/{shapes['sft']}/evaluation/?x=time&log=0"):
        found += [f"sft over time, {chart['name']}: {fault}" for fault in faults(chart)]
    compared = ",".join(
        str(shapes[name]) for name in ("sft", "sft running", "dpo", "grpo", "step 0 only", "shares")
    )
    for chart in charts_of(page, f"/trains/compare/?ids={compared}&{view}"):
        found += [f"compare, {chart['name']}: {fault}" for fault in faults(chart)]
    assert found == []


def test_a_line_is_not_drawn_over_steps_that_are_missing(open_page, shapes):
    page = open_page()
    loss = chart_of(page, f"/trains/{shapes['missing steps']}/evaluation/", "loss")
    for dataset in loss["datasets"]:
        between = [point for point in dataset["points"] if 10 < point["step"] < 21]
        assert [point["known"] for point in between] == [False]


def test_the_number_at_a_lines_end_is_the_one_that_is_drawn_there(open_page, shapes):
    page = open_page()
    path = f"/trains/{shapes['sft']}/evaluation/?smoothing=0.9"
    page.add_init_script(WRITTEN)
    loss = chart_of(page, path, "loss")
    raw, smoothed = (
        loss["datasets"][0]["points"][-1]["value"],
        loss["datasets"][1]["points"][-1]["value"],
    )
    written = page.evaluate("written")
    assert f"{raw:.3f}" != f"{smoothed:.3f}"
    assert f"{smoothed:.3f}" in written


def test_a_reward_has_its_band_its_maximum_and_its_functions_in_one_chart(open_page, shapes):
    page = open_page()
    charts = {
        chart["name"]: chart for chart in charts_of(page, f"/trains/{shapes['grpo']}/evaluation/")
    }
    # The lower edge, the upper one, each step, smoothed, evaluations.
    assert len(charts["reward"]["datasets"]) == 5
    assert charts["reward"]["y"]["max"] >= 1.3
    assert len(charts["reward_functions"]["datasets"]) == 3
    assert "Numeric answer × 1" in charts["reward_functions"]["text"]
    assert not {"rewards/tag_format/mean", "reward_std"} & set(charts)
    alerts = page.locator("[data-alerts]").inner_text()
    assert "of answers were cut off at 256 tokens" in alerts
    assert "gave every answer the same reward" in alerts
    assert page.locator(".completions thead").inner_text().split()[-1] == "Advantage"


def test_all_charts_of_a_page_tell_the_step_that_one_is_pointed_at(open_page, shapes):
    page = open_page()
    page.goto(f"/trains/{shapes['sft']}/evaluation/?x=step&log=0&from=&to=")
    page.wait_for_selector("[data-chart] canvas")
    main = page.locator(".charts-main .chart-plot")
    main.hover(position={"x": 300, "y": 150})
    until(page, f"() => ({POINTED})()[0].tooltip !== ''")
    first, *others = page.evaluate(POINTED)
    step = first["steps"][0]
    assert first["tooltip"] == f"step {step} · epoch {step / 80:.2f}"
    # Evaluations are rarer than steps: a chart of those alone has one nearby, or none.
    assert all(abs(found - step) <= 4 for other in others for found in other["steps"])
    assert sum(step in other["steps"] for other in others) >= 4
    assert {other["tooltip"] for other in others} == {""}

    # The keyboard goes on from there, and says what it finds.
    main.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(POINTED)[0]["tooltip"].startswith(f"step {step + 1} ")
    expect(page.locator(".charts-main [aria-live].visually-hidden")).to_contain_text(
        f"step {step + 1} · epoch {(step + 1) / 80:.2f}: Train "
    )
    page.keyboard.press("Escape")
    assert {(*chart["steps"], chart["tooltip"]) for chart in page.evaluate(POINTED)} == {("",)}


def test_values_that_are_no_numbers_are_crosses_on_the_axis(open_page, shapes):
    page = open_page()
    loss = chart_of(page, f"/trains/{shapes['not numbers']}/evaluation/", "loss")
    crosses = loss["datasets"][-1]["points"]
    assert [point["step"] for point in crosses] == [10, 11, 12, 13, 14, 20]
    assert all(loss["area"]["bottom"] - 10 < point["y"] for point in crosses)


def test_a_train_keeps_its_colour_when_others_come_and_go(open_page, shapes):
    page = open_page()
    ids = [shapes[name] for name in ("sft", "sft running", "dpo", "constant")]

    def colours() -> dict[str, str]:
        """{train: colour} of the chips, with which charts and heads have to agree."""
        page.wait_for_selector("[data-chart] canvas")
        found = page.evaluate(COLOURS)
        assert found["chips"] == found["heads"]
        assert len(set(found["lines"])) <= len(set(found["chips"].values()))
        return found["chips"]

    page.goto(f"/trains/compare/?ids={','.join(map(str, ids))}")
    before = colours()
    assert len(set(before.values())) == len(ids)

    page.get_by_label(f"Remove sft #{ids[0]} from the comparison").click()
    after = colours()
    assert after == {name: colour for name, colour in before.items() if name != f"#{ids[0]}"}

    page.goto(f"/trains/compare/?ids={','.join(map(str, reversed(ids)))}")
    assert colours() == before


def test_the_age_of_the_last_step_is_by_the_servers_clock(open_page, shapes):
    """A browser whose clock is an hour ahead says nothing else."""
    page = open_page()
    page.add_init_script("const now = Date.now; Date.now = () => now() + 3600000;")
    page.goto(f"/trains/{shapes['sft running']}/evaluation/")
    stamp = page.locator("[data-stamp]")
    expect(stamp).to_have_text(
        re.compile(r"^live, last step (just now|\d+ s ago|\d{1,2} m \d\d s ago)$")
    )


def test_a_server_that_says_nothing_is_not_live(open_page, shapes):
    """No error either: a question that is never answered."""
    page = open_page()
    page.route("**/events/**", lambda route: None)
    page.goto(f"/trains/{shapes['sft running']}/evaluation/")
    stamp = page.locator("[data-stamp]")
    expect(stamp).to_contain_text("live, last step")
    expect(stamp).to_have_text(re.compile(r"^not live since \d\d:\d\d$"), timeout=30_000)
