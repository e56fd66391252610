// One chart in its card: Chart.js draws the lines; here stand what it does not have in our way: ticks on round numbers and the
// planned end, values at the line ends, one crosshair for all charts, gaps with a mark, full screen, a table to read.
(() => {
  "use strict";
  const C = window.DXCharts;
  const { format, icon, make } = window.DX;
  const TABLE_ROWS = 200;
  const cursor = { x: null, source: null };
  const panels = new Set();
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const series = (number) => css(`--series-${((number - 1) % 5) + 1}`);
  const faded = (colour) => `${colour}38`; // 22% of a #rrggbb

  function button(picture, label, extra = {}) {
    const element = make("button", { type: "button", className: "btn btn-quiet btn-icon btn-sm", title: label, ...extra }, icon(picture));
    element.setAttribute("aria-label", label);
    return element;
  }

  // lines: [{label, colour (series number), points, smoothed, dots, dash, tag, alone (no raw line)}]; view: {axis, smoothing,
  // log, begin, end, start}. `select`, where given, hears which range of x was dragged over: [from, to], or null for all.
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
      const head = make("div", { className: "chart-head" }, title, this.legend, this.value, make("span", { className: "chart-buttons" }, this.tableButton, this.fullButton));
      this.canvas = make("canvas");
      this.tip = make("div", { className: "chart-tip", hidden: true });
      this.message = make("div", { className: "chart-message", hidden: true });
      this.spoken = make("p", { className: "visually-hidden" });
      this.spoken.setAttribute("aria-live", "polite");
      this.plot = make("div", { className: "chart-plot", tabIndex: 0 }, this.canvas, this.message, this.tip);
      this.plot.setAttribute("role", "group");
      this.plot.setAttribute("aria-roledescription", "chart");
      this.canvas.setAttribute("aria-hidden", "true");
      this.table = make("div", { className: "chart-table table-wrap", hidden: true, tabIndex: 0 });
      this.foot = make("div", { className: "chart-foot", hidden: true });
      this.element = make("section", { className: `card chart-card${this.small ? " chart-small" : ""}` }, head, this.plot, this.table, this.spoken, this.foot);
      this.element.dataset.chart = this.spec.name;
      this.tableButton.addEventListener("click", () => this.tableToggle());
      this.fullButton.addEventListener("click", () => this.fullToggle());
      this.plot.addEventListener("pointermove", (event) => this.pointed(event));
      this.plot.addEventListener("pointerleave", () => point(null, null));
      this.zoom = this.select ? new C.Zoom(this) : null;
      this.plot.addEventListener("blur", () => point(null, null));
      this.plot.addEventListener("keydown", (event) => this.keyed(event));
      this.element.addEventListener("keydown", (event) => {
        if (event.key === "Escape" && this.element.classList.contains("chart-full")) this.fullToggle(false);
      });
    }

    set(lines, view, limits = []) {
      if (view.log !== this.view.log || view.axis !== this.view.axis) { this.range = null; this.drop(); }
      if (view.begin !== this.view.begin) { this.range = null; this.tip.hidden = true; }
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
      const { axis, smoothing, log } = this.view;
      const start = line.points[0]?.[C.TIME] ?? 0;
      const xs = line.points.map((point) => C.xOf(point, axis, line.start ?? start));
      const raw = line.points.map((point) => (log && point[C.VALUE] <= 0 ? null : point[C.VALUE]));
      const values = line.smoothed && smoothing ? C.smooth(raw, smoothing) : raw;
      return { ...line, xs, raw, values };
    }

    rangeSet() {
      const all = this.lines.flatMap((line) => (line.alone ? line.values : [...line.raw, ...line.values])).filter((value) => value !== null);
      if (!all.length) return;
      let low = Infinity, high = -Infinity;
      for (const value of all) { if (value < low) low = value; if (value > high) high = value; }
      for (const limit of this.limits) if (limit.value < high * 2) high = Math.max(high, limit.value);
      // Amounts start at nothing; a loss does not, where that would press its curve flat.
      const fromZero = this.spec.kind === "number" && low >= 0 || (this.small && low < high * 0.4);
      if (!this.view.log && low >= 0 && fromZero) low = 0;
      const count = this.small ? 2 : 4;
      this.range = this.view.log ? C.widenLog(this.range, low, high) : C.widen(this.range, low, high, count);
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
      if (!this.chart) this.chart = new window.Chart(this.canvas, { type: "line", data: { datasets }, options: this.options(), plugins: [this.marks()] });
      else { this.chart.data.datasets = datasets; this.chart.options = this.options(); this.chart.update("none"); }
    }

    datasets(line) {
      const colour = series(line.colour);
      const pairs = (values) => values.map((y, index) => ({ x: line.xs[index], y }));
      const base = { borderColor: colour, borderWidth: 2, pointRadius: 0, pointHitRadius: 0, tension: 0, spanGaps: false, borderDash: line.dash ? [6, 4] : [] };
      if (line.dots) return [{ ...base, data: pairs(line.raw), pointRadius: 3, pointBackgroundColor: colour, pointBorderColor: css("--surface"), pointBorderWidth: 1 }];
      // A single value is no line: a point shows it.
      const lone = line.xs.length === 1 ? { pointRadius: 3, pointBackgroundColor: colour } : {};
      const main = { ...base, ...lone, data: pairs(line.values) };
      if (!line.smoothed || !this.view.smoothing || line.alone) return [main];
      return [{ ...base, data: pairs(line.raw), borderColor: faded(colour), borderWidth: 1, borderDash: [] }, main];
    }

    options() {
      const font = { family: "Inter Variable, system-ui, sans-serif", size: 11 };
      const grey = css("--text-3"), hair = css("--border");
      const end = this.end(), { axis, log, begin = 0 } = this.view;
      const range = this.range ?? { min: 0, max: 1, step: 0.5 };
      // Of a chart without values only the lines are drawn: its numbers would be invented.
      const known = this.range !== null;
      const xs = (width) => {
        const count = Math.min(this.small ? 3 : 7, Math.max(2, Math.floor(width / 80)));
        const step = axis === "time" ? C.niceTimeStep(end - begin, count) : C.niceStep(end - begin, count);
        const whole = axis === "step" ? Math.max(1, step) : step;
        return begin ? C.multiples(begin, end, whole) : C.xTicks(end, count, whole);
      };
      const ys = log ? C.logTicks(range, this.small) : C.multiples(range.min, range.max, range.step);
      return {
        animation: false, parsing: false, normalized: true, responsive: true, maintainAspectRatio: false, events: [],
        layout: { padding: { right: this.gutter(), top: 10 } },
        plugins: { legend: { display: false }, tooltip: { enabled: false } },
        scales: {
          x: { type: "linear", min: begin, max: end, grid: { display: false }, border: { color: hair },
            ticks: { font, color: grey, maxRotation: 0, autoSkip: false, callback: (value) => C.axisText(axis, value) },
            afterBuildTicks: (scale) => { scale.ticks = known || this.view.end ? xs(scale.width).map((value) => ({ value })) : []; } },
          y: { type: log ? "logarithmic" : "linear", min: range.min, max: range.max, border: { display: false }, grid: { color: hair, drawTicks: false },
            ticks: { font, color: grey, padding: 8, callback: (value) => (known ? C.tickText(this.spec.kind, value, range.step) : "") },
            afterBuildTicks: (scale) => { scale.ticks = ys.map((value) => ({ value })); },
            afterFit: (scale) => { scale.width = 52; } },
        },
      };
    }

    // What Chart.js does not draw, on top of its lines.
    marks() {
      return { id: "marks", afterDatasetsDraw: (chart) => {
        const { ctx, chartArea: area, scales: { x, y } } = chart;
        ctx.save();
        ctx.font = "500 11px 'Inter Variable', system-ui, sans-serif";
        this.referenceLines(ctx, area, x, y);
        this.gapMarks(ctx, area, x);
        if (this.labelled()) this.endLabels(ctx, area, x, y);
        if (cursor.x !== null) this.crosshair(ctx, area, x, y);
        this.zoom?.draw(ctx, area, x);
        ctx.restore();
      } };
    }

    referenceLines(ctx, area, x, y) {
      ctx.setLineDash([4, 3]);
      ctx.strokeStyle = css("--text-3");
      ctx.fillStyle = css("--text-3");
      ctx.lineWidth = 1;
      for (const limit of this.range ? this.limits : []) {
        const height = y.getPixelForValue(limit.value);
        if (height < area.top - 1 || height > area.bottom) continue;
        stroke(ctx, area.left, height, area.right, height);
        ctx.textAlign = "right";
        ctx.fillText(limit.label, area.right, height - 4);
      }
      ctx.strokeStyle = css("--border-strong");
      for (const [place, label] of this.view.borders ?? []) {
        const left = x.getPixelForValue(place);
        if (left < area.left || left > area.right) continue;
        stroke(ctx, left, area.top, left, area.bottom);
        ctx.textAlign = "left";
        ctx.fillText(label, left + 4, area.top + 8);
      }
      ctx.setLineDash([]);
    }

    // A value that was not a number: a small cross on the x axis, where the line has its gap.
    gapMarks(ctx, area, x) {
      ctx.strokeStyle = css("--red");
      ctx.lineWidth = 1.5;
      for (const line of this.lines) {
        line.points.forEach((point, index) => {
          if (point[C.VALUE] !== null) return;
          const left = x.getPixelForValue(line.xs[index]), bottom = area.bottom - 5;
          stroke(ctx, left - 3, bottom - 3, left + 3, bottom + 3);
          stroke(ctx, left - 3, bottom + 3, left + 3, bottom - 3);
        });
      }
    }

    endLabels(ctx, area, x, y) {
      const ends = this.lines.map((line) => {
        const index = line.values.findLastIndex((value) => value !== null);
        return index < 0 ? null : { line, left: x.getPixelForValue(line.xs[index]), height: y.getPixelForValue(line.values[index]), last: line.raw[index] };
      }).filter(Boolean);
      const places = C.spread(ends.map((end) => end.height), 13, area.top + 4, area.bottom - 2);
      const inGutter = ends.some((end) => end.line.tag);
      ends.forEach((end, index) => {
        ctx.fillStyle = series(end.line.colour);
        ctx.textAlign = "left";
        const text = `${end.line.tag ? `${end.line.tag}  ` : ""}${C.valueText(this.spec.kind, end.last)}`;
        const left = inGutter ? area.right + 8 : Math.min(end.left + 7, area.right + 6);
        ctx.fillText(text, left, places[index] + 4);
      });
    }

    crosshair(ctx, area, x, y) {
      const left = x.getPixelForValue(cursor.x);
      if (left < area.left || left > area.right + 1) return;
      ctx.strokeStyle = css("--control-border");
      ctx.lineWidth = 1;
      stroke(ctx, left, area.top, left, area.bottom);
      for (const { line, value } of this.at(cursor.x)) {
        if (value === null) continue;
        ctx.beginPath();
        ctx.arc(left, y.getPixelForValue(value), 3.5, 0, 2 * Math.PI);
        ctx.fillStyle = css("--surface");
        ctx.strokeStyle = series(line.colour);
        ctx.lineWidth = 2;
        ctx.fill();
        ctx.stroke();
      }
    }

    // What each line has at x: its nearest point, where that is no further than the line reaches.
    at(x) {
      return this.lines.flatMap((line) => {
        const index = C.nearest(line.xs, x);
        if (index < 0 || x > line.xs.at(-1) + this.end() * 0.01) return [];
        if (line.dots && Math.abs(line.xs[index] - x) > this.end() * 0.02) return [];
        return [{ line, index, value: line.values[index], raw: line.raw[index] }];
      });
    }

    densest() {
      return this.lines.reduce((best, line) => (line.xs.length > (best?.xs.length ?? 0) ? line : best), null);
    }

    pointed(event) {
      if (!this.chart) return;
      const line = this.densest();
      if (!line) return;
      const box = this.canvas.getBoundingClientRect();
      const index = C.nearest(line.xs, this.chart.scales.x.getValueForPixel(event.clientX - box.left));
      point(line.xs[index], this);
    }

    keyed(event) {
      const line = this.densest();
      const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };
      if (event.key === "Escape") return point(null, null);
      if (this.zoom?.keyed(event, cursor.x)) return;
      if (!line || !(event.key in moves)) return;
      event.preventDefault();
      const from = cursor.x === null ? (event.key === "ArrowLeft" ? line.xs.length : -1) : C.nearest(line.xs, cursor.x);
      const to = Math.min(line.xs.length - 1, Math.max(0, from + moves[event.key] * (event.shiftKey ? 10 : 1)));
      point(line.xs[to], this);
      this.spoken.textContent = `${this.cursorTitle()}: ${this.at(cursor.x).map(({ line: one, raw }) => `${one.label} ${C.valueText(this.spec.kind, raw)}`).join(", ")}`;
    }

    cursorTitle() {
      const found = this.at(cursor.x)[0];
      if (!found) return "";
      const near = found.line.points[found.index];
      return `step ${format.thousands(near[C.STEP])} · epoch ${near[C.EPOCH].toFixed(2)}`;
    }

    cursorShow() {
      this.chart?.draw();
      const mine = cursor.source === this && cursor.x !== null && this.chart;
      const rows = mine ? this.at(cursor.x) : [];
      this.tip.hidden = !rows.length;
      if (!rows.length) return this.headSet();
      this.tip.replaceChildren(make("div", { className: "chart-tip-title", textContent: this.cursorTitle() }), ...rows.map(({ line, raw }) => {
        const swatch = make("span", { className: `swatch series-${((line.colour - 1) % 5) + 1}` });
        return make("div", { className: "chart-tip-row" }, swatch, make("span", { textContent: line.label }), make("strong", { textContent: C.valueText(this.spec.kind, raw) }));
      }));
      const left = this.chart.scales.x.getPixelForValue(cursor.x);
      const room = this.plot.clientWidth - left > this.tip.offsetWidth + 20;
      this.tip.style.left = `${Math.max(0, room ? left + 14 : left - this.tip.offsetWidth - 14)}px`;
      this.tip.style.top = `${Math.max(0, this.chart.chartArea.top + 8)}px`;
    }

    // Title row: the legend, or for a chart of one line its last value, or its value under the crosshair.
    headSet() {
      const last = this.lines.map((line) => line.raw.findLast((value) => value !== null));
      const single = this.lines.length === 1 && !this.lines[0].tag;
      const under = single && cursor.x !== null ? this.at(cursor.x)[0]?.raw : undefined;
      const text = single ? C.valueText(this.spec.kind, under ?? last[0]) : "";
      this.value.replaceChildren(text, ...(text && this.spec.unit ? [" ", make("span", { className: "unit", textContent: this.spec.unit })] : []));
      const wanted = single ? [] : this.lines.map((line) => [line.label, line.colour, line.dots, line.dash]);
      const key = JSON.stringify(wanted);
      if (this.legend.dataset.shown !== key) {
        this.legend.dataset.shown = key;
        this.legend.replaceChildren(...wanted.map(([label, colour, dots]) => make("li", {}, make("span", { className: `swatch ${dots ? "dot" : "bar"} series-${((colour - 1) % 5) + 1}` }), label)));
      }
      const values = this.lines.map((line, index) => `${line.label} ${C.valueText(this.spec.kind, last[index])}`).join(", ");
      this.plot.setAttribute("aria-label", `${this.spec.title}: ${values || "no values yet"}. Arrow keys move along the line${this.select ? ", plus looks closer, minus shows all" : ""}.`);
    }

    say(title, text = "") {
      this.message.hidden = !title;
      this.message.replaceChildren(make("strong", { textContent: title }), make("span", { textContent: text }));
    }

    tableToggle() {
      const open = this.table.hidden;
      this.table.hidden = !open;
      this.plot.hidden = open;
      this.tableButton.setAttribute("aria-pressed", String(open));
      if (open) this.tableFill(); else this.draw();
    }

    tableFill() {
      const rows = new Map();
      this.lines.forEach((line, column) => line.points.forEach((point) => {
        if (!rows.has(point[C.STEP])) rows.set(point[C.STEP], { step: point[C.STEP], epoch: point[C.EPOCH], cells: [] });
        rows.get(point[C.STEP]).cells[column] = point[C.VALUE] === null ? "not a number" : C.valueText(this.spec.kind, point[C.VALUE]);
      }));
      const all = [...rows.values()].sort((one, other) => one.step - other.step);
      const every = Math.ceil(all.length / TABLE_ROWS);
      const shown = all.filter((row, index) => every === 1 || index % every === 0 || index === all.length - 1 || this.lines.some((line, column) => line.dots && row.cells[column]));
      const head = make("tr", {}, ...["Step", "Epoch", ...this.lines.map((line) => line.label)].map((text) => make("th", { scope: "col", className: "num", textContent: text })));
      const body = shown.map((row) => make("tr", {}, make("td", { className: "num", textContent: format.thousands(row.step) }), make("td", { className: "num", textContent: row.epoch.toFixed(2) }),
        ...this.lines.map((_, column) => make("td", { className: "num", textContent: row.cells[column] ?? format.missing }))));
      const note = every > 1 ? [make("p", { className: "help chart-table-note", textContent: `Every ${format.ordinal(every)} step; the CSV file has all.` })] : [];
      this.table.replaceChildren(...note, make("table", { className: "table table-dense" }, make("thead", {}, head), make("tbody", {}, ...body)));
      this.table.setAttribute("aria-label", `${this.spec.title}, values`);
    }

    fullToggle(open = !this.element.classList.contains("chart-full")) {
      this.element.classList.toggle("chart-full", open);
      document.documentElement.classList.toggle("has-chart-full", open);
      this.fullButton.replaceChildren(icon(open ? "arrows-minimize" : "arrows-maximize"));
      this.fullButton.setAttribute("aria-label", open ? "Leave full screen" : `${this.spec.title} full screen`);
      if (open && document.fullscreenEnabled) document.documentElement.requestFullscreen().catch(() => {});
      if (!open && document.fullscreenElement) document.exitFullscreen().catch(() => {});
      this.fullButton.focus();
      this.element.scrollIntoView({ block: "nearest", behavior: still.matches ? "auto" : "instant" });
    }

    drop() {
      this.chart?.destroy();
      this.chart = null;
    }
  }

  function stroke(ctx, left, top, right, bottom) {
    ctx.beginPath();
    ctx.moveTo(left, top);
    ctx.lineTo(right, bottom);
    ctx.stroke();
  }

  function point(x, source) {
    if (cursor.x === x && cursor.source === source) return;
    cursor.x = x;
    cursor.source = source;
    for (const panel of panels) panel.cursorShow();
  }

  document.addEventListener("theme:change", () => { for (const panel of panels) panel.draw(); });
  document.addEventListener("fullscreenchange", () => {
    if (document.fullscreenElement) return;
    for (const panel of panels) if (panel.element.classList.contains("chart-full")) panel.fullToggle(false);
  });

  window.DXCharts.Panel = Panel;
})();
