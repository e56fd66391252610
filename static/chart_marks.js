// What stands on and beside the lines of a chart, as annotations (chartjs-plugin-annotation): reference lines, where an
// epoch or a later attempt begins, and the values at the line ends.
(() => {
  "use strict";
  const C = window.DXCharts;
  const LABEL_HEIGHT = 13; // pixels
  const { css, series } = C;

  const line = (colour) => ({
    type: "line",
    borderColor: colour,
    borderDash: [4, 3],
    borderWidth: 1,
    drawTime: "beforeDatasetsDraw",
  });
  const text = (content, colour) => ({
    content,
    color: colour,
    font: { weight: 500 },
    padding: 0,
    backgroundColor: "transparent",
  });

  // The label stands over its line, or under it where the chart ends above.
  function limitMark(panel, { value, label }) {
    const colour = css("--text-3");
    const above = ({ chart }) =>
      chart.scales.y.getPixelForValue(value) > chart.chartArea.top + LABEL_HEIGHT;
    return {
      ...line(colour),
      scaleID: "y",
      value,
      label: {
        ...text(label, colour),
        display: true,
        position: isFarAtLeft(panel, value) ? "start" : "end",
        yAdjust: (context) => (above(context) ? -8 : 8),
      },
    };
  }

  // Whether the lines keep further away from a reference line at their beginning than at their end: its label goes there.
  function isFarAtLeft(panel, limit) {
    const distance = (pick) =>
      Math.min(...panel.lines.map((one) => Math.abs((pick(one.values) ?? Infinity) - limit)));
    return (
      distance((values) => values.find(C.isNumber)) >
      distance((values) => values.findLast(C.isNumber))
    );
  }

  // A line across the chart, and its label beside it where that does not reach the next one or the end.
  function borderMarks(panel, [place, label], next) {
    const fits = ({ chart: { ctx, chartArea, scales } }) => {
      // The plugin asks once before there is a layout.
      if (!chartArea) return false;
      const { size, family } = window.Chart.defaults.font;
      ctx.font = `500 ${size}px ${family}`;
      const end = next ? scales.x.getPixelForValue(next[0]) : chartArea.right;
      const room = Math.min(end, chartArea.right) - scales.x.getPixelForValue(place);
      return place >= scales.x.min && ctx.measureText(label).width + 8 < room;
    };
    return [
      { ...line(css("--border-strong")), scaleID: "x", value: place },
      {
        ...text(label, css("--text-3")),
        type: "label",
        display: fits,
        xValue: place,
        yScaleID: "edge",
        yValue: 1,
        position: { x: "start", y: "start" },
        xAdjust: 4,
      },
    ];
  }

  // The number at a line's end is the one that is drawn there: the smoothed one at the end of a smoothed line. Labels
  // make room for one another, and stand in the margin where each names its line.
  function endMarks(panel) {
    const ends = panel.lines.flatMap((one) => {
      const index = one.values.findLastIndex(C.isNumber);
      return index < 0 ? [] : [{ one, x: one.xs[index], y: one.values[index] }];
    });
    const inMargin = ends.some(({ one }) => one.tag);
    const shift = (scales, area, index) => {
      const heights = ends.map((end) => scales.y.getPixelForValue(end.y));
      return C.spread(heights, LABEL_HEIGHT, area.top + 4, area.bottom - 2)[index] - heights[index];
    };
    return ends.map(({ one, x, y }, index) => ({
      ...text(
        [one.tag, C.valueText(panel.spec.kind, y)].filter(Boolean).join("  "),
        series(one.colour),
      ),
      type: "label",
      display: ({ chart }) => chart.chartArea && x >= chart.scales.x.min && x <= chart.scales.x.max,
      xValue: x,
      yValue: y,
      position: { x: "start", y: "center" },
      xAdjust: ({ chart: { scales, chartArea: area } }) => {
        const left = scales.x.getPixelForValue(x);
        return (inMargin ? area.right + 10 : Math.min(left + 9, area.right + 8)) - left;
      },
      yAdjust: ({ chart: { scales, chartArea: area } }) => shift(scales, area, index),
    }));
  }

  // Of a chart without values nothing is marked: its axes are made up.
  function annotations(panel) {
    if (!panel.range) return [];
    const borders = [...(panel.view.borders ?? [])].sort((one, other) => one[0] - other[0]);
    return [
      ...panel.limits.map((limit) => limitMark(panel, limit)),
      ...borders.flatMap((border, index) => borderMarks(panel, border, borders[index + 1])),
      ...(panel.labelled() ? endMarks(panel) : []),
    ];
  }

  C.annotations = annotations;
})();
