// The bar above the charts: x axis, smoothing, log scale, for all charts of the page.
(() => {
  "use strict";
  // The choices of the bar above the charts: in the address, so that a link shows the same, and kept for next time.
  function choices(bar, changed) {
    const key = `charts:${bar.dataset.user}`;
    const address = new URL(location);
    let saved = {};
    try {
      saved = JSON.parse(localStorage.getItem(key) ?? "{}");
    } catch {
      /* forbidden or broken: the defaults */
    }
    const read = (name, fallback) => address.searchParams.get(name) ?? saved[name] ?? fallback;
    const axis = ["step", "epoch", "time"].includes(read("x")) ? read("x") : "step";
    const weight = Number(read("smoothing", 0.6));
    const view = {
      axis,
      smoothing: weight >= 0 && weight < 1 ? weight : 0.6,
      log: String(read("log", "0")) === "1",
    };
    const slider = bar.querySelector("[data-smoothing]"),
      shown = bar.querySelector("[data-smoothing-value]"),
      log = bar.querySelector("[data-log]");
    const paint = () => {
      for (const one of bar.querySelectorAll("[data-axis]"))
        one.setAttribute("aria-pressed", String(one.dataset.axis === view.axis));
      slider.value = view.smoothing;
      shown.textContent = view.smoothing.toFixed(2);
      log.checked = view.log;
    };
    const keep = () => {
      paint();
      const values = { x: view.axis, smoothing: String(view.smoothing), log: view.log ? "1" : "0" };
      try {
        localStorage.setItem(key, JSON.stringify(values));
      } catch {
        /* holds for this page */
      }
      const url = new URL(location);
      for (const [name, value] of Object.entries(values)) url.searchParams.set(name, value);
      history.replaceState(history.state, "", url);
      changed(view);
    };
    bar.addEventListener("click", (event) => {
      const one = event.target.closest("[data-axis]");
      if (one) {
        view.axis = one.dataset.axis;
        keep();
      }
    });
    slider.addEventListener("input", () => {
      view.smoothing = Number(slider.value);
      keep();
    });
    log.addEventListener("change", () => {
      view.log = log.checked;
      keep();
    });
    paint();
    return view;
  }

  window.DXCharts.choices = choices;
})();
