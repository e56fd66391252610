// Beside the chat: the choice of a model, held-out prompts, and the prompt the tokens of a prompt.
(() => {
  "use strict";
  const $ = (id) => document.getElementById(id);
  const { make } = DX;
  const COUNT_AFTER = 1500; // milliseconds after the last key

  // Choice of a model: resolves to {key, title}, or null.
  function choose(groups) {
    const dialog = $("model-dialog");
    const search = $("model-search");
    const box = $("model-choices");
    return new Promise((resolve) => {
      let taken = null;
      const draw = () => {
        const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
        const fits = ({ title, key }) =>
          words.every((word) => `${title} ${key}`.toLowerCase().includes(word));
        const found = groups
          .map(({ title, choices }) => ({ title, choices: choices.filter(fits) }))
          .filter(({ choices }) => choices.length);
        box.replaceChildren(...found.map(group));
        if (!found.length)
          box.append(make("p", { className: "quiet", textContent: "No model matches." }));
      };
      const group = ({ title, choices }) =>
        make(
          "div",
          { className: "play-group" },
          make("h3", { className: "small quiet", textContent: title }),
          ...choices.map((choice) => {
            const button = make("button", { type: "button", textContent: choice.title });
            button.className = choice.parent ? "play-choice play-choice-inner" : "play-choice";
            button.addEventListener("click", () => {
              taken = choice;
              dialog.close();
            });
            return button;
          }),
        );
      search.value = "";
      search.oninput = draw;
      search.onkeydown = (event) => {
        if (event.key !== "Enter") return;
        event.preventDefault();
        box.querySelector("button")?.click();
      };
      dialog.addEventListener("close", () => resolve(taken), { once: true });
      draw();
      DX.openDialog(dialog);
      search.focus();
    });
  }

  // A button a pane; `show(pane)` for the one that is pressed.
  function paneButtons(box, panes, show) {
    box.hidden = panes.length < 2;
    const buttons = panes.map((pane) => {
      const button = make("button", { type: "button", textContent: pane.title });
      button.addEventListener("click", () => press(pane));
      return button;
    });
    const press = (pane) => {
      buttons.forEach((button, index) => (button.ariaPressed = String(panes[index] === pane)));
      show(pane);
    };
    box.replaceChildren(...buttons);
    return press;
  }

  class Prompts {
    constructor(play) {
      Object.assign(this, { play, pane: null, start: 0, asked: 0 });
      $("prompts-more").addEventListener("click", () => this.load(this.start + 20));
    }

    open() {
      const { panes } = this.play.conversation;
      DX.openDialog($("prompts-dialog"));
      const press = paneButtons($("prompts-panes"), panes, (pane) => {
        this.pane = pane;
        this.load(0);
      });
      // What was trained last is on the right.
      press(panes.at(-1));
    }

    async load(start) {
      const asked = ++this.asked;
      this.start = start;
      if (!start) $("prompts-list").replaceChildren();
      $("prompts-more").hidden = true;
      $("prompts-note").textContent = "Reading …";
      const query = new URLSearchParams({ target: this.pane.target, start });
      try {
        const found = await DX.api(`${this.play.api}prompts/?${query}`);
        if (asked !== this.asked) return;
        $("prompts-note").textContent = found.note;
        $("prompts-list").append(...found.prompts.map((prompt) => this.line(prompt)));
        $("prompts-more").hidden = !found.more;
      } catch (error) {
        if (asked === this.asked) $("prompts-note").textContent = DX.reasonOf(error);
      }
    }

    line(prompt) {
      const take = make("button", { type: "button", className: "play-prompt" }, prompt.text);
      take.addEventListener("click", () => {
        $("prompts-dialog").close();
        this.play.take(prompt);
      });
      const parts = [take];
      if (prompt.reference)
        parts.push(
          make(
            "details",
            { className: "small quiet" },
            make("summary", { textContent: "Answer in the data" }),
            make("p", { className: "pre-line", textContent: prompt.reference }),
          ),
        );
      return make("li", {}, ...parts);
    }
  }

  class Tokens {
    constructor(play) {
      Object.assign(this, { play, timer: null, counting: null, pane: null, asked: 0 });
      $("tokens-load").addEventListener("click", () => this.show(true));
    }

    messages(pane) {
      const text = $("play-text").value;
      const messages = this.play.messagesOf(pane);
      if (text.trim()) messages.push({ role: "user", content: text });
      return messages;
    }

    ask(pane, { load = false, count_only = false, signal } = {}) {
      const body = {
        target: pane.target,
        messages: this.messages(pane),
        tools: this.play.conversation.tools,
        load,
        count_only,
      };
      return DX.api(`${this.play.api}tokens/`, { method: "POST", body, signal });
    }

    contextOf(pane, found) {
      return found.context || this.play.contexts.get(pane.target) || 0;
    }

    open() {
      const { panes } = this.play.conversation;
      DX.openDialog($("tokens-dialog"));
      const press = paneButtons($("tokens-panes"), panes, (pane) => {
        this.pane = pane;
        this.show(false);
      });
      press(panes[0]);
    }

    async show(load) {
      const { pane } = this;
      const asked = ++this.asked;
      const note = $("tokens-note");
      $("tokens-load").hidden = true;
      $("tokens-pieces").replaceChildren();
      if (!this.messages(pane).length) {
        note.textContent = "Write something first.";
        return;
      }
      note.textContent = load ? "Loading the model …" : "Reading …";
      try {
        const found = await this.ask(pane, { load });
        if (asked !== this.asked) return;
        const context = this.contextOf(pane, found);
        const of = context ? ` of ${DX.format.thousands(context)}` : "";
        const shown = found.pieces.length;
        const part =
          shown < found.count ? ` The first ${DX.format.thousands(shown)} are shown.` : "";
        note.textContent = `${DX.format.thousands(found.count)}${of} tokens, with the beginning of the answer. Marked ones are the template’s.${part}`;
        $("tokens-pieces").replaceChildren(...found.pieces.map(piece));
      } catch (error) {
        if (asked !== this.asked) return;
        const unloaded = error.status === 409 && !load;
        note.textContent = unloaded
          ? `${pane.title} is not loaded, and its tokenizer with it.`
          : DX.reasonOf(error);
        $("tokens-load").hidden = !unloaded;
      }
    }

    // While somebody writes: how long the prompt is, where a model is loaded that can tell.
    soon() {
      this.rest();
      this.timer = setTimeout(() => this.count(), COUNT_AFTER);
    }

    rest() {
      clearTimeout(this.timer);
      this.counting?.abort();
    }

    async count() {
      const text = $("play-text").value;
      const line = $("play-count");
      if (!text.trim()) {
        line.textContent = "";
        return;
      }
      const { panes } = this.play.conversation;
      const stop = (this.counting = new AbortController());
      const found = [];
      // One after the other: each takes a turn at its model.
      for (const pane of panes) {
        const asking = this.ask(pane, { count_only: true, signal: stop.signal });
        found.push(await asking.catch(() => null));
        if (stop.signal.aborted || $("play-text").value !== text) return;
      }
      const counts = panes
        .map((pane, index) => ({ pane, found: found[index] }))
        .filter((one) => one.found);
      const over = counts.filter(({ pane, found: seen }) => {
        const context = this.contextOf(pane, seen);
        return context && seen.count >= context;
      });
      line.classList.toggle("bad", over.length > 0);
      if (over.length) {
        const { pane, found: seen } = over[0];
        const { thousands } = DX.format;
        line.textContent = `${thousands(seen.count)} tokens: ${pane.title} reads at most ${thousands(this.contextOf(pane, seen))}.`;
      } else {
        const numbers = [...new Set(counts.map((one) => one.found.count))];
        line.textContent = numbers.length
          ? `${numbers.map(DX.format.thousands).join(" | ")} tokens`
          : "";
      }
    }
  }

  function piece({ text, special }) {
    const shown = text.replace(/\n/g, "↵\n").replace(/\t/g, "⇥");
    return make("span", { className: special ? "piece piece-special" : "piece" }, shown || "∅");
  }

  window.DXHelpers = { choose, Prompts, Tokens };
})();
