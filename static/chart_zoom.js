// A closer look at one chart: drag over the curve, or plus and minus on the keyboard. Fingers scroll the page.
(() => {
  "use strict";
  const LEAST = 5; // pixels: less was a click

  class Zoom {
    constructor(panel) {
      this.panel = panel;
      this.range = null;
      const { plot } = panel;
      plot.addEventListener("pointerdown", (event) => this.began(event));
      plot.addEventListener("pointermove", (event) => this.moved(event));
      for (const type of ["pointerup", "pointercancel"])
        plot.addEventListener(type, (event) => this.ended(event));
      plot.addEventListener("dblclick", () => panel.select(null));
    }

    at(event) {
      return this.panel.chart.scales.x.getValueForPixel(
        event.clientX - this.panel.canvas.getBoundingClientRect().left,
      );
    }

    began(event) {
      if (!this.panel.chart || event.button !== 0 || event.pointerType === "touch") return;
      this.panel.plot.setPointerCapture(event.pointerId);
      this.range = [this.at(event), this.at(event)];
    }

    moved(event) {
      if (!this.range || !this.panel.chart) return;
      this.range[1] = this.at(event);
      this.panel.chart.draw();
    }

    ended(event) {
      if (!this.range) return;
      const [from, to] = this.range.sort((one, other) => one - other);
      this.range = null;
      const { chart } = this.panel;
      if (!chart) return;
      chart.draw();
      const pixels = chart.scales.x.getPixelForValue(to) - chart.scales.x.getPixelForValue(from);
      if (event.type === "pointerup" && pixels > LEAST) this.panel.select([from, to]);
    }

    // Half of what is shown, around the crosshair. Whether the key was one of ours.
    keyed(event, cursor) {
      if (event.key === "-") this.panel.select(null);
      if (event.key !== "+" || !this.panel.chart) return event.key === "-";
      const { min, max } = this.panel.chart.scales.x;
      const quarter = (max - min) / 4;
      const middle = Math.min(max - quarter, Math.max(min + quarter, cursor ?? min + 2 * quarter));
      this.panel.select([middle - quarter, middle + quarter]);
      return true;
    }

    draw(ctx, area, x) {
      if (!this.range) return;
      const [from, to] = this.range.map((value) =>
        Math.min(area.right, Math.max(area.left, x.getPixelForValue(value))),
      );
      ctx.save();
      ctx.globalAlpha = 0.18;
      ctx.fillStyle = getComputedStyle(document.documentElement)
        .getPropertyValue("--series-1")
        .trim();
      ctx.fillRect(from, area.top, to - from, area.bottom - area.top);
      ctx.restore();
    }
  }

  window.DXCharts.Zoom = Zoom;
})();
