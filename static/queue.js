// The queue page: what runs and waits is taken anew every few seconds, and a stop asks first.
(() => {
  "use strict";
  const { poll, confirm } = DX;
  const part = document.getElementById("queue");
  let latest = null;

  // Nobody's menu, focus or click is taken away: the new rows wait until the hand is off the page.
  const busy = () =>
    part.contains(document.activeElement) ||
    part.matches(":has(:active)") ||
    document.querySelector("dialog[open]");

  async function turn() {
    const response = await fetch(part.dataset.url, { credentials: "same-origin" });
    if (!response.ok || response.redirected)
      throw new Error(`The server answered ${response.status}.`);
    const html = await response.text();
    const plain = html.replace(/name="csrfmiddlewaretoken" value="[^"]*"/g, "");
    if (plain === latest || (latest !== null && busy())) return;
    if (latest !== null) part.innerHTML = html;
    latest = plain;
  }

  poll(turn, 4);

  const QUESTIONS = {
    running: {
      text: "It finishes its step and saves a checkpoint and its model. Curves, log and settings are kept.",
      yes: "Save and stop",
      no: "Keep training",
    },
    waiting: {
      text: "It leaves the queue. Its settings are kept, so that you can copy it.",
      yes: "Stop",
      no: "Keep waiting",
    },
  };
  // Before app.js hears of it, which takes a form that is sent for sent.
  document.addEventListener(
    "submit",
    async (event) => {
      const form = event.target.closest("form[data-ask]");
      if (!form) return;
      event.preventDefault();
      const name = form.querySelector("[data-name]").dataset.name;
      if (await confirm({ ...QUESTIONS[form.dataset.ask], title: `Stop ${name}?`, danger: true }))
        form.submit();
    },
    { capture: true },
  );
})();
