// How charts look, as the defaults of Chart.js: a chart says only what is its own.
(() => {
  "use strict";
  const { defaults } = window.Chart;
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const series = (number) => css(`--series-${((number - 1) % 5) + 1}`);

  defaults.set({
    animation: false,
    parsing: false,
    normalized: true,
    maintainAspectRatio: false,
    events: ["mousemove", "mouseout", "touchstart", "touchmove"],
    font: { family: "Inter Variable, system-ui, sans-serif", size: 11 },
    elements: {
      line: { borderWidth: 2 },
      point: {
        radius: 0,
        hoverRadius: 3.5,
        hoverBorderWidth: 2,
      },
    },
    plugins: {
      legend: { display: false },
      tooltip: {
        yAlign: "center",
        caretSize: 0,
        caretPadding: 14,
        padding: { x: 10, y: 8 },
        usePointStyle: true,
        multiKeyBackground: "transparent",
        boxWidth: 10,
        boxHeight: 10,
        boxPadding: 6,
        borderWidth: 1,
      },
      annotation: { clip: false, common: { adjustScaleRange: false } },
      // Fingers scroll the page: only a mouse drags.
      zoom: { zoom: { mode: "x", drag: { threshold: 5, drawTime: "afterDatasetsDraw" } } },
    },
  });

  // Chart.js reads these two from `font`, and takes a whole one in their place.
  defaults.plugins.tooltip.titleFont = { size: 12, weight: "normal" };
  defaults.plugins.tooltip.bodyFont = { size: 12 };

  function colours() {
    defaults.set({
      color: css("--text-3"),
      borderColor: css("--border"),
      elements: { point: { hoverBackgroundColor: css("--surface") } },
      plugins: {
        tooltip: {
          backgroundColor: css("--surface"),
          borderColor: css("--border-strong"),
          titleColor: css("--text-2"),
          bodyColor: css("--text"),
        },
        zoom: { zoom: { drag: { backgroundColor: `${series(1)}2e` } } },
      },
    });
  }

  colours();
  document.addEventListener("theme:change", colours);

  Object.assign(window.DXCharts, { css, series });
})();
