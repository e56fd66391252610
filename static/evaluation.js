// Evaluation Data, live: the whole series once, made short by the server, then every logged step as the server sends it.
(() => {
  "use strict";
  const C = window.DXCharts;
  const { clock, format, api, follow, readJson, live, make } = window.DX;
  const page = readJson("evaluation-data");
  const base = `/trains/${page.id}/`;
  const root = document.getElementById("charts");
  const SILENT = 10; // seconds without an answer after which the page is not live
  const MOST_POINTS = 4000; // a series that grew past this is asked for again, made short

  const state = {
    status: page.status,
    train: page.train,
    phase: null,
    next: 0,
    series: {},
    planned: page.planned,
    limits: {},
    seams: [],
    gaps: [],
    loaded: false,
    updated: null,
    // Whether the next rows may be of another attempt than the curves are, which then are loaded again.
    restarts: true,
    // Whether the answers and the judgement are to be fetched again: after an evaluation, in another phase or status.
    wordsDue: false,
  };
  const panels = new Map();
  const bar = document.getElementById("chart-bar");
  const view = C.choices(bar, () => drawAll());

  // A closer look: its steps, in the address so that a link shows the same, and their points in full.
  const asked = new URL(location).searchParams;
  let zoom =
    asked.get("from") && asked.get("to")
      ? { from: Number(asked.get("from")), to: Number(asked.get("to")), series: null }
      : null;
  const whole = document.querySelector("[data-whole]");
  const hint = document.querySelector("[data-hint]");
  hint.hidden = true;
  whole.addEventListener("click", () => zoomTo(null));

  const place = (name) => root.querySelector(`[data-place="${name}"]`);

  async function load() {
    const answer = await api(`${base}series/`);
    if (zoom) await zoomLoad();
    Object.assign(state, {
      status: answer.status,
      next: answer.next,
      series: answer.series,
      planned: answer.planned,
      limits: answer.limits,
      seams: answer.seams,
      gaps: answer.gaps ?? [],
      loaded: true,
      updated: new Date(),
    });
    root.removeAttribute("aria-busy");
    drawAll();
  }

  async function zoomTo(range) {
    if (range) {
      const longest = Object.values(shownSeries()).reduce(
        (best, points) => (points.length > best.length ? points : best),
        [],
      );
      const [from, to] = range.map((x) => C.stepAt(longest, view.axis, start(), x));
      zoom = { from: Math.max(0, Math.floor(from)), to: Math.ceil(to), series: null };
    } else zoom = null;
    const url = new URL(location);
    for (const name of ["from", "to"])
      if (zoom) url.searchParams.set(name, zoom[name]);
      else url.searchParams.delete(name);
    history.replaceState(history.state, "", url);
    await zoomLoad();
    drawAll();
  }

  async function zoomLoad() {
    if (!zoom) return;
    const mine = zoom;
    const { series } = await api(`${base}series/?from=${mine.from}&to=${mine.to}`);
    // A range without a point is nothing to look at.
    mine.series = Object.keys(series).length ? series : null;
  }

  const shownSeries = () => zoom?.series ?? state.series;

  function append(rows) {
    // A later attempt starts after an earlier step: what the first reported beyond it no longer counts.
    const isBehind = (name) => state.series[name]?.at(-1)?.[0] >= rows[0].step;
    if (Object.keys(rows[0].values).some(isBehind)) return load();
    for (const row of rows) {
      for (const [name, value] of Object.entries(row.values)) {
        if (state.ignored?.has(name)) continue;
        (state.series[name] ??= []).push([row.step, row.epoch, row.time, value]);
      }
    }
    state.next = rows.at(-1).seq;
    const long = Object.values(state.series).some((points) => points.length > MOST_POINTS);
    return long ? load() : drawAll();
  }

  function borders() {
    const { step, per_epoch: each } = state.planned;
    if (view.axis === "time" || !each || !step) return [];
    const count = Math.ceil(step / each) - 1;
    if (count < 1 || count > 4) return [];
    return Array.from({ length: count }, (_, index) => [
      view.axis === "epoch" ? index + 1 : each * (index + 1),
      `epoch ${index + 2}`,
    ]);
  }

  // Where a later attempt resumed from a checkpoint.
  function seams(first) {
    const each = state.planned.per_epoch;
    const place = {
      step: ([step]) => step,
      epoch: ([step]) => (each ? step / each : -1),
      time: ([, time]) => time - first,
    }[view.axis];
    return state.seams.map((seam) => [place(seam), "resumed"]);
  }

  function linesOf(chart) {
    const series = shownSeries();
    if (chart.suffix) return functionLines(chart, series);
    const train = series[chart.train],
      evaluated = series[chart.eval];
    const lines = [];
    if (train)
      lines.push({
        label: "Train",
        colour: 1,
        points: train,
        band: series[chart.band],
        smoothed: chart.kind !== "rate",
      });
    if (evaluated)
      lines.push({ label: "Eval", note: heldOut(), colour: 2, points: evaluated, dots: true });
    return lines;
  }

  const heldOut = () =>
    Number.isInteger(page.evalRows) ? format.counted(page.evalRows, "held-out row") : "";

  // One line for each reward function, in the order of the form.
  function functionLines(chart, series) {
    const order = Object.keys(page.functions);
    const nameOf = (metric) => metric.slice(chart.prefix.length, -chart.suffix.length);
    const place = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
    const metrics = Object.keys(series).filter(
      (metric) => C.isPartOf(chart, metric) && C.chartFor(page.table, metric) === chart,
    );
    metrics.sort(
      (one, other) => place(nameOf(one)) - place(nameOf(other)) || one.localeCompare(other),
    );
    const isMeasured = chart.prefix.startsWith("eval_");
    return metrics.map((metric, index) => ({
      label: page.functions[nameOf(metric)] ?? nameOf(metric),
      colour: (index % 5) + 1,
      dash: index >= 5,
      points: series[metric],
      smoothed: !isMeasured,
      dots: isMeasured,
      alone: true,
    }));
  }

  function start() {
    return Math.min(
      ...Object.values(state.series).map((points) => points[0]?.[C.TIME] ?? Infinity),
    );
  }

  function panelFor(chart) {
    if (panels.has(chart.name)) return panels.get(chart.name);
    const panel = new C.Panel(chart, {
      small: chart.place !== "main" && !(chart.place === "side" && chart.suffix),
      // The chart itself shows the range already; without its rows there is nothing to look closer at.
      select: (range) => zoomTo(range).catch(() => zoomTo(null)),
    });
    panels.set(chart.name, panel);
    if (chart.place === "main") {
      place("main").replaceChildren(panel.element);
      panel.foot.hidden = false;
      panel.foot.append(document.querySelector("[data-judgement]"));
    } else if (chart.place) place(chart.place).append(panel.element);
    else section(chart.heading).append(panel.element);
    return panel;
  }

  function section(heading) {
    const existing = place("rest").querySelector(`[data-heading="${CSS.escape(heading)}"]`);
    if (existing) return existing;
    const grid = make("div", { className: "charts-grid" });
    grid.dataset.heading = heading;
    place("rest").append(make("h2", { className: "charts-heading", textContent: heading }), grid);
    return grid;
  }

  function drawAll() {
    if (!state.loaded) return;
    const names = Object.keys(state.series);
    const main = page.table.find((chart) => chart.place === "main");
    // What is drawn as a band around another line needs no chart of its own.
    const bands = new Set(
      page.table
        .filter((chart) => chart.band && state.series[chart.train])
        .map((chart) => chart.band),
    );
    const charts = C.chartsFor(
      page.table,
      names.filter((name) => !bands.has(name)),
    );
    // The first block stands before its values do, so that nothing moves when they come.
    const frame = page.table.filter(
      (chart) => chart === main || (["side", "row"].includes(chart.place) && !page.ended),
    );
    for (const chart of frame.reverse()) if (!charts.includes(chart)) charts.unshift(chart);
    const first = names.length ? start() : 0;
    const latest = Math.max(
      0,
      ...Object.values(state.series).map((points) => points.at(-1)?.[C.TIME] ?? 0),
    );
    const ends = { step: state.planned.step, epoch: state.planned.epoch, time: latest - first };
    const shown = {
      ...view,
      end: ends[view.axis],
      borders: seams(first),
      gaps: state.gaps,
      ...zoomed(first),
    };
    root.querySelector(".charts-first").classList.toggle("charts-halves", main.name === "reward");
    whole.hidden = !zoom?.series;
    hint.hidden = !names.length || !whole.hidden;
    for (const chart of charts) {
      const panel = panelFor(chart);
      const limits = limitsOf(chart);
      const own =
        chart.place === "main" ? { ...shown, borders: [...borders(), ...shown.borders] } : shown;
      panel.set(
        linesOf(chart).map((line) => ({ ...line, start: first })),
        { ...own, log: view.log && chart.log },
        limits,
      );
    }
    // Of a train that was started over: what it has not measured again.
    for (const [name, panel] of panels)
      if (!charts.some((chart) => chart.name === name)) panel.set([], shown);
    waiting(panels.get(main.name), names.length);
  }

  // The reference line of a chart. What bounds a reward or an answer is always in sight.
  function limitsOf(chart) {
    const value = state.limits[chart.limit];
    if (!value || view.log) return [];
    const text = C.valueText(
      chart.kind === "loss" || chart.kind === "value" ? "rate" : chart.kind,
      value,
    );
    return [
      {
        value,
        label: `${chart.limit_label} ${text}`,
        always: ["max_reward", "max_completion_tokens"].includes(chart.limit),
      },
    ];
  }

  // Where a closer look begins and ends on the x axis.
  function zoomed(first) {
    if (!zoom?.series) return {};
    const places = Object.values(zoom.series)
      .flatMap((points) => [points[0], points.at(-1)])
      .map((point) => C.xOf(point, view.axis, first));
    return { begin: Math.min(...places), end: Math.max(...places) };
  }

  // In the place of curves that are not there yet: what the train does, in the server's words.
  function waiting(panel, any) {
    if (any) return panel.say("");
    if (page.ended)
      return panel.say("Nothing was logged", "The train ended before its first step.");
    if (state.status !== "queued") return panel.say("No point yet", state.train.activity);
    const position = state.train.queue_position;
    panel.say(
      position > 1 ? `${format.ordinal(position)} in line` : "Next in line",
      "Curves appear with the first step.",
    );
  }

  // Live
  const stamp = document.querySelector("[data-stamp]");
  const lost = document.querySelector("[data-lost]");
  const ended = () => ["finished", "failed", "stopped"].includes(state.status);

  function stampShow() {
    if (ended() || state.lost) return live(stamp, "");
    if (clock.silence() > SILENT) {
      const heard = new Date(clock.now() - clock.silence() * 1000);
      return live(stamp, `not live since ${format.clock(heard)}`);
    }
    if (state.status === "queued") return live(stamp, "waiting");
    const { last_step_at: last } = state.train;
    live(stamp, last ? `live, last step ${age(clock.since(last))}` : "live");
  }

  const age = (seconds) => (seconds < 2 ? "just now" : `${format.duration(seconds)} ago`);

  // Continue after the last row that the curves hold.
  async function address() {
    if (!state.loaded) await load();
    return `/api/v1/trains/${page.id}/events/?after=${state.next}`;
  }

  async function take(answer) {
    const before = state.status;
    const measured = answer.rows.some((row) => row.split === "eval");
    // Another one of these was loaded with the whole series meanwhile.
    const rows = answer.rows.filter((row) => row.seq > state.next);
    state.train = answer.train;
    document.dispatchEvent(new CustomEvent("train:received", { detail: answer.train }));
    if (rows.length) {
      state.updated = new Date();
      if (!state.planned.step || state.restarts) await load();
      else await append(rows);
      state.restarts = false;
    }
    // What could not be loaded is asked for again: the state is taken over only afterwards.
    const hasChanged = answer.status !== before;
    if (hasChanged) await load();
    state.restarts ||= hasChanged;
    state.next = Math.max(state.next, answer.next);
    state.status = answer.status;
    page.ended = ended();
    state.wordsDue ||= measured || hasChanged || state.phase !== answer.train.phase;
    state.phase = answer.train.phase;
    if (state.wordsDue) await words();
    else if (judgementIsOld()) await judge();
    state.wordsDue = false;
    stampShow();
  }

  let judged = 0;
  const judgementIsOld = () => !ended() && state.updated && state.updated - judged > 15000;

  async function part(path) {
    const text = await DX.html(base + path);
    if (text === null) throw new Error("The session has ended.");
    return text;
  }

  async function judge() {
    judged = Date.now();
    const [judgement, alerts] = await Promise.all([
      part("judgement/"),
      completions ? part("alerts/") : "",
    ]);
    swap(document.querySelector("[data-judgement]"), judgement);
    swap(document.querySelector("[data-alerts]"), alerts);
    if (completions) await completionsShow();
  }

  // Answers are written before and after the training, and when it is measured.
  async function words() {
    const [answers] = await Promise.all([part("evaluation/answers/"), judge()]);
    const fresh = new DOMParser().parseFromString(answers, "text/html").body;
    order(fresh);
    swap(document.querySelector("[data-answers]"), fresh.innerHTML);
  }

  // Answers that are learned from: the latest step until another one is chosen.
  const completions = document.querySelector("[data-completions]");

  async function completionsShow() {
    const chosen = completions.querySelector("[data-completion-step]");
    if (chosen && chosen.value !== chosen.options[chosen.options.length - 1].value) return;
    swap(completions, await part("completions/"));
  }

  // Only what changed is touched: open references and selected text stay.
  function swap(element, html) {
    window.Idiomorph.morph(element, html, { morphStyle: "innerHTML" });
    window.htmx.process(element);
  }

  // Order of the answers
  const orderBar = document.querySelector("[data-order]");
  const orders = {
    change: (row) => -Number(row.dataset.change),
    best: (row) => -Number(row.dataset.overlap),
    worst: (row) => Number(row.dataset.overlap),
    index: (row) => Number(row.dataset.index),
  };

  function order(root = document.querySelector("[data-answers]")) {
    const by = orders[orderBar.querySelector('[aria-pressed="true"]').dataset.by];
    const holder = root.querySelector(".answers");
    if (!holder) return;
    const rows = [...holder.querySelectorAll(".answer[data-index]")].sort(
      (one, other) => by(one) - by(other),
    );
    holder.append(...rows);
  }

  orderBar.addEventListener("click", (event) => {
    const one = event.target.closest("[data-by]");
    if (!one) return;
    for (const item of orderBar.children) item.setAttribute("aria-pressed", String(item === one));
    order();
  });

  const broken = document.querySelector("[data-broken]");
  function failed(error, since) {
    if (!state.loaded) {
      broken.hidden = false;
      live(broken.querySelector("[data-broken-text]"), error.message);
      return;
    }
    lost.hidden = false;
    root.classList.add("charts-old");
    state.lost = true;
    document.dispatchEvent(new CustomEvent("train:lost", { detail: { error, since } }));
    stampShow();
    live(
      lost.querySelector("[data-lost-text]"),
      `Not live since ${since.toLocaleTimeString("en-GB")}. ${DX.reasonOf(error)} The train does not depend on this page.`,
    );
  }
  function recovered() {
    state.lost = false;
    document.dispatchEvent(new CustomEvent("train:heard"));
    lost.hidden = true;
    broken.hidden = true;
    root.classList.remove("charts-old");
  }

  state.ignored = new Set(page.ignored);
  const allowed = () => api(`/api/v1/trains/${page.id}/live/`);
  const following = follow(address, take, { failed, recovered, allowed });
  document.addEventListener("train:try-now", following.now);
  for (const button of document.querySelectorAll("[data-retry], [data-reload]"))
    button.addEventListener("click", following.now);
  if (!page.ended) setInterval(stampShow, 1000);
})();
