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
    if (answer.tokens) parts.push(lengthOf(answer));
    if (answer.rate) parts.push(`${format.thousands(answer.rate)} tokens/s`);
    if (answer.first_seconds !== null) parts.push(`first after ${seconds(answer.first_seconds)}`);
    return parts.join(" · ");
  }

  // Servers count what they wrote; of an answer that was stopped there are the pieces that came.
  function lengthOf({ tokens, state, reasoning }) {
    const count = DX.format.counted(tokens, "token");
    return `${state === "stopped" ? "about " : ""}${count}${reasoning ? " with the reasoning" : ""}`;
  }

  function seconds(value) {
    if (value >= 10) return DX.format.duration(value);
    return `${value.toFixed(value < 0.1 ? 2 : 1)}\u00a0s`;
  }

  function ending(answer) {
    if (answer.state === "stopped") return "Stopped";
    if (answer.finish_reason === "length") return "Cut off at max tokens";
    return "";
  }

  class Cell {
    constructor(answer, turn, play) {
      Object.assign(this, { answer, turn, play, drawn: 0, timer: null, said: "" });
      this.title = make("h3", { className: "answer-title" });
      this.rounds = make("div", { className: "answer-rounds" });
      this.thoughts = thoughts();
      this.thoughtText = this.thoughts.lastChild;
      this.results = null;
      this.text = make("div", { className: "md" });
      this.calls = make("div", { className: "answer-calls" });
      this.status = make("p", { className: "small quiet answer-status" });
      this.actions = make("div", { className: "answer-actions" });
      this.element = make(
        "section",
        { className: "answer-cell" },
        this.title,
        this.rounds,
        this.thoughts,
        this.text,
        this.calls,
        this.status,
        this.actions,
      );
      this.element.dataset.place = answer.place;
      this.element.tabIndex = -1;
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
      this.drawRounds();
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

    // What depends on whether its prompt is the last one.
    drawControls() {
      this.drawRounds();
      this.drawCalls();
      this.drawActions();
    }

    // Whether what tools returned can be said, or said otherwise.
    get goesOn() {
      const { answer, turn, play } = this;
      const isEnded = !["writing", "waiting"].includes(answer.state);
      return isEnded && play.mayChange && play.isLast(turn) && !turn.verdict;
    }

    drawRounds() {
      const rounds = this.answer.rounds || [];
      this.rounds.replaceChildren(...rounds.map((round, number) => this.round(round, number)));
    }

    round(round, number) {
      const box = make("div", { className: "answer-round" });
      const thought = thoughts(round.reasoning);
      const text = make("div", { className: "md" });
      window.DXMarkdown.show(text, round.text);
      const calls = round.tool_calls.map((call) => {
        const result = round.results.find((one) => one.tool_call_id === call.id);
        return window.DXTools.call(call, result && window.DXTools.returned(result));
      });
      const called = make("div", { className: "answer-calls" }, ...calls);
      const told = make("p", { className: "small quiet answer-status" }, figures(round));
      box.append(thought, text, called, told);
      const isOver = this.answer.state !== "writing" && this.play.mayChange;
      if (!isOver || !this.play.isLast(this.turn) || this.turn.verdict) return box;
      const edit = () => {
        const form = this.resultsOf(
          round,
          round.results.map((one) => one.tool_call_id),
          {
            results: round.results,
            round: number,
            note: "Everything after it is replaced.",
            cancel: () => {
              this.drawRounds();
              this.rounds.children[number].querySelector("button")?.focus();
            },
          },
        );
        called.replaceChildren(form.element);
        pencil.remove();
        form.focus();
      };
      const pencil = button("Edit the results", "pencil", edit);
      box.append(make("div", { className: "answer-actions" }, pencil));
      return box;
    }

    drawCalls() {
      const { tool_calls: calls = [], calls_waiting: waiting = [] } = this.answer;
      if (!waiting.length || !this.goesOn) {
        this.results = null;
        this.calls.replaceChildren(...calls.map((call) => window.DXTools.call(call)));
        return;
      }
      // What somebody has begun to write stays.
      if (this.results?.key === waiting.join("\n")) return;
      this.results = this.resultsOf(this.answer, waiting, {
        note: "Tools are not run here. Enter what they returned, and the answer continues.",
      });
      this.calls.replaceChildren(this.results.element);
    }

    resultsOf(said, waiting, { results, round = null, note, cancel }) {
      const { answer, play, turn } = this;
      const form = new window.DXTools.Results({
        calls: said.tool_calls,
        waiting,
        results,
        note,
        cancel,
        send: (written) => play.results(this, written, round),
      });
      const pane = play.conversation.panes.find(({ id }) => id === answer.pane);
      if (!pane || answer.title === null) return form;
      const { ofRounds } = window.DXMessages;
      form.count = new window.DXCount.Count(play, {
        line: form.line,
        panes: () => [pane],
        messages: () => [
          ...play.messagesOf(pane, turn.position),
          { role: "user", content: turn.text },
          ...ofRounds((answer.rounds || []).slice(0, round ?? undefined)),
          ...ofRounds([{ ...said, results: form.messages }]),
        ],
      });
      return form;
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
      // A correction that is being written keeps its own buttons.
      if (this.field?.isConnected) return;
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
      this.field = field;
      const save = button("Save", "check", async () => {
        if (await this.play.feedback(this, "correction", { text: field.value })) this.draw();
      });
      save.classList.add("btn-primary");
      const rest = [button("Cancel", "", () => this.draw())];
      if (this.answer.correction)
        rest.push(
          button("Delete the correction", "trash", () =>
            this.play.feedback(this, "correction", { text: "" }),
          ),
        );
      this.text.replaceChildren(field);
      this.actions.replaceChildren(save, ...rest);
      field.focus();
    }
  }

  function thoughts(text = "") {
    const body = make("div", { className: "pre-line small quiet", textContent: text });
    const fold = make("details", { className: "fold answer-thoughts", hidden: !text });
    fold.append(make("summary", { textContent: "Reasoning" }), body);
    return fold;
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
      const line = make("p", { className: "small quiet" });
      line.role = "status";
      const before = this.value.position;
      const count = new window.DXCount.Count(this.play, {
        line,
        messages: (pane) => [
          ...this.play.messagesOf(pane, before),
          { role: "user", content: field.value },
        ],
      });
      const send = async () => {
        const refusal = await count.refusal();
        if (refusal) return DX.toast(refusal, "warning");
        count.rest();
        return this.play.send(field.value, before);
      };
      field.addEventListener("input", () => count.soon());
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
      this.prompt.replaceChildren(
        make("div", { className: "prompt-edit" }, field, note, line, bar),
      );
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
