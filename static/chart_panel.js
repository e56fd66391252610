// One chart in its card: Chart.js draws lines, points, band and axes; here stand what it does not have in our way: ticks on
// round numbers and the planned end, one crosshair for all charts, full screen, a table to read. Marks: chart_marks.js.
(() => {
  "use strict";
  const C = window.DXCharts;
  const { format, icon, make } = window.DX;
  const TABLE_ROWS = 200;
  const POINT = 3,
    CLIP = 6; // pixels: the radius of a point, and how far over the edge of the chart lines and points reach
  const AXIS_WIDTH = 60; // pixels, so that charts below one another begin at the same place
  const { cursor, css, isNumber, series } = C;
  const panels = new Set();
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  const faded = (colour) => `${colour}38`; // 22% of a #rrggbb

  function button(picture, label, extra = {}) {
    const element = make(
      "button",
      { type: "button", className: "btn btn-quiet btn-icon btn-sm", title: label, ...extra },
      icon(picture),
    );
    element.setAttribute("aria-label", label);
    return element;
  }

  // lines: [{label, note, colour (series number), points, band, smoothed, dots, dash, tag, alone (no raw line)}]; view:
  // {axis, smoothing, log, begin, end, start, gaps}. `band`: points of the half width of a band around the line. `select`, where given, hears which range of x was dragged over: [from, to], or null for all.
  class Panel {
    constructor(spec, { small = false, gutter = null, select = null } = {}) {
      this.spec = spec;
      this.small = small;
      this.gutterFixed = gutter;
      this.select = select;
      this.lines = [];
      this.limits = [];
      this.view = { axis: "step", smoothing: 0, log: false, end: 0 };
      this.range = null;
      this.build();
      panels.add(this);
    }

    build() {
      this.value = make("span", { className: "chart-value" });
      this.legend = make("ul", { className: "chart-legend" });
      this.tableButton = button("table", `${this.spec.title} as a table`, { ariaPressed: "false" });
      this.fullButton = button("arrows-maximize", `${this.spec.title} full screen`);
      const title = make("h3", { className: "chart-title", textContent: this.spec.title });
      const head = make(
        "div",
        { className: "chart-head" },
        title,
        this.legend,
        this.value,
        make("span", { className: "chart-buttons" }, this.tableButton, this.fullButton),
      );
      this.canvas = make("canvas");
      this.tip = make("div", { className: "chart-tip", hidden: true });
      this.message = make("div", { className: "chart-message", hidden: true });
      this.spoken = make("p", { className: "visually-hidden" });
      this.spoken.setAttribute("aria-live", "polite");
      this.plot = make(
        "div",
        { className: "chart-plot", tabIndex: 0 },
        this.canvas,
        this.message,
        this.tip,
      );
      this.plot.setAttribute("role", "group");
      this.plot.setAttribute("aria-roledescription", "chart");
      this.canvas.setAttribute("aria-hidden", "true");
      this.table = make("div", { className: "chart-table table-wrap", hidden: true, tabIndex: 0 });
      this.foot = make("div", { className: "chart-foot", hidden: true });
      this.element = make(
        "section",
        { className: `card chart-card${this.small ? " chart-small" : ""}` },
        head,
        this.plot,
        this.table,
        this.spoken,
        this.foot,
      );
      this.element.dataset.chart = this.spec.name;
      this.tableButton.addEventListener("click", () => this.tableToggle());
      this.fullButton.addEventListener("click", () => this.fullToggle());
      this.plot.addEventListener("pointermove", (event) => this.pointed(event));
      this.plot.addEventListener("pointerleave", () => point(null, null));
      this.zoom = this.select ? new C.Zoom(this) : null;
      this.plot.addEventListener("blur", () => point(null, null));
      this.plot.addEventListener("keydown", (event) => this.keyed(event));
      this.element.addEventListener("keydown", (event) => {
        if (event.key === "Escape" && this.element.classList.contains("chart-full"))
          this.fullToggle(false);
      });
    }

    set(lines, view, limits = []) {
      if (view.log !== this.view.log || view.axis !== this.view.axis) {
        this.range = null;
        this.drop();
      }
      if (view.begin !== this.view.begin) {
        this.range = null;
        this.tip.hidden = true;
      }
      this.view = view;
      this.limits = limits;
      this.lines = lines.map((line) => this.prepared(line));
      this.rangeSet();
      this.draw();
      this.headSet();
      if (!this.table.hidden) this.tableFill();
    }

    // Gaps of a log scale are values that it does not have: zero and less.
    prepared(line) {
      const { axis, smoothing, log, gaps } = this.view;
      const points = C.withGaps(line.points, gaps);
      const start = points[0]?.[C.TIME] ?? 0;
      const xs = points.map((point) => C.xOf(point, axis, line.start ?? start));
      const raw = points.map((point) =>
        log && point[C.VALUE] <= 0 ? null : (point[C.VALUE] ?? null),
      );
      const isSmoothed = Boolean(line.smoothed && smoothing);
      const values = isSmoothed ? C.smooth(raw, smoothing) : raw;
      return {
        ...line,
        points,
        xs,
        raw,
        values,
        isSmoothed,
        edges: this.edges(line, points, values),
      };
    }

    // {low, high}: the edges of a line's band, null where the line or the width is not known.
    edges(line, points, values) {
      if (!line.band?.length || this.view.log) return null;
      const widths = new Map(line.band.map((point) => [point[C.STEP], point[C.VALUE]]));
      const known = points.map((point) => widths.get(point[C.STEP]) ?? null);
      const smooth = this.view.smoothing ? C.smooth(known, this.view.smoothing) : known;
      const edge = (sign) =>
        values.map((value, index) =>
          isNumber(value) && isNumber(smooth[index]) ? value + sign * smooth[index] : null,
        );
      return { low: edge(-1), high: edge(1) };
    }

    // Every value that is drawn.
    drawn() {
      const all = this.lines.flatMap((line) => [
        ...(line.alone ? [] : line.raw),
        ...line.values,
        ...(line.edges ? [...line.edges.low, ...line.edges.high] : []),
      ]);
      return all.filter(isNumber);
    }

    rangeSet() {
      const all = this.drawn();
      if (!all.length) return;
      let low = Infinity,
        high = -Infinity;
      for (const value of all) {
        if (value < low) low = value;
        if (value > high) high = value;
      }
      for (const limit of this.limits)
        if (limit.always || limit.value < high * 2) high = Math.max(high, limit.value);
      const count = this.small ? 2 : 4;
      if (this.view.log) {
        this.range = C.widenLog(this.range, low, high);
        return;
      }
      if (this.spec.kind === "share") {
        this.range = C.widenShare(this.range, low, high, count);
        return;
      }
      // Amounts start at nothing; a loss does not, where that would press its curve flat.
      const fromZero = this.spec.kind === "number" || (this.small && low < high * 0.4);
      if (low >= 0 && fromZero) low = 0;
      this.range = C.widen(this.range, low, high, count);
    }

    // Room for the values at the line ends; a small chart of one line has its value in the title row.
    labelled() {
      return !this.small || this.lines.length > 1 || this.gutterFixed !== null;
    }

    gutter() {
      return this.gutterFixed ?? (this.labelled() ? 52 : 16);
    }

    end() {
      const last = Math.max(0, ...this.lines.map((line) => line.xs.at(-1) ?? 0));
      return Math.max(this.view.end || 0, last) || 1;
    }

    draw() {
      if (!this.element.isConnected || this.plot.hidden) return;
      const datasets = this.lines.flatMap((line) => this.datasets(line));
      if (!this.chart)
        this.chart = new window.Chart(this.canvas, {
          type: "line",
          data: { datasets },
          options: this.options(),
          plugins: [new C.Marks(this)],
        });
      else {
        this.chart.data.datasets = datasets;
        this.chart.options = this.options();
        this.chart.update("none");
      }
    }

    // Chart.js datasets of a line: the band, the raw values, and the line itself. Points at the edge of the chart are drawn
    // whole (`clip`), and a value without neighbours is a point.
    datasets(line) {
      const colour = series(line.colour);
      const pairs = (values) => values.map((y, index) => ({ x: line.xs[index], y }));
      const radii = (values) => {
        const alone = new Set(C.lonely(values));
        return alone.size ? values.map((_, index) => (alone.has(index) ? POINT : 0)) : 0;
      };
      const base = {
        borderColor: colour,
        borderWidth: 2,
        pointHitRadius: 0,
        pointBackgroundColor: colour,
        pointBorderColor: css("--surface"),
        pointBorderWidth: 0,
        tension: 0,
        spanGaps: false,
        borderDash: line.dash ? [6, 4] : [],
        clip: CLIP,
      };
      if (line.dots)
        return [{ ...base, data: pairs(line.raw), pointRadius: POINT, pointBorderWidth: 1 }];
      const datasets = line.edges ? this.bandDatasets(line, pairs) : [];
      if (line.isSmoothed && !line.alone) {
        const thin = {
          borderColor: faded(colour),
          pointBackgroundColor: faded(colour),
          borderWidth: 1,
          borderDash: [],
        };
        datasets.push({ ...base, ...thin, data: pairs(line.raw), pointRadius: radii(line.raw) });
      }
      return [...datasets, { ...base, data: pairs(line.values), pointRadius: radii(line.values) }];
    }

    bandDatasets(line, pairs) {
      const edge = {
        borderWidth: 0,
        pointRadius: 0,
        pointHitRadius: 0,
        tension: 0,
        spanGaps: false,
        clip: CLIP,
      };
      const colour = `${series(line.colour)}22`;
      return [
        { ...edge, data: pairs(line.edges.low), fill: false },
        { ...edge, data: pairs(line.edges.high), fill: "-1", backgroundColor: colour },
      ];
    }

    options() {
      const font = { family: "Inter Variable, system-ui, sans-serif", size: 11 };
      const grey = css("--text-3"),
        hair = css("--border");
      const end = this.end(),
        { axis, log, begin = 0 } = this.view;
      // A log scale has no zero.
      const range =
        this.range ?? (log ? { min: 0.1, max: 1, step: 0 } : { min: 0, max: 1, step: 0.5 });
      // Of a chart without values only the lines are drawn: its numbers would be invented.
      const known = this.range !== null;
      const xs = (width) => {
        const count = Math.min(this.small ? 3 : 7, Math.max(2, Math.floor(width / 80)));
        const step =
          axis === "time" ? C.niceTimeStep(end - begin, count) : C.niceStep(end - begin, count);
        const whole = axis === "step" ? Math.max(1, step) : step;
        return begin ? C.multiples(begin, end, whole) : C.xTicks(end, count, whole);
      };
      const ys = log
        ? C.logTicks(range, this.small)
        : C.multiples(range.min, range.max, range.step);
      const title = (text, align) => ({
        display: true,
        text,
        align,
        color: grey,
        font,
        padding: 0,
      });
      return {
        animation: false,
        parsing: false,
        normalized: true,
        responsive: true,
        maintainAspectRatio: false,
        events: [],
        layout: { padding: { right: this.gutter(), top: 10 } },
        plugins: { legend: { display: false }, tooltip: { enabled: false } },
        scales: {
          x: {
            type: "linear",
            min: begin,
            max: end,
            grid: { display: false },
            border: { color: hair },
            title: title(C.AXES[axis], "end"),
            ticks: {
              font,
              color: grey,
              maxRotation: 0,
              autoSkip: false,
              callback: (value) => C.axisText(axis, value),
            },
            afterBuildTicks: (scale) => {
              scale.ticks =
                known || this.view.end ? xs(scale.width).map((value) => ({ value })) : [];
            },
          },
          y: {
            type: log ? "logarithmic" : "linear",
            min: range.min,
            max: range.max,
            border: { display: false },
            grid: { color: hair, drawTicks: false },
            title: title(this.spec.axis || this.spec.title, "center"),
            ticks: {
              font,
              color: grey,
              padding: 8,
              callback: (value) => (known ? C.tickText(this.spec.kind, value, range.step) : ""),
            },
            afterBuildTicks: (scale) => {
              scale.ticks = ys.map((value) => ({ value }));
            },
            afterFit: (scale) => {
              scale.width = Math.max(AXIS_WIDTH, scale.width);
            },
          },
        },
      };
    }

    // What each line has at x: its nearest point, where that is no further than the line reaches.
    at(x) {
      return this.lines.flatMap((line) => {
        const index = C.nearest(line.xs, x);
        if (index < 0 || x > line.xs.at(-1) + this.end() * 0.01) return [];
        if (line.dots && Math.abs(line.xs[index] - x) > this.end() * 0.02) return [];
        // Where only the smoothed line is drawn, its value is what is read there.
        return [{ line, index, shown: line.alone ? line.values[index] : line.raw[index] }];
      });
    }

    densest() {
      return this.lines.reduce(
        (best, line) => (line.xs.length > (best?.xs.length ?? 0) ? line : best),
        null,
      );
    }

    pointed(event) {
      if (!this.chart) return;
      const line = this.densest();
      if (!line) return;
      const box = this.canvas.getBoundingClientRect();
      const index = C.nearest(
        line.xs,
        this.chart.scales.x.getValueForPixel(event.clientX - box.left),
      );
      point(line.xs[index], this);
    }

    keyed(event) {
      const line = this.densest();
      const moves = {
        ArrowLeft: -1,
        ArrowRight: 1,
        PageUp: -10,
        PageDown: 10,
        Home: -Infinity,
        End: Infinity,
      };
      if (event.key === "Escape") return point(null, null);
      if (this.zoom?.keyed(event, cursor.x)) return;
      if (!line || !(event.key in moves)) return;
      event.preventDefault();
      const from =
        cursor.x === null
          ? event.key === "ArrowLeft"
            ? line.xs.length
            : -1
          : C.nearest(line.xs, cursor.x);
      const to = Math.min(
        line.xs.length - 1,
        Math.max(0, from + moves[event.key] * (event.shiftKey ? 10 : 1)),
      );
      point(line.xs[to], this);
      this.spoken.textContent = `${this.cursorTitle()}: ${this.at(cursor.x)
        .map(({ line: one, shown }) => `${one.label} ${C.valueText(this.spec.kind, shown)}`)
        .join(", ")}`;
    }

    cursorTitle() {
      const nearest = this.at(cursor.x)[0];
      if (!nearest) return "";
      const point = nearest.line.points[nearest.index];
      return `step ${format.thousands(point[C.STEP])} · epoch ${point[C.EPOCH].toFixed(2)}`;
    }

    cursorShow() {
      this.chart?.draw();
      const mine = cursor.source === this && cursor.x !== null && this.chart;
      const rows = mine ? this.at(cursor.x) : [];
      this.tip.hidden = !rows.length;
      if (!rows.length) return this.headSet();
      this.tip.replaceChildren(
        make("div", { className: "chart-tip-title", textContent: this.cursorTitle() }),
        ...rows.map(({ line, shown }) => {
          const swatch = make("span", {
            className: `swatch series-${((line.colour - 1) % 5) + 1}`,
          });
          return make(
            "div",
            { className: "chart-tip-row" },
            swatch,
            make("span", { textContent: line.label }),
            make("strong", { textContent: C.valueText(this.spec.kind, shown) }),
          );
        }),
      );
      const left = this.chart.scales.x.getPixelForValue(cursor.x);
      const room = this.plot.clientWidth - left > this.tip.offsetWidth + 20;
      this.tip.style.left = `${Math.max(0, room ? left + 14 : left - this.tip.offsetWidth - 14)}px`;
      this.tip.style.top = `${Math.max(0, this.chart.chartArea.top + 8)}px`;
    }

    // Title row: the legend, or for a chart of one line its last value, or its value under the crosshair.
    headSet() {
      const last = this.lines.map((line) => line.raw.findLast(isNumber));
      const single = this.lines.length === 1 && !this.lines[0].tag;
      const under = single && cursor.x !== null ? this.at(cursor.x)[0]?.shown : undefined;
      const value = under ?? last[0];
      const text = single ? C.valueText(this.spec.kind, value) : "";
      this.value.replaceChildren(
        text,
        ...(text && isNumber(value) && this.spec.unit
          ? [" ", make("span", { className: "unit", textContent: this.spec.unit })]
          : []),
      );
      this.legendSet(
        single && !this.lines[0].edges ? [] : this.lines.flatMap((line) => this.legendOf(line)),
      );
      const values = this.lines
        .map((line, index) => `${line.label} ${C.valueText(this.spec.kind, last[index])}`)
        .join(", ");
      this.plot.setAttribute(
        "aria-label",
        `${this.spec.title}: ${values || "no values yet"}. Arrow keys move along the line${this.select ? ", plus looks closer, minus shows all" : ""}.`,
      );
    }

    // What is drawn of a line, each with its name: [text, kind of swatch, colour].
    legendOf(line) {
      const name = line.note ? `${line.label}, ${line.note}` : line.label;
      if (line.dots) return [[name, "dot", line.colour]];
      const both = line.isSmoothed && !line.alone && this.lines.length < 3;
      const entries = [[both ? `${name}, smoothed` : name, "bar", line.colour]];
      if (both) entries.push([`${name}, each step`, "bar faded", line.colour]);
      if (line.edges) entries.push(["± 1 standard deviation", "tint", line.colour]);
      return entries;
    }

    legendSet(wanted) {
      const key = JSON.stringify(wanted);
      if (this.legend.dataset.shown === key) return;
      this.legend.dataset.shown = key;
      const swatch = (kind, colour) =>
        make("span", { className: `swatch ${kind} series-${((colour - 1) % 5) + 1}` });
      this.legend.replaceChildren(
        ...wanted.map(([text, kind, colour]) => make("li", {}, swatch(kind, colour), text)),
      );
    }

    say(title, text = "") {
      this.message.hidden = !title;
      this.message.replaceChildren(
        make("strong", { textContent: title }),
        make("span", { textContent: text }),
      );
    }

    tableToggle() {
      const open = this.table.hidden;
      this.table.hidden = !open;
      this.plot.hidden = open;
      this.tableButton.setAttribute("aria-pressed", String(open));
      if (open) this.tableFill();
      else this.draw();
    }

    tableFill() {
      const rows = new Map();
      this.lines.forEach((line, column) =>
        line.points.forEach((point) => {
          if (point[C.VALUE] === undefined) return;
          if (!rows.has(point[C.STEP]))
            rows.set(point[C.STEP], { step: point[C.STEP], epoch: point[C.EPOCH], cells: [] });
          rows.get(point[C.STEP]).cells[column] =
            point[C.VALUE] === null ? "not a number" : C.valueText(this.spec.kind, point[C.VALUE]);
        }),
      );
      const all = [...rows.values()].sort((one, other) => one.step - other.step);
      const every = Math.ceil(all.length / TABLE_ROWS);
      const shown = all.filter(
        (row, index) =>
          every === 1 ||
          index % every === 0 ||
          index === all.length - 1 ||
          this.lines.some((line, column) => line.dots && row.cells[column]),
      );
      const head = make(
        "tr",
        {},
        ...["Step", "Epoch", ...this.lines.map((line) => line.label)].map((text) =>
          make("th", { scope: "col", className: "num", textContent: text }),
        ),
      );
      const body = shown.map((row) =>
        make(
          "tr",
          {},
          make("td", { className: "num", textContent: format.thousands(row.step) }),
          make("td", { className: "num", textContent: row.epoch.toFixed(2) }),
          ...this.lines.map((_, column) =>
            make("td", { className: "num", textContent: row.cells[column] ?? format.missing }),
          ),
        ),
      );
      const note =
        every > 1
          ? [
              make("p", {
                className: "help chart-table-note",
                textContent: `Every ${format.ordinal(every)} step; the CSV file has all.`,
              }),
            ]
          : [];
      this.table.replaceChildren(
        ...note,
        make(
          "table",
          { className: "table table-dense" },
          make("thead", {}, head),
          make("tbody", {}, ...body),
        ),
      );
      this.table.setAttribute("aria-label", `${this.spec.title}, values`);
    }

    fullToggle(open = !this.element.classList.contains("chart-full")) {
      this.element.classList.toggle("chart-full", open);
      document.documentElement.classList.toggle("has-chart-full", open);
      this.fullButton.replaceChildren(icon(open ? "arrows-minimize" : "arrows-maximize"));
      this.fullButton.setAttribute(
        "aria-label",
        open ? "Leave full screen" : `${this.spec.title} full screen`,
      );
      if (open && document.fullscreenEnabled)
        document.documentElement.requestFullscreen().catch(() => {});
      if (!open && document.fullscreenElement) document.exitFullscreen().catch(() => {});
      this.fullButton.focus();
      this.element.scrollIntoView({
        block: "nearest",
        behavior: still.matches ? "auto" : "instant",
      });
    }

    drop() {
      this.chart?.destroy();
      this.chart = null;
    }
  }

  function point(x, source) {
    if (cursor.x === x && cursor.source === source) return;
    cursor.x = x;
    cursor.source = source;
    for (const panel of panels) panel.cursorShow();
  }

  document.addEventListener("theme:change", () => {
    for (const panel of panels) panel.draw();
  });
  document.addEventListener("fullscreenchange", () => {
    if (document.fullscreenElement) return;
    for (const panel of panels)
      if (panel.element.classList.contains("chart-full")) panel.fullToggle(false);
  });

  window.DXCharts.Panel = Panel;
})();
