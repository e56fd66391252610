// Compare: the curves of several trains in one chart each, with the same axes and smoothing, and a prompt at a time.
(() => {
  "use strict";
  const C = window.DXCharts;
  const { format, poll, api, readJson, live, make } = window.DX;
  const page = readJson("compare-data");
  const LOOK_AGAIN = 5; // seconds, while one of the trains runs
  const main = document.querySelector('[data-place="main"]');
  const rest = document.querySelector('[data-place="rest"]');
  const panels = new Map();
  let answers = null;

  const view = C.choices(document.getElementById("chart-bar"), draw);
  document.getElementById("address").value = location.href;

  // Each line of a chart of one train is a chart of its own here: eval loss, train loss.
  function specs(names) {
    const split = C.chartsFor(page.table, names).flatMap((chart) => {
      if (chart.suffix) return functionSpecs(chart, names);
      const both = names.has(chart.train) && names.has(chart.eval);
      const lower = chart.title.charAt(0).toLowerCase() + chart.title.slice(1);
      return [
        ...(names.has(chart.eval)
          ? [{ ...chart, name: chart.eval, title: `Eval ${lower}`, metric: chart.eval, dots: true }]
          : []),
        ...(names.has(chart.train)
          ? [
              {
                ...chart,
                name: chart.train,
                title: both ? `Train ${lower}` : chart.title,
                metric: chart.train,
                dots: false,
              },
            ]
          : []),
      ];
    });
    return split;
  }

  // A chart of one train with a line for each reward function: here a chart for each function.
  function functionSpecs(chart, names) {
    const mine = [...names]
      .filter((name) => C.isPartOf(chart, name) && C.chartFor(page.table, name) === chart)
      .sort();
    return mine.map((metric) => {
      const name = metric.slice(chart.prefix.length, -chart.suffix.length).replaceAll("_", " ");
      return {
        ...chart,
        name: metric,
        title: `${chart.title}: ${name}`,
        metric,
        dots: chart.prefix.startsWith("eval_"),
        suffix: "",
        place: "",
      };
    });
  }

  function draw() {
    if (!answers) return;
    const names = new Set(Object.values(answers).flatMap((answer) => Object.keys(answer.series)));
    const end = Math.max(
      0,
      ...Object.values(answers).map((answer) =>
        view.axis === "time" ? lasted(answer) : answer.planned[view.axis],
      ),
    );
    const all = specs(names);
    for (const spec of all)
      panelOf(spec).set(linesOf(spec), { ...view, end, log: view.log && spec.log });
    if (!all.length)
      main.replaceChildren(
        make(
          "div",
          { className: "card empty" },
          make("p", { textContent: "None of these trains has logged a step yet." }),
        ),
      );
  }

  const starts = (answer) =>
    Math.min(...Object.values(answer.series).map((points) => points[0]?.[C.TIME] ?? Infinity));

  function lasted(answer) {
    const latest = Math.max(
      0,
      ...Object.values(answer.series).map((points) => points.at(-1)?.[C.TIME] ?? 0),
    );
    return latest ? latest - starts(answer) : 0;
  }

  function linesOf(spec) {
    return page.trains.flatMap((train) => {
      const answer = answers[train.id];
      const points = answer?.series[spec.metric];
      if (!points?.length) return [];
      return [
        {
          label: `#${train.id} ${train.name}`,
          tag: `#${train.id}`,
          colour: train.colour,
          dash: train.dash,
          points: C.withGaps(points, answer.gaps),
          start: starts(answer),
          dots: spec.dots && !train.dash,
          smoothed: !spec.dots && spec.kind !== "rate",
          alone: true,
        },
      ];
    });
  }

  function panelOf(spec) {
    if (panels.has(spec.name)) return panels.get(spec.name);
    const large = spec.place === "main";
    const panel = new C.Panel(spec, { small: !large, gutter: large ? 108 : 92 });
    panel.element.classList.add("chart-compare");
    panels.set(spec.name, panel);
    if (large) {
      main.querySelector(".chart-ghost")?.remove();
      main.append(panel.element);
    } else {
      if (!rest.firstElementChild) rest.append(make("div", { className: "charts-grid" }));
      rest.firstElementChild.append(panel.element);
    }
    return panel;
  }

  const broken = document.querySelector("[data-broken]");
  const ended = () =>
    answers &&
    Object.values(answers).every((answer) =>
      ["finished", "failed", "stopped"].includes(answer.status),
    );
  const ids = page.trains.map((train) => train.id).join(",");
  async function load() {
    try {
      answers = await api(`/trains/compare/series/?ids=${ids}`);
    } catch (error) {
      // The first failure is shown at once: there is nothing on the page yet that could stay.
      if (!answers) broken.hidden = false;
      throw error;
    }
    broken.hidden = true;
    draw();
    live(document.querySelector("[data-stamp]"), ended() ? "" : "live");
  }
  const stamp = document.querySelector("[data-stamp]");
  const failed = (error, since) => live(stamp, `not live since ${format.clock(since)}`);
  const polling = poll(load, () => (ended() ? null : LOOK_AGAIN), { failed });
  broken.querySelector("[data-retry]").addEventListener("click", polling.now);

  // Only differences, or all settings
  const table = document.querySelector("[data-settings-table]");
  document.querySelector("[data-settings]").addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const all = new URL(link.href).searchParams.get("all") === "1";
    table.classList.toggle("all", all);
    for (const one of link.parentElement.children) {
      if (one === link) one.setAttribute("aria-current", "true");
      else one.removeAttribute("aria-current");
    }
    const address = new URL(location);
    if (all) address.searchParams.set("all", "1");
    else address.searchParams.delete("all");
    history.replaceState(history.state, "", address);
  });
  document.querySelector("[data-copy='#address']").addEventListener(
    "click",
    () => {
      document.getElementById("address").value = location.href;
    },
    { capture: true },
  );

  // A prompt at a time
  const prompts = [...document.querySelectorAll("[data-prompt]")];
  let at = 0;
  function turn(by) {
    at = (at + by + prompts.length) % prompts.length;
    prompts.forEach((prompt, index) => {
      prompt.hidden = index !== at;
    });
    live(document.querySelector("[data-at]"), String(at + 1));
  }
  if (prompts.length) turn(0);
  for (const button of document.querySelectorAll("[data-turn]"))
    button.addEventListener("click", () => turn(Number(button.dataset.turn)));
})();
