// Parts of pages that htmx takes anew, as their own hx-attributes say ({% asks_again %} in a template). Here stands what
// those attributes cannot say: when a part that asks again and again rests, what is no answer, and what a reader has
// opened or is typing in stays as it is.
(() => {
  "use strict";
  const LONGEST_REST = 30000; // milliseconds
  const rests = new WeakMap(); // part -> {began, until, failures}

  const asksAgain = (part) => part.matches('[hx-trigger^="every"]');
  const restOf = (part) => rests.get(part) ?? { until: 0, failures: 0 };
  // Nobody's click is taken away, nor the form that a question on the page is about.
  const busy = (part) => part.matches(":has(:active)") || document.querySelector("dialog[open]");

  document.addEventListener("htmx:beforeRequest", (event) => {
    const part = event.target;
    if (!asksAgain(part)) return;
    const rest = restOf(part);
    if (document.hidden || performance.now() < rest.until || busy(part)) event.preventDefault();
    else rests.set(part, { ...rest, began: performance.now() });
  });

  // The page of another address is no part of this one: the sign-in, where the session has ended.
  const isElsewhere = ({ xhr, pathInfo }) =>
    xhr.responseURL &&
    new URL(xhr.responseURL).pathname !== new URL(pathInfo.requestPath, location.href).pathname;

  // A server that takes its time is given as much again; one that does not answer is asked ever more rarely.
  document.addEventListener("htmx:afterRequest", ({ target: part, detail }) => {
    if (!asksAgain(part)) return;
    const { began, failures } = restOf(part);
    const now = performance.now();
    const failed = detail.successful && !isElsewhere(detail) ? 0 : failures + 1;
    const pause = failed ? Math.min(1000 * 2 ** failed, LONGEST_REST) : now - began;
    rests.set(part, { until: now + pause, failures: failed });
    if (failed) unanswered(part, detail, failed);
    else answered(part);
  });

  // A page whose parts get no answer twice says so, once for all of them, below its header.
  const silent = new Map(); // part -> since when it has had no answer
  const main = document.getElementById("main");
  let strip = null;

  function unanswered(part, detail, failures) {
    if (!silent.has(part)) silent.set(part, new Date());
    if (failures < 2) return;

    const isSignedOut = isElsewhere(detail);
    if (!strip) {
      strip = DX.make("div", { className: "notice notice-amber not-live", role: "status" });
      strip.append(
        DX.icon("wifi-off"),
        DX.make("div"),
        DX.make("a", { className: "btn btn-sm", href: location.href }),
      );
      main.classList.add("stale");
      document.querySelector(".page-head").after(strip);
    }

    const [since] = silent.values();
    const reason = isSignedOut ? "You are no longer signed in." : reasonOf(detail.xhr.status);
    DX.live(strip.querySelector("div"), `Not live since ${DX.format.clock(since)}. ${reason}`);
    DX.live(strip.querySelector("a"), isSignedOut ? "Sign in" : "Reload");
  }

  const reasonOf = (status) =>
    status ? `The server answered ${status}.` : "The server does not answer.";

  function answered(part) {
    silent.delete(part);
    for (const one of silent.keys()) if (!one.isConnected) silent.delete(one);
    if (silent.size) return;

    strip?.remove();
    strip = null;
    main.classList.remove("stale");
  }

  // What could not be loaded says so where the page has words for it.
  function refuse(part) {
    const text = part?.dataset.failed;
    if (!text) return;
    const words = DX.make("span", { textContent: text });
    part.replaceChildren(DX.make("p", { className: "notice notice-red" }, words));
  }

  document.addEventListener("htmx:beforeSwap", ({ detail }) => {
    if (!isElsewhere(detail)) return;
    detail.shouldSwap = false;
    refuse(detail.target);
  });
  for (const name of ["htmx:responseError", "htmx:sendError", "htmx:timeout"])
    document.addEventListener(name, ({ detail }) => refuse(detail.target));

  // Attributes that the reader or a script has set, and of which the server knows nothing.
  const KEPT = { open: "details, dialog", tabindex: "*", "data-sent": "form", "aria-busy": ".btn" };
  window.Idiomorph.defaults.ignoreActiveValue = true;
  window.Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, element, change) =>
    !(change === "remove" && KEPT[name] && element.matches(KEPT[name]));
})();
