// What Chart.js does not draw, on top of its lines: reference lines, marks of values that were no numbers, the values at
// the line ends, and the crosshair. A plugin of one panel (chart_panel.js).
(() => {
  "use strict";
  const C = window.DXCharts;
  const LABEL_HEIGHT = 13; // pixels
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const series = (number) => css(`--series-${((number - 1) % 5) + 1}`);

  function stroke(ctx, left, top, right, bottom) {
    ctx.beginPath();
    ctx.moveTo(left, top);
    ctx.lineTo(right, bottom);
    ctx.stroke();
  }

  class Marks {
    constructor(panel) {
      this.id = "marks";
      this.panel = panel;
    }

    afterDatasetsDraw(chart) {
      const {
        ctx,
        chartArea: area,
        scales: { x, y },
      } = chart;
      ctx.save();
      ctx.font = "500 11px 'Inter Variable', system-ui, sans-serif";
      this.limits(ctx, area, y);
      this.borders(ctx, area, x);
      this.notNumbers(ctx, area, x);
      if (this.panel.labelled()) this.endLabels(ctx, area, x, y);
      if (C.cursor.x !== null) this.crosshair(ctx, area, x, y);
      this.panel.zoom?.draw(ctx, area, x);
      ctx.restore();
    }

    limits(ctx, area, y) {
      if (!this.panel.range) return;
      ctx.setLineDash([4, 3]);
      ctx.strokeStyle = css("--text-3");
      ctx.fillStyle = css("--text-3");
      ctx.lineWidth = 1;
      for (const limit of this.panel.limits) {
        const height = y.getPixelForValue(limit.value);
        if (height < area.top - 1 || height > area.bottom) continue;
        stroke(ctx, area.left, height, area.right, height);
        const atLeft = this.isFarAtLeft(limit.value);
        ctx.textAlign = atLeft ? "left" : "right";
        const above = height - 4 > area.top + LABEL_HEIGHT - 4;
        ctx.fillText(
          limit.label,
          atLeft ? area.left + 4 : area.right,
          above ? height - 4 : height + LABEL_HEIGHT - 1,
        );
      }
      ctx.setLineDash([]);
    }

    // Whether the lines keep further away from a reference line at their beginning than at their end: its label goes there.
    isFarAtLeft(limit) {
      const distance = (pick) =>
        Math.min(
          ...this.panel.lines.map((line) => Math.abs((pick(line.values) ?? Infinity) - limit)),
        );
      return (
        distance((values) => values.find(C.isNumber)) >
        distance((values) => values.findLast(C.isNumber))
      );
    }

    // Where an epoch begins, and where a train was resumed. Labels of two that are close would lie on one another.
    borders(ctx, area, x) {
      ctx.setLineDash([4, 3]);
      ctx.strokeStyle = css("--border-strong");
      ctx.fillStyle = css("--text-3");
      ctx.textAlign = "left";
      let free = area.left;
      for (const [place, label] of [...(this.panel.view.borders ?? [])].sort(
        (one, other) => one[0] - other[0],
      )) {
        const left = x.getPixelForValue(place);
        if (left < area.left || left > area.right) continue;
        stroke(ctx, left, area.top, left, area.bottom);
        const width = ctx.measureText(label).width + 8;
        if (left < free || left + width > area.right) continue;
        ctx.fillText(label, left + 4, area.top + 8);
        free = left + width;
      }
      ctx.setLineDash([]);
    }

    // A value that was not a number: a small cross on the x axis, where the line has its gap.
    notNumbers(ctx, area, x) {
      ctx.strokeStyle = css("--red");
      ctx.lineWidth = 1.5;
      for (const line of this.panel.lines) {
        line.points.forEach((point, index) => {
          if (point[C.VALUE] !== null) return;
          const left = x.getPixelForValue(line.xs[index]),
            bottom = area.bottom - 5;
          stroke(ctx, left - 3, bottom - 3, left + 3, bottom + 3);
          stroke(ctx, left - 3, bottom + 3, left + 3, bottom - 3);
        });
      }
    }

    // The number at a line's end is the one that is drawn there: the smoothed one at the end of a smoothed line.
    endLabels(ctx, area, x, y) {
      const ends = this.panel.lines.flatMap((line) => {
        const index = line.values.findLastIndex(C.isNumber);
        if (index < 0) return [];
        const value = line.values[index];
        return [
          {
            line,
            value,
            left: x.getPixelForValue(line.xs[index]),
            height: y.getPixelForValue(value),
          },
        ];
      });
      const places = C.spread(
        ends.map((end) => end.height),
        LABEL_HEIGHT,
        area.top + 4,
        area.bottom - 2,
      );
      const inGutter = ends.some((end) => end.line.tag);
      ends.forEach((end, index) => {
        ctx.fillStyle = series(end.line.colour);
        ctx.textAlign = "left";
        const left = inGutter ? area.right + 10 : Math.min(end.left + 9, area.right + 8);
        ctx.fillText(this.endText(end), left, places[index] + 4);
      });
    }

    endText({ line, value }) {
      const text = C.valueText(this.panel.spec.kind, value);
      return line.tag ? `${line.tag}  ${text}` : text;
    }

    crosshair(ctx, area, x, y) {
      const left = x.getPixelForValue(C.cursor.x);
      if (left < area.left || left > area.right + 1) return;
      ctx.strokeStyle = css("--control-border");
      ctx.lineWidth = 1;
      stroke(ctx, left, area.top, left, area.bottom);
      for (const { line, shown } of this.panel.at(C.cursor.x)) {
        if (!C.isNumber(shown)) continue;
        ctx.beginPath();
        ctx.arc(left, y.getPixelForValue(shown), 3.5, 0, 2 * Math.PI);
        ctx.fillStyle = css("--surface");
        ctx.strokeStyle = series(line.colour);
        ctx.lineWidth = 2;
        ctx.fill();
        ctx.stroke();
      }
    }
  }

  C.cursor = { x: null, source: null };
  Object.assign(C, { Marks, css, series });
})();
