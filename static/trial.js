// Try these rewards: sends the form as it stands, waits for the scores, and shows them beside the answers. Answers can be
// edited and scored again.
(() => {
  "use strict";
  const { api, icon, make, poll, live } = window.DX;
  const holder = document.querySelector("[data-trial]");
  const form = document.querySelector("form.train-form");
  const button = holder.querySelector("[data-trial-run]");
  const note = holder.querySelector("[data-trial-note]");
  const error = holder.querySelector("[data-trial-error]");
  const result = holder.querySelector("[data-trial-result]");
  const usual = note.textContent;
  let polling = null;

  function busy(text) {
    button.setAttribute("aria-busy", String(Boolean(text)));
    button.disabled = Boolean(text);
    live(note, text || usual);
  }

  function fail(text) {
    busy("");
    error.hidden = !text;
    error.querySelector("div").textContent = text;
  }

  async function start(answers) {
    fail("");
    busy(answers ? "Scoring …" : "The base model is answering …");
    const body = new URLSearchParams(new FormData(form));
    body.delete("trial-answer");
    for (const text of answers ?? []) body.append("trial-answer", text);
    try {
      const response = await fetch(holder.dataset.trial, { method: "POST", body, headers: { Accept: "application/json" } });
      const answer = await response.json();
      if (!response.ok) return fail(answer.error);
      const begun = Date.now();
      polling = poll(() => look(answer.url, begun), () => (button.disabled ? 0.7 : null), { failed: (problem) => fail(problem.message) });
    } catch (problem) {
      fail(`The server could not be reached. ${problem.message}`);
    }
  }

  async function look(url, begun) {
    const found = await api(url);
    if (!found.done) {
      const seconds = Math.round((Date.now() - begun) / 1000);
      if (seconds > 3) live(note, `The base model is answering … ${seconds} s`);
      return;
    }
    if (found.error) return fail(found.error);
    busy("");
    show(found.answers);
  }

  const titles = () => new Map([...holder.closest("[data-rewards]").querySelectorAll("template[data-reward]")].map((item) => [item.dataset.reward, item.content.querySelector("strong").textContent]));

  function show(answers) {
    const names = Object.keys(answers[0]?.rewards ?? {});
    const known = titles();
    const title = (name) => known.get(name) ?? known.get(name.replace(/_\d+$/, "")) ?? name;
    const head = make("tr", {}, ...["Prompt", "Answer", ...names.map(title), "Reward"].map((text, index) => make("th", { scope: "col", className: index > 1 ? "num" : "", textContent: text })));
    const rows = answers.map((answer, index) => make("tr", {},
      make("td", {}, make("p", { className: "answer-text", textContent: answer.prompt.at(-1)?.content ?? "" }), ...(answer.reference ? [make("p", { className: "small faint answer-text", textContent: `Reference: ${answer.reference}` })] : [])),
      make("td", {}, make("textarea", { className: "form-control", rows: 5, value: answer.text, ariaLabel: `Answer ${index + 1}`, spellcheck: false })),
      ...names.map((name) => score(answer.rewards[name])),
      make("td", { className: "num" }, make("strong", { textContent: answer.total === null ? "–" : answer.total.toFixed(2) }))));
    const again = make("button", { type: "button", className: "btn btn-sm" }, icon("refresh"), make("span", { textContent: "Score these answers" }));
    again.addEventListener("click", () => start([...result.querySelectorAll("textarea")].map((box) => box.value)));
    result.replaceChildren(make("table", { className: "table trial-table" }, make("thead", {}, head), make("tbody", {}, ...rows)), make("div", { className: "row-line" }, again, make("span", { className: "small quiet", textContent: "Change an answer to see what it would be worth." })));
    result.hidden = false;
  }

  function score(found) {
    if (found.value !== null) return make("td", { className: "num", textContent: found.value.toFixed(2) });
    return make("td", { className: "num" }, "–", make("span", { className: "small warn block", textContent: found.error }));
  }

  button.addEventListener("click", () => start(null));
  addEventListener("pagehide", () => polling?.stop?.());
})();
