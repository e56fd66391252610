// The pages of jobs: what changes is taken anew every few seconds, and what ends a job asks first. A script that follows
// the log of one job hears of its end: document.addEventListener("job:status", (event) => event.detail.status).
(() => {
  "use strict";
  const { poll, confirm } = DX;
  const ENDED = ["finished", "failed", "stopped"];
  const part = document.querySelector("[data-part-url]");
  let latest = null;

  const state = () => part.querySelector("[data-state]")?.dataset.state;

  // Nobody's focus, click or selection is taken away: what is new waits until the hand is off the page.
  const selection = getSelection();
  const busy = () =>
    part.contains(document.activeElement) ||
    (!selection.isCollapsed && part.contains(selection.anchorNode)) ||
    part.matches(":has(:active)") ||
    document.querySelector("dialog[open]");

  async function turn() {
    const response = await fetch(part.dataset.partUrl, { credentials: "same-origin" });
    if (!response.ok || response.redirected)
      throw new Error(`The server answered ${response.status}.`);
    const html = await response.text();
    const plain = html.replace(/name="csrfmiddlewaretoken" value="[^"]*"/g, "");
    if (plain === latest || busy()) return;
    const before = state();
    part.innerHTML = html;
    latest = plain;
    if (state() !== before)
      document.dispatchEvent(new CustomEvent("job:status", { detail: { status: state() } }));
  }

  // Nothing changes about one job that has ended.
  if (!ENDED.includes(state())) poll(turn, () => (ENDED.includes(state()) ? null : 4));

  // Before app.js hears of it, which takes a form that is sent for sent.
  document.addEventListener(
    "submit",
    async (event) => {
      const form = event.target.closest("form[data-question]");
      if (!form) return;
      event.preventDefault();
      const { question, text, yes = "Stop", no = "Cancel" } = form.dataset;
      if (await confirm({ title: question, text, yes, no, danger: true })) form.submit();
    },
    { capture: true },
  );
})();
