// DXCount.Count: how many tokens a prompt has for each model while it is written, where a model is loaded that can tell.
// One that is longer than a model takes is not sent.
(() => {
  "use strict";
  const COUNT_AFTER = 1500; // milliseconds after the last key
  const WAIT = 2000; // milliseconds that whoever sends waits for a new count
  const { thousands } = DX.format;

  class Count {
    // line: where it is said. messages(pane): what that pane would be told; [] for nothing. drawn(refusal): for the
    // button that sends. panes(): which are asked.
    constructor(play, { line, messages, panes = () => play.conversation.panes, drawn = () => {} }) {
      Object.assign(this, { play, line, messages, panes, drawn });
      Object.assign(this, { timer: null, stop: null, counted: "", over: [] });
    }

    soon() {
      this.rest();
      if (this.over.length) this.drawn("");
      this.timer = setTimeout(() => this.count(), COUNT_AFTER);
    }

    rest() {
      clearTimeout(this.timer);
      this.stop?.abort();
    }

    // What is asked now: whatever changes it makes the count one of something else.
    get asked() {
      const { tools } = this.play.conversation;
      const told = this.panes().map((pane) => [pane.target, this.messages(pane)]);
      return JSON.stringify([tools, told]);
    }

    async count() {
      const asked = this.asked;
      const panes = this.panes();
      this.rest();
      const stop = (this.stop = new AbortController());
      if (panes.every((pane) => !this.messages(pane).length)) return this.say(asked, []);
      const counts = [];
      // One after the other: each takes a turn at its model.
      for (const pane of panes) {
        const found = await this.ask(pane, stop.signal).catch(() => null);
        if (stop.signal.aborted || this.asked !== asked) return;
        if (found) counts.push({ pane, count: found.count, context: this.contextOf(pane, found) });
      }
      this.say(asked, counts);
    }

    ask(pane, signal) {
      const body = {
        target: pane.target,
        messages: this.messages(pane),
        tools: this.play.conversation.tools,
        count_only: true,
      };
      return DX.api(`${this.play.api}tokens/`, { method: "POST", body, signal });
    }

    contextOf(pane, found) {
      return found.context || this.play.contexts.get(pane.target) || 0;
    }

    say(asked, counts) {
      this.counted = asked;
      this.over = counts.filter(({ count, context }) => context && count >= context);
      const { line, words } = this;
      line.classList.toggle("bad", this.over.length > 0);
      const numbers = [...new Set(counts.map(({ count }) => count))];
      line.textContent =
        words || (numbers.length ? `${numbers.map(thousands).join(" | ")} tokens` : "");
      this.drawn(words);
    }

    get words() {
      return this.over
        .map(
          ({ pane, count, context }) =>
            `${thousands(count)} tokens; ${pane.title} takes ${thousands(context)}.`,
        )
        .join("\n");
    }

    // Why it cannot be sent, or nothing, also where nobody knows. What was too long is counted again.
    async refusal() {
      if (!this.over.length) return "";
      if (this.counted !== this.asked)
        await Promise.race([this.count(), new Promise((done) => setTimeout(done, WAIT))]);
      return this.counted === this.asked ? this.words : "";
    }
  }

  window.DXCount = { Count };
})();
