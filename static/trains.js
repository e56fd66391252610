// The list of trains: values swapped in place, new trains held back behind a button, and the choice for Compare.
(() => {
  "use strict";
  const { api, poll, confirm } = DX;
  const list = document.querySelector(".list-card");
  if (!list) return;
  const bar = document.getElementById("compare-bar");
  const chosen = new Map(JSON.parse(sessionStorage.getItem("compare") || "[]"));
  const rows = () => [...document.querySelectorAll("#trains tr[data-train]")];

  // Only what changed is touched, so that the focus and what is selected stay.
  const shown = new WeakMap();
  function swap(element, html) {
    if (!element || shown.get(element) === html) return;
    shown.set(element, html);
    window.Idiomorph.morph(element, html, { morphStyle: "innerHTML" });
  }

  async function turn() {
    const query = new URLSearchParams(location.search);
    query.set(
      "ids",
      rows()
        .map((row) => row.dataset.train)
        .join(","),
    );
    query.set("newest", list.dataset.newest);
    const answer = await api(`${list.dataset.liveUrl}?${query}`);
    swap(document.getElementById("strip"), answer.strip);
    DX.running(answer.running);
    for (const row of rows()) {
      const cells = answer.rows[row.dataset.train];
      if (!cells) {
        gone(row);
        continue;
      }
      row.dataset.state = cells.state;
      for (const cell of row.querySelectorAll("[data-cell]")) swap(cell, cells[cell.dataset.cell]);
    }
    for (const count of document.querySelectorAll("[data-count]"))
      DX.live(count, DX.format.thousands(answer.counts[count.dataset.count]));
    const button = list.querySelector("[data-new]");
    button.hidden = !answer.new;
    DX.live(button, DX.format.counted(answer.new, "new train"));
  }

  // Deleted, or no longer shared: what the row says is no longer true, and not the reader's to see.
  function gone(row) {
    const cell = DX.make("td", { colSpan: row.cells.length, className: "quiet" });
    cell.textContent = `#${row.dataset.train} was deleted, or is no longer shared with you.`;
    row.replaceChildren(cell);
    choose(row.dataset.train, "", false);
    delete row.dataset.train;
    delete row.dataset.name;
    row.dataset.state = "gone";
  }

  const busy = () =>
    rows().some((row) => ["queued", "running", "stopping"].includes(row.dataset.state));
  const lost = document.getElementById("not-live");
  const polling = poll(turn, () => (busy() ? 2 : 5), {
    failed: (error, since) => {
      document.body.classList.add("stale");
      lost.hidden = false;
      DX.live(
        lost.querySelector("div"),
        `Not live since ${DX.format.clock(since)}: the server does not answer. Trains do not depend on this page.`,
      );
    },
    recovered: () => {
      document.body.classList.remove("stale");
      lost.hidden = true;
    },
  });
  lost.querySelector("button").addEventListener("click", () => polling.now());
  list.querySelector("[data-new]").addEventListener("click", () => location.reload());

  function drawBar() {
    const link = bar.querySelector("[data-compare]");
    const most = Number(link.dataset.most);
    const count = chosen.size;
    bar.hidden = count === 0;
    bar.querySelector("[data-chosen]").textContent = `${count} chosen`;
    bar.querySelector("ul").replaceChildren(
      ...[...chosen].slice(0, 4).map(([id, name]) => {
        const away = DX.make(
          "button",
          { type: "button", ariaLabel: `Take ${name} away` },
          DX.icon("x", "tiny"),
        );
        away.addEventListener("click", () => choose(id, name, false));
        return DX.make(
          "li",
          {},
          DX.make("span", { className: "clip", textContent: `#${id} ${name}` }),
          away,
        );
      }),
    );
    const fits = count >= 2 && count <= most;
    const words =
      count < 2
        ? "Choose one more to compare"
        : count > most
          ? `Compare at most ${most}`
          : `Compare ${count} trains`;
    link.textContent = matchMedia("(max-width: 719px)").matches ? "Compare" : words;
    link.setAttribute("aria-label", words);
    link.toggleAttribute("aria-disabled", !fits);
    if (fits) link.removeAttribute("aria-disabled");
    else link.setAttribute("aria-disabled", "true");
    link.href = `${link.pathname}?ids=${[...chosen.keys()].join(",")}`;
    const picks = [...document.querySelectorAll("[data-pick]")];
    for (const pick of picks) pick.checked = chosen.has(pick.value);
    const all = document.querySelector("[data-pick-all]");
    if (all) {
      all.checked = picks.length > 0 && picks.every((pick) => pick.checked);
      all.indeterminate = !all.checked && picks.some((pick) => pick.checked);
    }
  }

  function choose(id, name, on) {
    if (on) chosen.set(id, name);
    else chosen.delete(id);
    sessionStorage.setItem("compare", JSON.stringify([...chosen]));
    drawBar();
  }

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-pick]")) {
      choose(event.target.value, event.target.closest("tr").dataset.name, event.target.checked);
    } else if (event.target.matches("[data-pick-all]")) {
      for (const row of rows()) choose(row.dataset.train, row.dataset.name, event.target.checked);
    } else if (event.target.matches(".filter-panel select")) {
      event.target.form.requestSubmit();
    }
  });
  // Empty filters stay out of the address.
  document.querySelector(".list-tools").addEventListener("submit", (event) => {
    for (const field of event.target.elements)
      field.disabled = field.name !== "" && field.value === "";
  });
  addEventListener("pageshow", () => {
    for (const field of document.querySelector(".list-tools").elements) field.disabled = false;
  });
  bar.querySelector("[data-clear]").addEventListener("click", () => {
    chosen.clear();
    sessionStorage.removeItem("compare");
    drawBar();
  });
  bar.querySelector("[data-compare]").addEventListener("click", (event) => {
    if (event.currentTarget.getAttribute("aria-disabled")) event.preventDefault();
  });

  const QUESTIONS = {
    stop: {
      title: "Stop",
      text: "A running train finishes its current step and saves a checkpoint and its model. A waiting train leaves the queue. Curves, log and settings are kept.",
      yes: "Stop",
      no: "Keep it running",
    },
    delete: {
      title: "Delete",
      text: "Its settings, curves, log, answers, checkpoints and model are removed from this machine for good.",
      yes: "Delete",
      no: "Keep it",
    },
  };
  document.addEventListener("submit", async (event) => {
    const form = event.target.closest("form[data-ask]");
    if (!form) return;
    event.preventDefault();
    const question = QUESTIONS[form.dataset.ask];
    const row = form.closest("tr");
    const name = `${row.dataset.name} #${row.dataset.train}`;
    if (await confirm({ ...question, title: `${question.title} ${name}?`, danger: true }))
      form.submit();
  });

  // For bulk.js, which acts on what is chosen.
  window.DXTrains = {
    chosen: () => new Map(chosen),
    forget(ids) {
      for (const id of ids) chosen.delete(String(id));
      sessionStorage.setItem("compare", JSON.stringify([...chosen]));
      drawBar();
    },
  };

  // What was deleted since cannot be compared; what is on this page keeps its latest name.
  for (const row of rows())
    if (chosen.has(row.dataset.train)) chosen.set(row.dataset.train, row.dataset.name);
  drawBar();
})();
