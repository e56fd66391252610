// One chart in its card. Chart.js draws it and tells what is pointed at, its plugins draw marks (chart_marks.js) and let
// people drag over a range. Here stands what they do not have: ticks on round numbers and the planned end, one crosshair for
// all charts of a page, the keyboard, full screen, a table to read.
(() => {
  "use strict";
  const C = window.DXCharts;
  const { format, icon, make } = window.DX;
  const TABLE_ROWS = 200;
  const POINT = 3,
    CLIP = 6; // pixels: the radius of a point, and how far over the edge of the chart lines and points reach
  const AXIS_WIDTH = 60; // pixels, so that charts below one another begin at the same place
  const { css, isNumber, series } = C;
  const cursor = { x: null, source: null };
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
      this.message = make("div", { className: "chart-message", hidden: true });
      this.spoken = make("p", { className: "visually-hidden" });
      this.spoken.setAttribute("aria-live", "polite");
      this.plot = make("div", { className: "chart-plot", tabIndex: 0 }, this.canvas, this.message);
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
      this.plot.addEventListener("dblclick", () => this.select?.(null));
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
      if (view.begin !== this.view.begin) this.range = null;
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

    // The lowest and highest value that there was: a live chart does not shrink and jump.
    rangeSet() {
      const all = this.drawn();
      if (!all.length) return;
      let { low, high } = this.range ?? { low: Infinity, high: -Infinity };
      for (const value of all) {
        if (value < low) low = value;
        if (value > high) high = value;
      }
      for (const limit of this.limits)
        if (limit.always || limit.value < high * 2) high = Math.max(high, limit.value);
      this.range = { low, high };
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
      if (!this.chart) {
        const options = this.options();
        this.chart = new window.Chart(this.canvas, { type: "line", data: { datasets }, options });
        owners.set(this.chart, this);
      } else {
        // The points that are pointed at leave with their datasets.
        this.mark([]);
        this.chart.data.datasets = datasets;
        this.chart.options = this.options();
        this.chart.update("none");
      }
      if (cursor.x !== null) this.cursorShow();
    }

    // Chart.js datasets of a line: the band, the raw values, the line itself, and its values that were no numbers. The one
    // that is read under the crosshair knows its line. Points at the edge of the chart are drawn whole (`clip`).
    datasets(line) {
      const colour = series(line.colour);
      const pairs = (values) => values.map((y, index) => ({ x: line.xs[index], y }));
      // A value without neighbours is a point.
      const radii = (values) => {
        const alone = new Set(C.lonely(values));
        return alone.size ? values.map((_, index) => (alone.has(index) ? POINT : 0)) : 0;
      };
      const curve = (values, shade, own) => ({
        data: pairs(values),
        borderColor: shade,
        pointBackgroundColor: shade,
        pointHoverBorderColor: colour,
        pointBorderWidth: 0,
        pointRadius: radii(values),
        borderDash: line.dash ? [6, 4] : [],
        clip: CLIP,
        ...own,
      });
      if (line.dots) {
        const dots = {
          pointRadius: POINT,
          pointBorderWidth: 1,
          pointBorderColor: css("--surface"),
        };
        return [curve(line.raw, colour, { ...dots, line }), ...this.crosses(line)];
      }
      const thin = line.isSmoothed && !line.alone;
      return [
        ...this.band(line, pairs),
        ...(thin ? [curve(line.raw, faded(colour), { line, borderWidth: 1, borderDash: [] })] : []),
        curve(line.values, colour, thin ? {} : { line }),
        ...this.crosses(line),
      ];
    }

    // A value that was not a number: a small cross on the x axis, where the line has its gap.
    crosses(line) {
      const xs = line.xs.filter((_, index) => line.points[index][C.VALUE] === null);
      if (!xs.length) return [];
      const data = xs.map((x) => ({ x, y: 0.02 }));
      const cross = { pointStyle: "crossRot", pointRadius: POINT, pointBorderWidth: 1.5 };
      const pointBorderColor = css("--red");
      return [{ ...cross, data, yAxisID: "edge", showLine: false, pointBorderColor, clip: CLIP }];
    }

    band(line, pairs) {
      if (!line.edges) return [];
      const edge = { borderWidth: 0, clip: CLIP };
      const backgroundColor = `${series(line.colour)}22`;
      return [
        { ...edge, data: pairs(line.edges.low), fill: false },
        { ...edge, data: pairs(line.edges.high), fill: "-1", backgroundColor },
      ];
    }

    options() {
      const { axis, begin = 0 } = this.view;
      const title = (text, align) => ({ display: true, text, align, padding: 0 });
      return {
        interaction: { mode: "column" },
        layout: { padding: { right: this.gutter(), top: 10 } },
        plugins: {
          tooltip: { callbacks: this.tooltip() },
          annotation: { annotations: C.annotations(this) },
          zoom: {
            zoom: {
              drag: { enabled: Boolean(this.select) },
              onZoom: ({ chart: { scales } }) => this.select([scales.x.min, scales.x.max]),
            },
          },
        },
        scales: {
          x: {
            type: "linear",
            min: begin,
            max: this.end(),
            grid: { display: false },
            title: title(C.AXES[axis], "end"),
            ...this.xTicks(),
          },
          y: {
            ...this.yRange(),
            border: { display: false },
            grid: { drawTicks: false },
            title: title(this.spec.axis || this.spec.title, "center"),
            afterFit: (scale) => {
              scale.width = Math.max(AXIS_WIDTH, scale.width);
            },
          },
          // For what stands at the edge of the chart, whatever its values.
          edge: { axis: "y", display: false, min: 0, max: 1 },
        },
      };
    }

    // As many as there is room for: whole steps up to the planned end, or times of which people speak.
    xTicks() {
      const spaces = (scale) => Math.min(this.small ? 3 : 7, Math.floor(scale.width / 80) || 1);
      const { axis } = this.view;
      const ticks = {
        maxRotation: 0,
        autoSkip: false,
        maxTicksLimit: ({ scale }) => spaces(scale) + 1,
        precision: axis === "step" ? 0 : undefined,
        callback: (value) => C.axisText(axis, value),
        display: this.range !== null || Boolean(this.view.end),
      };
      if (axis !== "time") return { ticks };
      const afterBuildTicks = (scale) => {
        scale.ticks = C.timeTicks(scale.min, scale.max, spaces(scale)).map((value) => ({ value }));
      };
      return { ticks, afterBuildTicks };
    }

    // Of a chart without values only the lines are drawn: its numbers would be invented.
    yRange() {
      const { kind } = this.spec;
      const tick = (callback) => ({ padding: 8, callback });
      if (!this.range) return { min: 0, max: 1, ticks: { ...tick(() => ""), maxTicksLimit: 3 } };
      if (this.view.log) {
        const range = C.logRange(this.range);
        return {
          ...range,
          type: "logarithmic",
          ticks: tick((value) => C.tickText(kind, value, 0)),
          afterBuildTicks: (scale) => {
            scale.ticks = C.logTicks(range, this.small).map((value) => ({ value }));
          },
        };
      }
      const { low, high } = this.range;
      // Amounts start at nothing; a loss does not, where that would press its curve flat.
      const fromZero = kind === "number" || kind === "share" || (this.small && low < high * 0.4);
      return {
        type: "linear",
        beginAtZero: low >= 0 && fromZero,
        suggestedMin: low,
        suggestedMax: high,
        ticks: {
          ...tick((value, _, all) => C.tickText(kind, value, all[1]?.value - all[0].value)),
          maxTicksLimit: this.small ? 4 : 6,
        },
      };
    }

    tooltip() {
      const colour = ({ dataset: { line } }) => series(line.colour);
      return {
        title: ([{ dataset, dataIndex }]) => this.titleOf(dataset.line, dataIndex),
        label: ({ dataset: { line }, dataIndex }) =>
          `${(this.small && line.tag) || line.label}  ${this.readText(line, dataIndex)}`,
        labelColor: (item) => ({ backgroundColor: colour(item), borderColor: colour(item) }),
      };
    }

    // What is read of a line at one of its points: the value itself, or where only the smoothed line is drawn its value.
    read(line, index) {
      return line.alone ? line.values[index] : line.raw[index];
    }

    readText(line, index) {
      return C.valueText(this.spec.kind, this.read(line, index));
    }

    // What each line has at x: its nearest point, where that is no further than the line reaches.
    at(x) {
      return this.lines.flatMap((line) => {
        const index = C.nearest(line.xs, x);
        if (index < 0 || x > line.xs.at(-1) + this.end() * 0.01) return [];
        if (line.dots && Math.abs(line.xs[index] - x) > this.end() * 0.02) return [];
        return [{ line, index, shown: this.read(line, index) }];
      });
    }

    // The same, as Chart.js names the points of a chart.
    elementsAt(x) {
      return this.at(x).map(({ line, index }) => {
        const datasetIndex = this.chart.data.datasets.findIndex((dataset) => dataset.line === line);
        const element = this.chart.getDatasetMeta(datasetIndex).data[index];
        return { datasetIndex, index, element };
      });
    }

    // The x nearest to a pixel at which the longest line has a point.
    nearestX(pixel) {
      const line = this.densest();
      return line && line.xs[C.nearest(line.xs, this.chart.scales.x.getValueForPixel(pixel))];
    }

    densest() {
      return this.lines.reduce(
        (best, line) => (line.xs.length > (best?.xs.length ?? 0) ? line : best),
        null,
      );
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
      if (event.key === "-") return this.select?.(null);
      if (event.key === "+") return this.closer();
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
      const found = this.at(cursor.x);
      const values = found.map((one) => `${one.line.label} ${this.readText(one.line, one.index)}`);
      this.spoken.textContent = found.length
        ? `${this.titleOf(found[0].line, found[0].index)}: ${values.join(", ")}`
        : "";
    }

    // Half of what is shown, around the crosshair.
    closer() {
      if (!this.chart || !this.select) return;
      const { scales, chartArea: area } = this.chart;
      const x =
        cursor.x === null ? (area.left + area.right) / 2 : scales.x.getPixelForValue(cursor.x);
      this.chart.zoom({ x: 1.5, focalPoint: { x, y: area.top } });
    }

    titleOf(line, index) {
      const point = line.points[index];
      return `step ${format.thousands(point[C.STEP])} · epoch ${point[C.EPOCH].toFixed(2)}`;
    }

    // All charts of the page show what they have under the crosshair; the one that is pointed at has the tooltip.
    cursorShow() {
      if (this.chart) {
        this.mark(cursor.x === null ? [] : this.elementsAt(cursor.x));
        this.chart.render();
      }
      this.headSet();
    }

    mark(elements) {
      this.chart.setActiveElements(elements);
      this.chart.tooltip.setActiveElements(cursor.source === this ? elements : [], { x: 0, y: 0 });
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

  // Chart.js asks what is pointed at (docs: Custom Interaction Modes). Its own modes find points at one x only, or points of
  // the same index; our lines have points at different steps, and each is read at its nearest.
  const owners = new WeakMap();
  window.Chart.Interaction.modes.column = (chart, event) => {
    const panel = owners.get(chart);
    const x = panel?.nearestX(event.x);
    return isNumber(x) ? panel.elementsAt(x) : [];
  };

  window.Chart.register({
    id: "crosshair",
    afterEvent(chart, { event, inChartArea }) {
      const panel = owners.get(chart);
      if (event.type === "mouseout") point(null, null);
      else if (inChartArea && panel) point(panel.nearestX(event.x) ?? null, panel);
    },
    beforeDatasetsDraw({ ctx, chartArea: area, scales: { x } }) {
      if (cursor.x === null || cursor.x < x.min || cursor.x > x.max) return;
      const left = x.getPixelForValue(cursor.x);
      ctx.save();
      ctx.strokeStyle = css("--control-border");
      ctx.lineWidth = 1;
      ctx.beginPath();
      ctx.moveTo(left, area.top);
      ctx.lineTo(left, area.bottom);
      ctx.stroke();
      ctx.restore();
    },
  });

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
