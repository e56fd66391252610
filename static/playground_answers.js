// DXAnswers: prompts and answers as elements. `turn(value, play)` makes the element of a prompt with its answers, and
// `Cell` is one answer, which can be written to.
(() => {
  "use strict";
  const EVERY = 80; // milliseconds between two drawings of an answer that is being written
  const AT_END = 60; // pixels
  const LETTERS = ["A", "B", "C"];
  const VERDICTS = [
    ["left", "A is better"],
    ["tie", "Equally good"],
    ["bad", "Both bad"],
    ["right", "B is better"],
  ];
  const { make, icon } = DX;

  function button(text, picture, act, { small = true, label = "", css = "" } = {}) {
    const element = make("button", { className: `btn ${small ? "btn-sm" : ""} ${css}`.trim() });
    element.type = "button";
    if (picture) element.append(icon(picture));
    if (text) element.append(text);
    if (label) {
      element.ariaLabel = label;
      element.title = label;
    }
    element.addEventListener("click", act);
    return element;
  }

  // What is told of an answer that has ended.
  function figures(answer) {
    const { format } = DX;
    const parts = [];
    if (answer.tokens) parts.push(format.counted(answer.tokens, "token"));
    if (answer.rate) parts.push(`${format.thousands(answer.rate)} tokens/s`);
    if (answer.first_seconds !== null) parts.push(`first after ${seconds(answer.first_seconds)}`);
    return parts.join(" · ");
  }

  const seconds = (value) => (value < 10 ? `${value.toFixed(1)} s` : DX.format.duration(value));

  function ending(answer) {
    if (answer.state === "stopped") return "Stopped";
    if (answer.finish_reason === "length") return "Cut off at max tokens";
    return "";
  }

  class Cell {
    constructor(answer, turn, play) {
      Object.assign(this, { answer, turn, play, drawn: 0, timer: null, said: "" });
      this.title = make("h3", { className: "answer-title" });
      this.thoughts = make("details", { className: "fold answer-thoughts", hidden: true });
      this.thoughtText = make("div", { className: "pre-line small quiet" });
      this.thoughts.append(make("summary", { textContent: "Reasoning" }), this.thoughtText);
      this.text = make("div", { className: "md" });
      this.calls = make("div", { className: "answer-calls" });
      this.status = make("p", { className: "small quiet answer-status" });
      this.actions = make("div", { className: "answer-actions" });
      this.element = make(
        "section",
        { className: "answer-cell" },
        this.title,
        this.thoughts,
        this.text,
        this.calls,
        this.status,
        this.actions,
      );
      this.element.dataset.place = answer.place;
      this.draw();
    }

    get name() {
      if (this.answer.title === null) return `Answer ${LETTERS[this.answer.place]}`;
      return this.turn.blind
        ? `${LETTERS[this.answer.place]}: ${this.answer.title}`
        : this.answer.title;
    }

    set(answer) {
      Object.assign(this.answer, answer);
      this.said = "";
      this.draw();
    }

    // What happens before the first word.
    say(words) {
      this.said = words;
      this.drawStatus();
    }

    write(chunk) {
      for (const choice of chunk.choices || []) {
        const delta = choice.delta || {};
        this.answer.text += delta.content || "";
        this.answer.reasoning += delta.reasoning_content || delta.reasoning || "";
      }
      this.said = "";
      if (this.timer) return;
      const wait = Math.max(0, this.drawn + EVERY - performance.now());
      this.timer = setTimeout(() => this.drawText(), wait);
    }

    draw() {
      this.title.textContent = this.name;
      this.drawText();
      this.drawCalls();
      this.drawStatus();
      this.drawActions();
    }

    drawText() {
      clearTimeout(this.timer);
      this.timer = null;
      this.drawn = performance.now();
      const page = document.documentElement;
      const atEnd = page.scrollHeight - innerHeight - scrollY < AT_END;
      window.DXMarkdown.show(this.text, this.answer.text);
      this.thoughts.hidden = !this.answer.reasoning;
      this.thoughtText.textContent = this.answer.reasoning;
      if (this.answer.state !== "writing") return;
      this.drawStatus();
      // Who reads at the end of the page goes along.
      if (atEnd) scrollTo({ top: page.scrollHeight });
    }

    drawCalls() {
      this.calls.replaceChildren(
        ...(this.answer.tool_calls || []).map((call) => {
          const { name = "", arguments: given = "" } = call.function || {};
          let shown = given;
          try {
            shown = JSON.stringify(JSON.parse(given), null, 2);
          } catch {
            /* shown as it came */
          }
          const head = make("strong", { textContent: name });
          const body = make("pre", { className: "code scroll", textContent: shown });
          return make("div", { className: "answer-call" }, icon("tool"), head, body);
        }),
      );
    }

    drawStatus() {
      const { answer } = this;
      const parts = [];
      this.status.className = "small quiet answer-status";
      if (answer.state === "failed") {
        this.status.className = "small answer-status bad";
        parts.push(answer.error || "There is no answer.");
      } else if (answer.state === "writing" || this.said) {
        parts.push(this.said || (answer.text ? "" : "Waiting for the model"));
      } else if (answer.state === "waiting") parts.push("Not asked yet");
      else parts.push(ending(answer), figures(answer));
      if (this.turn.verdict && this.turn.blind) parts.push(voted(this.turn, answer.place));
      if (answer.correction) parts.push("Corrected");
      const text = parts.filter(Boolean).join(" · ");
      this.status.hidden = !text;
      DX.live(this.status, text);
    }

    drawActions() {
      const { answer, turn, play } = this;
      this.actions.replaceChildren();
      if (answer.state === "writing") {
        if (play.isWriting(this))
          this.actions.append(button("Stop", "player-stop", () => play.stop(this)));
        return;
      }
      if (answer.text) this.actions.append(copyButton(answer.text));
      if (!play.mayChange) return;
      if (["failed", "stopped", "waiting"].includes(answer.state) && play.isLast(turn))
        this.actions.append(
          button(answer.state === "waiting" ? "Ask" : "Try again", "refresh", () =>
            play.write(this),
          ),
        );
      if (!answer.text || answer.title === null) return;
      this.actions.append(this.thumb("up", "Good answer"), this.thumb("down", "Bad answer"));
      this.actions.append(
        button(answer.correction ? "Edit the correction" : "Correct", "pencil", () => this.edit()),
      );
    }

    thumb(verdict, label) {
      const pressed = this.answer.thumb === verdict;
      const element = button(
        "",
        `thumb-${verdict}`,
        () => this.play.feedback(this, "thumb", { verdict: pressed ? "" : verdict }),
        { label, css: "btn-icon btn-quiet" },
      );
      element.ariaPressed = String(pressed);
      return element;
    }

    // The answer as it should have been.
    edit() {
      const before = this.answer.correction || this.answer.text;
      const field = make("textarea", { className: "form-control", rows: 6, value: before });
      field.ariaLabel = "The answer as it should have been";
      const save = button("Save", "check", async () => {
        if (await this.play.feedback(this, "correction", { text: field.value })) this.draw();
      });
      save.classList.add("btn-primary");
      const rest = [button("Cancel", "", () => this.draw())];
      if (this.answer.correction)
        rest.push(
          button("Forget it", "trash", () => this.play.feedback(this, "correction", { text: "" })),
        );
      this.text.replaceChildren(field);
      this.actions.replaceChildren(save, ...rest);
      field.focus();
    }
  }

  function copyButton(text) {
    const copy = async () => {
      await navigator.clipboard.writeText(text);
      DX.toast("Copied.");
    };
    return button("", "copy", copy, { label: "Copy the answer", css: "btn-icon btn-quiet" });
  }

  function voted(turn, place) {
    if (turn.verdict === "tie") return "Voted equally good";
    if (turn.verdict === "bad") return "Voted bad";
    return (turn.verdict === "left") === (place === 0) ? "Voted better" : "";
  }

  class Turn {
    constructor(value, play) {
      Object.assign(this, { value, play });
      this.cells = value.answers.map((answer) => new Cell(answer, value, play));
      this.prompt = make("div", { className: "prompt-row" });
      this.grid = make("div", { className: "answer-grid" });
      this.grid.append(...this.cells.map((cell) => cell.element));
      this.grid.dataset.columns = Math.max(1, this.cells.length);
      this.votes = make("div", { className: "vote-bar", hidden: true });
      this.votes.role = "group";
      this.votes.ariaLabel = "Which answer is better?";
      this.element = make(
        "article",
        { className: "play-turn" },
        this.prompt,
        this.grid,
        this.votes,
      );
      this.element.ariaLabel = `Prompt ${value.position}`;
      this.drawPrompt();
      this.drawVotes();
    }

    // `cells`: which of them; what is just being written here is newer than what is stored.
    set(value, cells = this.cells) {
      Object.assign(this.value, { verdict: value.verdict });
      for (const cell of cells) {
        const answer = value.answers.find(({ place }) => place === cell.answer.place);
        if (answer && !this.play.isWriting(cell)) cell.set(answer);
      }
      this.drawVotes();
    }

    drawPrompt() {
      const bubble = make("div", { className: "bubble bubble-answer" });
      bubble.append(this.value.text);
      this.prompt.replaceChildren(bubble);
      if (!this.play.mayChange) return;
      this.prompt.append(
        button("", "pencil", () => this.edit(), {
          label: "Edit and send again",
          css: "btn-icon btn-quiet",
        }),
      );
    }

    edit() {
      const field = make("textarea", { className: "form-control", rows: 3 });
      field.value = this.value.text;
      field.ariaLabel = "The prompt";
      const send = () => this.play.send(field.value, this.value.position);
      const note = make("p", {
        className: "small quiet",
        textContent: this.play.isLast(this.value)
          ? "Its answers are replaced."
          : "Its answers and everything below it are replaced.",
      });
      field.addEventListener("keydown", (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
        if (event.key === "Escape") this.drawPrompt();
      });
      const bar = make(
        "div",
        { className: "answer-actions" },
        button("Send again", "send", send, { css: "btn-primary" }),
        button("Cancel", "", () => this.drawPrompt()),
      );
      this.prompt.replaceChildren(make("div", { className: "prompt-edit" }, field, note, bar));
      field.focus();
    }

    drawVotes() {
      const { value, play } = this;
      const open = value.blind && !value.verdict && value.answers.length === 2 && play.mayChange;
      this.votes.hidden = !open;
      if (!open) return;
      const ready = value.answers.every((answer) => !["writing", "waiting"].includes(answer.state));
      this.votes.replaceChildren(
        ...VERDICTS.map(([verdict, text]) => {
          const element = button(text, "", () => play.vote(this, verdict));
          element.disabled = !ready || !value.answers.every((answer) => answer.text);
          return element;
        }),
      );
    }
  }

  window.DXAnswers = { Turn, button };
})();
