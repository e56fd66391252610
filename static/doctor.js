// Findings that open in place: the row and the repair are loaded when somebody opens one, and the next row when
// somebody steps on. Without this script the same links load the page with the finding open.
(() => {
  "use strict";
  const { make } = DX;

  const notice = (text) => {
    const box = make("p", { className: "notice notice-amber" });
    box.append(make("span", { className: "problem-text", textContent: text }));
    return box;
  };

  async function load(finding, row) {
    const panel = finding.querySelector("[data-panel]");
    panel.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(`${finding.dataset.url}?row=${row}`, {
        credentials: "same-origin",
      });
      if (!answer.ok) throw new Error(`The server answered ${answer.status}.`);
      panel.innerHTML = await answer.text();
      finding.dataset.loaded = row;
      remember(finding, row);
    } catch {
      panel.replaceChildren(notice("The rows could not be loaded. Load the page again."));
    } finally {
      panel.removeAttribute("aria-busy");
    }
  }

  // The address names what is open, so that it can be shared and come back to.
  function remember(finding, row) {
    const address = new URL(location.href);
    if (finding) {
      address.searchParams.set("finding", finding.id.replace(/^finding-/, ""));
      address.searchParams.set("row", row);
    } else {
      address.searchParams.delete("finding");
      address.searchParams.delete("row");
    }
    history.replaceState(null, "", address);
  }

  for (const finding of document.querySelectorAll("details.finding[data-url]")) {
    if (finding.open) finding.dataset.loaded = "1";

    finding.addEventListener("toggle", () => {
      if (!finding.open) {
        if (!document.querySelector("details.finding[open]")) remember(null);
        return;
      }
      // One finding at a time, so that the list stays short.
      for (const other of document.querySelectorAll("details.finding[open]")) {
        if (other !== finding) other.open = false;
      }
      if (!finding.dataset.loaded) load(finding, 1);
    });

    finding.addEventListener("click", async (event) => {
      const step = event.target.closest("[data-step]");
      if (!step || event.metaKey || event.ctrlKey) return;
      event.preventDefault();
      const label = step.getAttribute("aria-label");
      await load(finding, step.dataset.step);
      const next =
        finding.querySelector(`[data-step][aria-label="${label}"]`) ||
        finding.querySelector("[data-step]");
      next?.focus();
    });
  }
})();
