// DXTools: calls of tools as elements, and the fields in which a person writes what they returned.
(() => {
  "use strict";
  const { make, icon } = DX;

  const SHORT = 60; // characters: JSON that fits a line stays on one
  const LINE = 40; // characters of a line, in a narrow pane

  function readable(text) {
    try {
      const value = JSON.parse(text);
      return text.length <= SHORT ? text.trim() : JSON.stringify(value, null, 2);
    } catch {
      return text;
    }
  }

  // A call, with what it returned or with the field for that; null for neither.
  function call({ function: called = {} }, below) {
    const head = make("strong", { textContent: called.name || "" });
    const given = readable(called.arguments || "");
    const body = make("pre", { className: "code scroll", textContent: given });
    const box = make("div", { className: "answer-call" }, icon("tool"), head, body);
    if (below) box.append(below);
    return box;
  }

  function returned({ content }) {
    return make(
      "div",
      { className: "answer-result" },
      make("span", { className: "small quiet", textContent: "Result" }),
      make("pre", { className: "code scroll", textContent: readable(content) }),
    );
  }

  // Fields for the results of an answer's calls. calls: all of them; waiting: ids of those that the model is told.
  // results: as they were, to be changed. send(results): resolves when that is over. `count`: a DXCount.Count of what
  // is sent, null where nothing is counted.
  class Results {
    constructor(options) {
      const { calls, waiting, results = [], send, cancel = null, note } = options;
      Object.assign(this, { send, count: null, fields: new Map() });
      this.key = waiting.join("\n");
      this.element = make("form", { className: "answer-results", noValidate: true });
      const before = new Map(results.map((one) => [one.tool_call_id, one.content]));
      for (const one of calls)
        this.element.append(
          call(one, waiting.includes(one.id) ? this.field(one, before.get(one.id)) : null),
        );
      const button = make("button", { type: "submit", className: "btn btn-sm btn-primary" });
      button.append(icon("send"), waiting.length > 1 ? "Send the results" : "Send the result");
      this.button = button;
      const bar = make("div", { className: "answer-actions" }, button);
      if (cancel) bar.append(window.DXAnswers.button("Cancel", "", cancel));
      this.line = make("p", { className: "small quiet" });
      this.line.role = "status";
      this.element.append(make("p", { className: "small quiet" }, note), this.line, bar);
      this.element.addEventListener("submit", (event) => {
        event.preventDefault();
        this.submit();
      });
      this.element.addEventListener("keydown", (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
          event.preventDefault();
          this.submit();
        }
        if (event.key === "Escape" && cancel) cancel();
      });
    }

    field({ id, function: called }, text = "") {
      const field = make("textarea", { className: "form-control mono", value: text });
      const grow = () => {
        const lines = field.value.split("\n").length + field.value.length / LINE;
        field.rows = Math.max(2, Math.min(12, Math.ceil(lines)));
      };
      grow();
      field.ariaLabel = `Result of ${called.name}`;
      field.placeholder = "What it returned: text or JSON";
      const note = make("p", { className: "small quiet", hidden: true });
      field.addEventListener("input", () => {
        field.removeAttribute("aria-invalid");
        grow();
        note.hidden = !looksBroken(field.value);
        note.textContent = "This is not valid JSON; it is sent as text.";
        this.count?.soon();
      });
      field.name = called.name;
      this.fields.set(id, field);
      return make("div", { className: "answer-result" }, field, note);
    }

    get results() {
      return [...this.fields].map(([id, field]) => ({ tool_call_id: id, content: field.value }));
    }

    // As messages, with the name of what was called.
    get messages() {
      return this.results.map((one) => ({ ...one, name: this.fields.get(one.tool_call_id).name }));
    }

    async submit() {
      if (this.button.disabled) return;
      const empty = [...this.fields.values()].find((field) => !field.value.trim());
      if (empty) {
        empty.ariaInvalid = "true";
        this.line.textContent = "Enter what it returned; null for nothing.";
        empty.focus();
        return;
      }
      this.button.disabled = true;
      try {
        const refusal = await this.count?.refusal();
        if (refusal) DX.toast(refusal, "warning");
        else await this.send(this.results);
      } finally {
        this.button.disabled = false;
      }
    }

    focus() {
      this.fields.values().next().value?.focus();
    }
  }

  function looksBroken(text) {
    if (!/^\s*[[{]/.test(text)) return false;
    try {
      JSON.parse(text);
      return false;
    } catch {
      return true;
    }
  }

  window.DXTools = { call, returned, Results };
})();
