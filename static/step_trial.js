// Try one step: sends the form as it stands, waits for what the step took, and has the forecast asked again.
(() => {
  "use strict";
  const { api, live, poll } = window.DX;
  const form = document.querySelector("form.train-form");
  const summary = document.querySelector("[data-summary]");
  const said = document.querySelector("[data-step-said]");
  let url = "",
    note = "",
    running = false;

  const part = (name) => summary.querySelector(`[data-step-${name}]`);

  // The bar may have been drawn anew meanwhile, so each part is looked up again.
  function show() {
    if (!part("run")) return;
    part("run").disabled = running;
    part("run").setAttribute("aria-busy", String(running));
    // Until it is known by an address there is nothing to cancel.
    part("cancel").hidden = !running || !url;
    if (note) live(part("note"), note);
  }

  // Seconds that pass are for the eye alone.
  function say(text, isRunning) {
    if (!isRunning || !running) live(said, text);
    note = text;
    running = isRunning;
    show();
  }

  async function start(address) {
    url = "";
    say("Waiting for a worker …", true);
    try {
      const response = await fetch(address, {
        method: "POST",
        body: new URLSearchParams(new FormData(form)),
        headers: { Accept: "application/json" },
      });
      const answer = await response.json();
      if (!response.ok) return say(answer.error, false);
      url = answer.url;
      show();
      const began = Date.now();
      poll(
        () => look(began),
        () => (running ? 1 : null),
        { failed: (problem) => say(problem.message, false) },
      );
    } catch (problem) {
      say(`The server could not be reached. ${problem.message}`, false);
    }
  }

  async function look(began) {
    const step = await api(url);
    if (!step.done)
      return say(`Making one step … ${Math.round((Date.now() - began) / 1000)} s`, true);
    say(step.error || result(step), false);
    document.dispatchEvent(new CustomEvent("step:done"));
  }

  function result(step) {
    const memory = `${(step.peak_bytes / 2 ** 30).toFixed(1)} GB`;
    return step.step_seconds === null
      ? `One step took ${memory}. A train ran beside it, so its time says nothing.`
      : `One step took ${memory} and ${step.step_seconds.toFixed(1)} s.`;
  }

  summary.addEventListener("click", async (event) => {
    const holder = event.target.closest("[data-step-trial]");
    if (!holder) return;
    if (event.target.closest("[data-step-run]") && !running) await start(holder.dataset.stepTrial);
    else if (event.target.closest("[data-step-cancel]") && url) {
      try {
        await api(url, { method: "DELETE" });
      } catch (problem) {
        say(problem.message, false);
      }
    }
  });
  document.addEventListener("forecast:shown", show);
})();
