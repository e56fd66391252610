// The queue page: a stop asks first. What runs and waits is taken anew by htmx.
(() => {
  "use strict";
  const { confirm } = DX;

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
