// Short messages at the edge of the window. They leave by themselves, but errors stay until they are closed, and all
// stay while somebody points at them or has the focus there. The same message again is counted. They stand in the
// corner in which they cover least of what can be clicked, and never on a bar or on the page's main button.
(() => {
  "use strict";
  const box = document.getElementById("toasts");
  if (!box) return;

  const SECONDS = { success: 5, info: 5, warning: 8 };
  const SECONDS_A_CHARACTER = 0.05;
  const MOST = 3;
  const PICTURES = { success: "circle-check", error: "alert-circle", warning: "alert-triangle" };
  const CORNERS = ["bottom-right", "bottom-left", "top-right", "top-left"];
  const CONTROLS = "a[href], button, input, select, textarea, summary";
  const BARS = ".compare-bar, .run-bar";
  const timers = new Map();

  const toasts = () => [...box.querySelectorAll(".toast")];
  const kindOf = (toast) =>
    ["error", "warning", "success"].find((kind) => toast.classList.contains(kind)) || "info";
  const textOf = (toast) => toast.querySelector(".toast-text").textContent.trim();
  const held = () => box.matches(":hover, :focus-within") || document.hidden;

  // Leaving
  function start(toast) {
    clearTimeout(timers.get(toast));
    const seconds = SECONDS[kindOf(toast)];
    if (seconds === undefined || held()) return;
    const stays = seconds + textOf(toast).length * SECONDS_A_CHARACTER;
    timers.set(
      toast,
      setTimeout(() => remove(toast), stays * 1000),
    );
  }

  const startAll = () => toasts().forEach(start);
  const stopAll = () => timers.forEach((timer) => clearTimeout(timer));

  function remove(toast) {
    const focused = toast.contains(document.activeElement);
    clearTimeout(timers.get(toast));
    timers.delete(toast);
    toast.remove();
    if (focused)
      (box.querySelector(".close") || document.getElementById("main")).focus({
        preventScroll: true,
      });
    place();
  }

  function makeRoom() {
    const all = toasts();
    for (const extra of all.slice(0, Math.max(0, all.length - MOST))) {
      remove(all.find((toast) => toast.isConnected && kindOf(toast) !== "error") || extra);
    }
  }

  // Saying: a live region speaks only of what changes in it.
  function announce(text, kind) {
    const region = document.getElementById(kind === "error" ? "toast-alert" : "toast-status");
    region.textContent = "";
    setTimeout(() => {
      region.textContent = text;
    }, 100);
  }

  function show(text, kind = "success") {
    const same = toasts().find((toast) => textOf(toast) === text && kindOf(toast) === kind);
    const toast = same ? counted(same) : added(text, kind);
    announce(text, kind);
    makeRoom();
    start(toast);
    place();
    return toast;
  }

  function added(text, kind) {
    const toast = DX.make(
      "div",
      { className: `toast ${kind}` },
      DX.icon(PICTURES[kind] || "info-circle"),
      DX.make("div", { className: "toast-text", textContent: text }),
      DX.make("button", { className: "close", type: "button", ariaLabel: "Close" }, DX.icon("x")),
    );
    box.append(toast);
    return toast;
  }

  function counted(toast) {
    const times = Number(toast.dataset.times || 1) + 1;
    toast.dataset.times = times;
    let badge = toast.querySelector(".toast-count");
    if (!badge) {
      badge = DX.make("span", { className: "toast-count" });
      toast.querySelector(".toast-text").after(badge);
    }
    badge.textContent = `${times}×`;
    return toast;
  }

  // Where
  function shown(element) {
    const area = element.getBoundingClientRect();
    const inWindow =
      area.width &&
      area.bottom > 0 &&
      area.top < innerHeight &&
      area.right > 0 &&
      area.left < innerWidth;
    return inWindow && element.checkVisibility({ visibilityProperty: true }) ? area : null;
  }

  function covers(area, other) {
    return (
      area.left < other.right &&
      other.left < area.right &&
      area.top < other.bottom &&
      other.top < area.bottom
    );
  }

  function place() {
    const space = toasts().length ? box.offsetHeight + 24 : 0;
    document.documentElement.style.setProperty("--toasts-space", `${space}px`);
    if (!space) return;
    const bars = [...document.querySelectorAll(BARS)].map(shown).filter(Boolean);
    const lifted = Math.max(0, ...bars.map((bar) => innerHeight - bar.top));
    box.style.setProperty("--toasts-lifted", `${lifted}px`);

    const controls = [...document.querySelectorAll(CONTROLS)]
      .filter((control) => !box.contains(control))
      .map((control) => ({
        area: shown(control),
        weight: control.matches(".btn-primary, .btn-danger-text") ? 100 : 1,
      }))
      .filter((control) => control.area);

    let best = null;
    for (const corner of CORNERS) {
      box.dataset.corner = corner;
      const area = box.getBoundingClientRect();
      const cost = controls.reduce(
        (sum, control) => sum + (covers(area, control.area) ? control.weight : 0),
        0,
      );
      if (!best || cost < best.cost) best = { corner, cost };
      if (cost === 0) break;
    }
    box.dataset.corner = best.corner;
  }

  let waiting = null;
  function placeSoon() {
    clearTimeout(waiting);
    waiting = setTimeout(place, 150);
  }

  box.addEventListener("click", (event) => {
    if (event.target.closest(".close")) remove(event.target.closest(".toast"));
  });
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape") remove(event.target.closest(".toast"));
  });
  box.addEventListener("pointerenter", stopAll);
  box.addEventListener("focusin", stopAll);
  box.addEventListener("pointerleave", startAll);
  box.addEventListener("focusout", () => setTimeout(startAll));
  document.addEventListener("visibilitychange", () => (document.hidden ? stopAll() : startAll()));
  for (const name of ["scroll", "resize"]) addEventListener(name, placeSoon, { passive: true });
  // A click may open what stands below: the bar of chosen trains, a menu.
  for (const name of ["click", "change", "toggle"])
    document.addEventListener(name, placeSoon, true);

  window.DXToasts = { show };

  // What the server had to say with this page.
  for (const toast of toasts()) {
    announce(textOf(toast), kindOf(toast));
    start(toast);
  }
  makeRoom();
  place();
})();
