// The header of a train's page, live. Other scripts of the page hear of a change of status:
//   document.addEventListener("train:status", (event) => event.detail)   the train as the API's live/ tells it
// A page whose own script follows the train (it holds #evaluation-data) passes on what it hears, so that the page has
// one connection:
//   document.dispatchEvent(new CustomEvent("train:received", { detail: train }))
//   ... "train:lost", { detail: { error, since } } and "train:heard"
(() => {
  "use strict";
  const { clock, format, live, follow } = DX;
  const ENDED = ["finished", "failed", "stopped"];
  const head = document.getElementById("train-head");
  let status = head.dataset.state;
  clock.set(head.dataset.now);
  let phase = null;
  // What a stop saves, and what the page says of it, is another matter once there is a step.
  let hasSteps = Number(head.dataset.step) > 0;
  let bestStep = null;
  let warnings = null;
  const at = (name) => document.querySelector(`[data-live="${name}"]`);

  function show(train) {
    const metrics = train.last_metrics;
    const bar = at("bar");
    const step = train.total_steps
      ? ` · step ${format.thousands(train.step)} of ${format.thousands(train.total_steps)}, epoch ${train.epoch.toFixed(2)}`
      : "";
    live(
      at("phase"),
      train.phase ? train.phase[0].toUpperCase() + train.phase.slice(1) : "Starting",
    );
    live(at("where"), step.trim());
    live(at("place"), `· ${format.ordinal(train.queue_position)} in line`);
    const wait = train.starts_in;
    if (wait) live(at("starts"), format.starts(wait));
    live(at("waits"), train.activity);
    if (bar && train.total_steps) {
      bar.value = train.progress;
      bar.textContent = format.share(train.progress);
    }
    live(at("left"), leftText(train));
    if (at("left")) at("left").title = train.eta_basis;
    live(at("beside"), train.beside);
    if (at("beside")) at("beside").hidden = !train.beside;
    live(at("loss"), format.loss(metrics[at("loss").dataset.metric]));
    figure(
      "best",
      format.loss(train.best_value),
      train.best_step === null
        ? ""
        : train.best_step
          ? `step ${format.thousands(train.best_step)}`
          : "before training",
    );
    figure(
      "speed",
      format.thousands(metrics.tokens_per_second),
      metrics.tokens_per_second === undefined ? "" : "tok/s",
    );
    live(at("tokens"), format.big(metrics.num_tokens), { unit: true });
    figure(
      "memory",
      metrics.peak_memory_gb ? metrics.peak_memory_gb.toFixed(1) : format.missing,
      metrics.peak_memory_gb ? "GB" : "",
    );
  }

  // A train that stops ends sooner than was estimated.
  function leftText(train) {
    if (train.status === "stopping") return train.activity;
    const left = format.timeLeft(train.eta_seconds);
    if (!left || train.eta_seconds < 1 || !matchMedia("(min-width: 992px)").matches) return left;
    return `${left}, done around ${format.clock(clock.now() + train.eta_seconds * 1000)}`;
  }

  function figure(name, number, unit) {
    const element = at(name);
    if (!element || element.textContent.trim() === `${number} ${unit}`.trim()) return;
    element.replaceChildren(
      number,
      ...(unit ? [" ", DX.make("span", { className: "unit", textContent: unit })] : []),
    );
  }

  // The train's own dialogs: the search's is the same on every page, and its script holds it.
  const DIALOGS = "dialog[id]:not(#search-dialog)";

  // Buttons, figures and cards differ from status to status, so those parts of the page are fetched again. What stays is
  // left alone: an open menu, the focus, a button that is being pressed.
  async function refresh() {
    const page = await DX.html(location.href);
    if (page === null) return;
    const fresh = new DOMParser().parseFromString(page, "text/html");
    DX.running(Number(fresh.querySelector("[data-running]")?.textContent.replace(/,/g, "") || 0));
    for (const part of document.querySelectorAll("[data-refresh]")) {
      const next = fresh.getElementById(part.id);
      if (next && !part.contains(document.activeElement?.closest("input, textarea")))
        window.Idiomorph.morph(part, next, { morphStyle: "outerHTML" });
    }
    for (const dialog of document.querySelectorAll(`${DIALOGS}:not([open])`)) {
      const next = fresh.getElementById(dialog.id);
      if (next) dialog.replaceWith(document.adoptNode(next));
      else dialog.remove();
    }
    for (const next of fresh.querySelectorAll(DIALOGS)) {
      if (!document.getElementById(next.id)) document.body.append(document.adoptNode(next));
    }
  }

  const WORDS = {
    finished: ["has succeeded.", "success"],
    failed: ["has failed.", "error"],
    stopped: ["has stopped.", "warning"],
    running: ["has started.", "success"],
  };

  async function take(train) {
    const changed = train.status !== status;
    const moved = phase !== null && train.phase !== phase;
    const saved = bestStep !== null && train.best_step !== bestStep;
    const began = train.step > 0 && !hasSteps;
    const warned = warnings !== null && train.warnings.length !== warnings;
    if (changed || moved || saved || began || warned) await refresh();
    // Only now: where the page could not be fetched anew, the next answer has it fetched again.
    status = train.status;
    phase = train.phase;
    hasSteps = train.step > 0;
    bestStep = train.best_step;
    warnings = train.warnings.length;
    if (!ENDED.includes(status)) show(train);
    if (changed && WORDS[status]) DX.toast(`${train.name} ${WORDS[status][0]}`, WORDS[status][1]);
    if (changed) document.dispatchEvent(new CustomEvent("train:status", { detail: train }));
  }

  function lost(error, since) {
    const strip = document.getElementById("not-live");
    strip.hidden = false;
    strip.querySelector("div").textContent =
      `Not live since ${format.clock(since)}. ${DX.reasonOf(error)} The train does not depend on this page.`;
    document.getElementById("train-progress").classList.add("stale");
  }

  function recovered() {
    document.getElementById("not-live").hidden = true;
    document.getElementById("train-progress").classList.remove("stale");
  }

  if (!ENDED.includes(status)) {
    const isFollowed = document.getElementById("evaluation-data") !== null;
    const following = isFollowed
      ? null
      : follow(
          () => head.dataset.events,
          ({ train }) => take(train),
          { failed: lost, recovered, allowed: () => DX.api(head.dataset.liveUrl) },
        );
    let taking = Promise.resolve();
    document.addEventListener("train:received", ({ detail }) => {
      taking = taking.then(() => take(detail)).then(recovered, (error) => lost(error, new Date()));
    });
    document.addEventListener("train:lost", ({ detail }) => lost(detail.error, detail.since));
    document.addEventListener("train:heard", recovered);
    document.addEventListener("click", (event) => {
      if (event.target.closest("[data-try-now]"))
        following ? following.now() : document.dispatchEvent(new CustomEvent("train:try-now"));
    });
    setInterval(() => {
      const elapsed = at("elapsed");
      if (elapsed?.dataset.since && !ENDED.includes(status))
        live(
          elapsed,
          format.duration(
            Number(elapsed.dataset.earlier || 0) + clock.since(elapsed.dataset.since),
          ),
        );
    }, 1000);
  }
})();
