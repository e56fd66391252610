// The list of trains: what is done with all that are ticked, and which columns are shown.
(() => {
  "use strict";
  const { api, icon, make, toast } = DX;
  const dialog = document.getElementById("bulk-dialog");
  const SAID = "bulk-said";
  const WORDS = {
    stop: { verb: "Stop", doing: "Stopping …", done: "stopped", danger: true },
    delete: { verb: "Delete", doing: "Deleting …", done: "deleted", danger: true },
    label: { verb: "Add the label to", doing: "Saving …", done: "labelled", danger: false },
    unlabel: { verb: "Remove the label from", doing: "Saving …", done: "changed", danger: false },
  };
  const trains = (count) => `${DX.format.thousands(count)} train${count === 1 ? "" : "s"}`;

  // What was done is said on the page that shows it.
  const said = sessionStorage.getItem(SAID);
  sessionStorage.removeItem(SAID);
  if (said) toast(said);

  if (dialog) bulk();
  columns();

  function bulk() {
    const form = dialog.querySelector("form");
    const list = dialog.querySelector("[data-bulk-list]");
    const error = dialog.querySelector("[data-bulk-error]");
    const go = dialog.querySelector("[data-bulk-go]");
    const cancel = dialog.querySelector("[data-bulk-cancel]");
    const title = dialog.querySelector("h2");
    const words = dialog.querySelector("[data-bulk-words]");
    const input = words.querySelector("input");
    let action = "",
      ids = [],
      asked = 0,
      finished = false,
      changed = false;

    const wantsWords = () => action === "label" || action === "unlabel";
    const request = (check_only) => ({
      method: "POST",
      body: { action, ids, check_only, ...(wantsWords() ? { labels: [input.value] } : {}) },
    });

    function line(item, picture, kind) {
      const name = make("span", {
        className: "bulk-name",
        textContent: item.name ? `${item.name} #${item.id}` : `#${item.id}`,
      });
      return make(
        "li",
        { className: kind },
        icon(picture),
        make(
          "div",
          {},
          name,
          make("span", { className: "small quiet block", textContent: item.message }),
        ),
      );
    }

    function show(answer, done) {
      const picture = done
        ? "check"
        : action === "delete"
          ? "trash"
          : action === "stop"
            ? "player-stop"
            : "tag";
      list.replaceChildren(
        ...answer.done.map((item) => line(item, picture, "will")),
        ...answer.failed.map((item) =>
          line(item, done ? "alert-circle" : "minus", done ? "bad" : "will-not"),
        ),
      );
    }

    function refuse(text) {
      error.hidden = !text;
      error.textContent = text;
    }

    // What would happen to each train, asked of the server.
    async function plan() {
      const number = ++asked;
      refuse("");
      if (wantsWords() && !input.value.trim()) {
        list.replaceChildren();
        go.disabled = true;
        go.textContent = `${WORDS[action].verb} ${trains(ids.length)}`;
        return;
      }
      try {
        const answer = await api(dialog.dataset.url, request(true));
        if (number !== asked) return;
        show(answer, false);
        go.disabled = answer.done.length === 0;
        go.textContent = answer.done.length
          ? `${WORDS[action].verb} ${trains(answer.done.length)}`
          : "Nothing to do";
      } catch (problem) {
        if (number !== asked) return;
        list.replaceChildren();
        go.disabled = true;
        refuse(problem.message);
      }
    }

    function open(wanted) {
      action = wanted;
      ids = [...DXTrains.chosen().keys()].map(Number);
      finished = false;
      changed = false;
      title.textContent = `${WORDS[action].verb} ${trains(ids.length)}?`;
      words.hidden = !wantsWords();
      input.value = "";
      cancel.textContent = "Cancel";
      go.hidden = false;
      go.disabled = true;
      go.textContent = `${WORDS[action].verb} ${trains(ids.length)}`;
      go.className = `btn ${WORDS[action].danger ? "btn-danger-text" : "btn-primary"}`;
      list.replaceChildren();
      document.querySelector(".bulk-menu").open = false;
      dialog.showModal();
      (wantsWords() ? input : cancel).focus();
      plan();
    }

    async function apply() {
      go.disabled = true;
      go.setAttribute("aria-busy", "true");
      const verb = go.textContent;
      go.textContent = WORDS[action].doing;
      try {
        const answer = await api(dialog.dataset.url, request(false));
        changed = answer.done.length > 0;
        if (action === "delete") DXTrains.forget(answer.done.map((item) => item.id));
        if (!answer.failed.length) return leave(answer);
        finished = true;
        title.textContent = `${trains(answer.done.length)} ${WORDS[action].done}, ${DX.format.thousands(answer.failed.length)} not`;
        show(answer, true);
        words.hidden = true;
        go.hidden = true;
        cancel.textContent = "Close";
        title.focus();
      } catch (problem) {
        refuse(problem.message);
        go.disabled = false;
        go.textContent = verb;
      } finally {
        go.removeAttribute("aria-busy");
      }
    }

    function leave(answer) {
      sessionStorage.setItem(SAID, `${trains(answer.done.length)} ${WORDS[action].done}.`);
      location.reload();
    }

    let typing = null;
    input.addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(plan, 200);
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!go.disabled && !go.hidden) apply();
    });
    cancel.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => {
      asked += 1;
      if (finished && changed) location.reload();
    });
    for (const button of document.querySelectorAll("[data-bulk]")) {
      button.addEventListener("click", () => open(button.dataset.bulk));
    }
  }

  // Columns: a tick shows or hides at once, and is kept for this person.
  function columns() {
    const form = document.querySelector("[data-columns]");
    const table = document.getElementById("trains");
    if (!form) return;
    form.addEventListener("change", async () => {
      const boxes = [...form.querySelectorAll('input[type="checkbox"]')];
      for (const box of boxes) table?.classList.toggle(`no-${box.dataset.css}`, !box.checked);
      const shown = boxes.filter((box) => box.checked).map((box) => box.value);
      try {
        await api(form.dataset.columns, { method: "PUT", body: { columns: shown } });
      } catch (problem) {
        toast(`Your choice of columns was not saved. ${problem.message}`, "error");
      }
    });
  }
})();
