// Beside the chat: the choice of a model, held-out prompts, and the prompt the tokens of a prompt.
(() => {
  "use strict";
  const $ = (id) => document.getElementById(id);
  const { make } = DX;
  const SEARCH_AFTER = 300; // milliseconds after the last key

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
    const buttons = panes.map((pane, index) => {
      const button = make("button", { type: "button", title: pane.title });
      button.textContent = `${index + 1}: ${pane.title}`;
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
      Object.assign(this, { play, pane: null, after: "", asked: 0, timer: null });
      this.search = $("prompts-search");
      $("prompts-more").addEventListener("click", () => this.load(this.after));
      this.search.addEventListener("input", () => {
        clearTimeout(this.timer);
        this.timer = setTimeout(() => this.load(), SEARCH_AFTER);
      });
    }

    open() {
      const { panes } = this.play.conversation;
      this.search.value = "";
      DX.openDialog($("prompts-dialog"));
      const press = paneButtons($("prompts-panes"), panes, (pane) => {
        this.pane = pane;
        $("prompts-list").replaceChildren();
        this.load();
      });
      // What was trained last is on the right.
      press(panes.at(-1));
    }

    async load(after = "") {
      clearTimeout(this.timer);
      const asked = ++this.asked;
      const note = $("prompts-note");
      const list = $("prompts-list");
      const search = this.search.value.trim();
      const goesOn = document.activeElement === $("prompts-more");
      $("prompts-more").hidden = true;
      note.textContent = "Reading …";
      const query = new URLSearchParams({ target: this.pane.target, after, search });
      try {
        const found = await DX.api(`${this.play.api}prompts/?${query}`);
        if (asked !== this.asked) return;
        if (!after) list.replaceChildren();
        const lines = found.prompts.map((prompt) => this.line(prompt));
        list.append(...lines);
        if (goesOn) lines[0]?.querySelector("button").focus();
        const none = search && !list.children.length && !found.next;
        note.textContent = none ? `${found.note} None holds “${search}”.` : found.note;
        this.search.hidden = !found.can_search;
        this.after = found.next;
        $("prompts-more").hidden = !found.next;
      } catch (error) {
        if (asked === this.asked) note.textContent = DX.reasonOf(error);
      }
    }

    line(prompt) {
      const take = make("button", { type: "button", className: "play-prompt" });
      take.append(make("span", { textContent: prompt.text }));
      take.disabled = prompt.is_cut;
      take.addEventListener("click", () => {
        $("prompts-dialog").close();
        this.play.take(prompt);
      });
      const parts = [take];
      const notes = [];
      if (prompt.is_cut) notes.push("Too long to take over from here.");
      if (prompt.earlier)
        notes.push(`Asked without the ${DX.format.counted(prompt.earlier, "turn")} before it.`);
      if (notes.length)
        parts.push(make("p", { className: "small quiet", textContent: notes.join(" ") }));
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
      Object.assign(this, { play, pane: null, asked: 0 });
      $("tokens-load").addEventListener("click", () => this.show(true));
    }

    messages(pane) {
      const text = $("play-text").value;
      const messages = this.play.messagesOf(pane);
      if (text.trim()) messages.push({ role: "user", content: text });
      return messages;
    }

    ask(pane, load) {
      const { tools } = this.play.conversation;
      const body = { target: pane.target, messages: this.messages(pane), tools, load };
      return DX.api(`${this.play.api}tokens/`, { method: "POST", body });
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
        const found = await this.ask(pane, load);
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
  }

  function piece({ text, special }) {
    const shown = text.replace(/\n/g, "↵\n").replace(/\t/g, "⇥");
    return make("span", { className: special ? "piece piece-special" : "piece" }, shown || "∅");
  }

  window.DXHelpers = { choose, Prompts, Tokens };
})();
