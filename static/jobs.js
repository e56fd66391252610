// The page of a job, of which htmx takes anew where it stands. A script that follows its log hears of its end:
// document.addEventListener("job:status", (event) => event.detail.status).
(() => {
  "use strict";
  const status = () => document.getElementById("job").dataset.state;
  let latest = status();

  document.addEventListener("htmx:afterSwap", () => {
    if (status() === latest) return;
    latest = status();
    document.dispatchEvent(new CustomEvent("job:status", { detail: { status: latest } }));
  });
})();
