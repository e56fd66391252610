// Chart arithmetic: pure functions without a page, so that a test can call them. DXCharts is the one namespace that
// chart_panel.js (drawing), evaluation.js and compare.js share. A point is [step, epoch, time, value], as the server
// sends it; the value is null where it was not a finite number, and undefined where steps are missing.
(() => {
  "use strict";
  const STEP = 0,
    EPOCH = 1,
    TIME = 2,
    VALUE = 3;
  const isNumber = (value) => value !== null && value !== undefined;
  // "−0.0" is no number that people write.
  const withoutMinusZero = (text) =>
    /[1-9]/.test(text) ? text.replace(/^-/, "−") : text.replace(/^-/, "");

  // Exponential moving average without the pull of its start; a gap stays a gap and does not reset it.
  // weight: 0 is the raw line, towards 1 ever smoother.
  function smooth(values, weight) {
    let sum = 0,
      scale = 0;
    return values.map((value) => {
      if (!isNumber(value)) return null;
      sum = sum * weight + value * (1 - weight);
      scale = scale * weight + (1 - weight);
      // Without the last digits, which would make a curve of values that are all the same.
      return Number((sum / scale).toPrecision(12));
    });
  }

  // Round times between two, in seconds, at most `count` steps apart: 1, 2, 5, 10, 15, 30 s, then minutes, hours, days.
  function timeTicks(low, high, count) {
    const steps = [
      1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400,
    ];
    const least = (high - low) / count;
    const step = steps.find((one) => one >= least) ?? Math.ceil(least / 86400) * 86400;
    const first = Math.ceil(low / step);
    return Array.from(
      { length: Math.floor(high / step) - first + 1 },
      (_, at) => (first + at) * step,
    );
  }

  // 1, 2 or 5 times a power of ten: the next one at or below (up: above) a positive value.
  function roundLog(value, up) {
    const power = 10 ** Math.floor(Math.log10(value) + 1e-9);
    const factors = [1, 2, 5, 10].map((factor) => Number((factor * power).toPrecision(6)));
    return up
      ? factors.find((factor) => factor >= value * (1 - 1e-9))
      : factors.findLast((factor) => factor <= value * (1 + 1e-9));
  }

  // The ends of a log scale for values between low and high, which Chart.js rounds to what its labels leave out.
  function logRange({ low, high }) {
    const min = roundLog(low, false),
      max = roundLog(high, true);
    return { min, max: max > min ? max : min * 10 };
  }

  // 1, 2 and 5 of every power of ten, or only the powers where there are many.
  function logTicks({ min, max }, few = false) {
    const many = Math.log10(max / min) > (few ? 1 : 3);
    const ticks = [];
    for (let power = Math.floor(Math.log10(min) + 1e-9); 10 ** power <= max * 1.001; power += 1) {
      for (const factor of many ? [1] : [1, 2, 5]) {
        const value = Number((10 ** power * factor).toPrecision(6));
        if (value >= min * 0.999 && value <= max * 1.001) ticks.push(value);
      }
    }
    return ticks;
  }

  // Index of the number nearest to x in an ascending list; -1 for an empty one.
  function nearest(xs, x) {
    let low = 0,
      high = xs.length - 1;
    if (high < 0) return -1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (xs[middle] < x) low = middle + 1;
      else high = middle;
    }
    return low > 0 && x - xs[low - 1] <= xs[low] - x ? low - 1 : low;
  }

  // Positions moved apart so that neighbours are at least `gap` apart, within [low, high] where there is room; in the
  // order given.
  function spread(positions, gap, low, high) {
    const order = positions
      .map((_, index) => index)
      .sort((one, other) => positions[one] - positions[other]);
    const placed = order.map((index) => positions[index]);
    for (let index = 1; index < placed.length; index += 1) {
      placed[index] = Math.max(placed[index], placed[index - 1] + gap);
    }
    for (let index = placed.length - 1; index >= 0; index -= 1) {
      placed[index] = Math.min(placed[index], high - (placed.length - 1 - index) * gap);
    }
    for (let index = 0; index < placed.length; index += 1)
      placed[index] = Math.max(placed[index], low + index * gap);
    const inOrder = [];
    order.forEach((index, place) => {
      inOrder[index] = placed[place];
    });
    return inOrder;
  }

  // Where a point stands on the x axis. Time counts from `start`, in seconds.
  function xOf(point, axis, start) {
    return axis === "epoch" ? point[EPOCH] : axis === "time" ? point[TIME] - start : point[STEP];
  }

  // The step at x, between the points that stand around it.
  function stepAt(points, axis, start, x) {
    const xs = points.map((point) => xOf(point, axis, start));
    const after = xs.findIndex((value) => value >= x);
    if (after <= 0) return points.at(after)?.[STEP] ?? 0;
    const share = (x - xs[after - 1]) / (xs[after] - xs[after - 1] || 1);
    return points[after - 1][STEP] + share * (points[after][STEP] - points[after - 1][STEP]);
  }

  const words = (name) => {
    const text = name.replace(/[_./-]+/g, " ").trim();
    return text.charAt(0).toUpperCase() + text.slice(1);
  };

  // Whether a metric is one of the lines of a chart that shows all of a kind, such as "rewards/" + any + "/mean".
  function isPartOf(chart, name) {
    return (
      Boolean(chart.suffix) &&
      name.startsWith(chart.prefix) &&
      name.endsWith(chart.suffix) &&
      name.length > chart.prefix.length + chart.suffix.length
    );
  }

  // The chart that shows a metric, made up where the table has none: eval_x belongs to x, and "rewards/margin" stands
  // under Rewards.
  function chartFor(table, name) {
    const known =
      table.find((chart) => chart.train === name || chart.eval === name) ??
      table.find((chart) => isPartOf(chart, name));
    if (known) return known;
    const base = name.replace(/^eval_/, "");
    const cut = base.indexOf("/");
    const title = words(cut > 0 ? base.slice(cut + 1) : base);
    const heading = cut > 0 ? words(base.slice(0, cut)) : "Other";
    return {
      name: base,
      title,
      train: base,
      eval: `eval_${base}`,
      prefix: "",
      suffix: "",
      band: "",
      heading,
      place: "",
      unit: "",
      axis: "value",
      kind: "number",
      log: true,
      limit: "",
      limit_label: "",
    };
  }

  // The charts for these metrics: the table's first, in its order, then the unknown by name. Each once.
  function chartsFor(table, names) {
    const charts = new Map();
    for (const name of [...names].sort()) {
      const chart = chartFor(table, name);
      if (!charts.has(chart.name)) charts.set(chart.name, chart);
    }
    const place = (chart) => {
      const index = table.indexOf(chart);
      return index < 0 ? table.length : index;
    };
    return [...charts.values()].sort((one, other) => place(one) - place(other));
  }

  // A value of a chart's kind as text, without its unit.
  function valueText(kind, value) {
    const { format } = window.DX;
    if (value === null || value === undefined) return format.missing;
    if (kind === "loss") return format.loss(value);
    if (kind === "rate") return format.rate(value);
    if (kind === "share") return format.share(value);
    if (kind === "value") return withoutMinusZero(value.toFixed(2));
    if (Math.abs(value) >= 100) return format.thousands(value);
    return format.rate(Number(value.toPrecision(3)));
  }

  // A tick's text: as many decimals as the step between ticks needs.
  function tickText(kind, value, step) {
    const { format } = window.DX;
    if (kind === "share")
      return `${withoutMinusZero(String(Number((value * 100).toPrecision(6))))}%`;
    if (kind === "rate") return format.rate(value);
    if (!step) return Math.abs(value) >= 1000 ? bigTick(value, value) : format.rate(value);
    if (step < 1e-4) return format.rate(value);
    if (Math.abs(value) >= 1000) return bigTick(value, step);
    return withoutMinusZero(value.toFixed(decimalsOf(step)));
  }

  // Millions and billions short where that keeps neighbours apart: 1.2 B.
  function bigTick(value, step) {
    const { format } = window.DX;
    const [size, unit] = [
      [1e9, "B"],
      [1e6, "M"],
    ].find(([least]) => Math.abs(value) >= least) ?? [0, ""];
    const digits = size ? decimalsOf(step / size) : 0;
    if (!size || digits > 2)
      return step < 1 ? withoutMinusZero(value.toFixed(decimalsOf(step))) : format.thousands(value);
    return `${withoutMinusZero(String(Number((value / size).toFixed(digits))))} ${unit}`;
  }

  function decimalsOf(step) {
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const isExact = Math.abs(step * 10 ** digits - Math.round(step * 10 ** digits)) < 1e-6;
    return isExact ? digits : digits + 1;
  }

  // What an x axis measures.
  const AXES = { step: "step", epoch: "epoch", time: "time since the start" };

  function axisText(axis, value) {
    if (axis === "time") return window.DX.format.duration(value).replace(/ 00 [sm]$/, "");
    if (axis === "epoch") return String(Number(value.toFixed(2)));
    return window.DX.format.thousands(value);
  }

  // Indices of values that stand alone: no line is drawn to them, so that they need a point.
  function lonely(values) {
    return values.flatMap((value, index) =>
      isNumber(value) && !isNumber(values[index - 1]) && !isNumber(values[index + 1])
        ? [index]
        : [],
    );
  }

  // The points with an empty one in each of `gaps`, [[first, last step]] that are missing from the record: a line is not
  // drawn over what is not known, and what is missing is another matter than what was not a number.
  function withGaps(points, gaps) {
    if (!gaps?.length) return points;
    return points.flatMap((point, index) => {
      const before = points[index - 1];
      const isMissing =
        point[VALUE] === null &&
        gaps.some(([first, last]) => first <= point[STEP] && point[STEP] <= last);
      if (isMissing) return [point.slice(0, VALUE)];
      const isGap =
        before && gaps.some(([first, last]) => before[STEP] < first && last < point[STEP]);
      if (!isGap) return [point];
      return [[STEP, EPOCH, TIME].map((at) => (before[at] + point[at]) / 2), point];
    });
  }

  window.DXCharts = {
    AXES,
    isNumber,
    isPartOf,
    lonely,
    withGaps,
    STEP,
    EPOCH,
    TIME,
    VALUE,
    smooth,
    timeTicks,
    logRange,
    logTicks,
    nearest,
    spread,
    xOf,
    stepAt,
    chartFor,
    chartsFor,
    valueText,
    tickText,
    axisText,
  };
})();
