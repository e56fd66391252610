// Try these rewards: sends the form as it stands, shows each answer with its scores as it comes. Answers can be edited and
// scored again.
(() => {
  "use strict";
  const { api, icon, make, poll, live } = window.DX;
  const holder = document.querySelector("[data-trial]");
  const form = document.querySelector("form.train-form");
  const button = holder.querySelector("[data-trial-run]");
  const note = holder.querySelector("[data-trial-note]");
  const error = holder.querySelector("[data-trial-error]");
  const result = holder.querySelector("[data-trial-result]");
  const cancel = holder.querySelector("[data-trial-cancel]");
  const said = holder.querySelector("[data-trial-said]");
  const usual = note.textContent.trim();
  let polling = null,
    url = "",
    shown = 0;

  function busy(text) {
    button.setAttribute("aria-busy", String(Boolean(text)));
    button.disabled = Boolean(text);
    cancel.hidden = !text;
    cancel.disabled = false;
    live(note, text || usual);
  }

  // `kept`: there are answers all the same, so that it is no more than a warning.
  function fail(text, kept = false) {
    busy("");
    error.hidden = !text;
    error.classList.toggle("notice-red", !kept);
    error.classList.toggle("notice-amber", kept);
    error.querySelector("div").textContent = text;
  }

  async function start(answers) {
    fail("");
    shown = 0;
    url = "";
    busy(answers ? "Scoring …" : "The base model is answering …");
    const body = new URLSearchParams(new FormData(form));
    body.delete("trial-answer");
    for (const text of answers ?? []) body.append("trial-answer", text);
    try {
      const response = await fetch(holder.dataset.trial, {
        method: "POST",
        body,
        headers: { Accept: "application/json" },
      });
      const answer = await response.json();
      if (!response.ok) return fail(answer.error);
      url = answer.url;
      const begun = Date.now();
      polling = poll(
        () => look(begun),
        () => (button.disabled ? 0.7 : null),
        { failed: (problem) => fail(problem.message) },
      );
    } catch (problem) {
      fail(`The server could not be reached. ${problem.message}`);
    }
  }

  async function look(begun) {
    const trial = await api(url);
    if (trial.answers.length !== shown || trial.done) show(trial.answers, trial.done);
    shown = trial.answers.length;
    if (!trial.done) {
      const seconds = Math.round((Date.now() - begun) / 1000);
      const place = trial.rows
        ? `Answer ${Math.min(shown + 1, trial.rows)} of ${trial.rows}`
        : "Answering";
      return live(note, `${place} … ${seconds > 3 ? `${seconds} s` : ""}`.trim());
    }
    fail(trial.error, shown > 0);
    const end = trial.cancelled ? `Cancelled. ${shown} of ${trial.rows} rows were answered.` : "";
    if (end) live(note, end);
    live(said, end || trial.error || `${shown} answers are scored.`);
  }

  cancel.addEventListener("click", async () => {
    cancel.disabled = true;
    try {
      await api(url, { method: "DELETE" });
    } catch (problem) {
      fail(problem.message);
    }
  });

  const titles = () =>
    new Map(
      [...holder.closest("[data-rewards]").querySelectorAll("template[data-reward]")].map(
        (item) => [item.dataset.reward, item.content.querySelector("strong").textContent],
      ),
    );

  function show(answers, done) {
    if (!answers.length) {
      result.hidden = true;
      return;
    }
    const names = Object.keys(answers[0]?.rewards ?? {});
    const known = titles();
    const title = (name) => known.get(name) ?? known.get(name.replace(/_\d+$/, "")) ?? name;
    const head = make(
      "tr",
      {},
      ...["Prompt", "Answer", ...names.map(title), "Reward"].map((text, index) =>
        make("th", { scope: "col", className: index > 1 ? "num" : "", textContent: text }),
      ),
    );
    const rows = answers.map((answer, index) =>
      make(
        "tr",
        {},
        make(
          "td",
          {},
          make("p", { className: "answer-text", textContent: answer.prompt.at(-1)?.content ?? "" }),
          ...(answer.reference
            ? [
                make("p", {
                  className: "small faint answer-text",
                  textContent: `Reference: ${answer.reference}`,
                }),
              ]
            : []),
        ),
        make(
          "td",
          {},
          make("textarea", {
            className: "form-control",
            rows: 5,
            value: answer.text,
            ariaLabel: `Answer ${index + 1}`,
            spellcheck: false,
            readOnly: !done,
          }),
        ),
        ...names.map((name) => score(answer.rewards[name])),
        make(
          "td",
          { className: "num" },
          make("strong", { textContent: answer.total === null ? "–" : answer.total.toFixed(2) }),
        ),
      ),
    );
    const again = make(
      "button",
      { type: "button", className: "btn btn-sm" },
      icon("refresh"),
      make("span", { textContent: "Score these answers" }),
    );
    again.addEventListener("click", () =>
      start([...result.querySelectorAll("textarea")].map((box) => box.value)),
    );
    result.replaceChildren(
      make(
        "table",
        { className: "table trial-table" },
        make("thead", {}, head),
        make("tbody", {}, ...rows),
      ),
      ...(done
        ? [
            make(
              "div",
              { className: "row-line" },
              again,
              make("span", {
                className: "small quiet",
                textContent: "Change an answer to see what it would be worth.",
              }),
            ),
          ]
        : []),
    );
    result.hidden = false;
  }

  function score(found) {
    if (found.value !== null)
      return make("td", { className: "num", textContent: found.value.toFixed(2) });
    return make(
      "td",
      { className: "num" },
      "–",
      make("span", { className: "small warn block", textContent: found.error }),
    );
  }

  button.addEventListener("click", () => start(null));
  addEventListener("pagehide", () => polling?.stop?.());
})();
