// The playground: one prompt, up to three models side by side. The conversation is made at its first prompt, and each
// answer is a stream of its own.
(() => {
  "use strict";
  const data = DX.readJson("play-data");
  const root = document.getElementById("play");
  if (!data || !root) return;
  const $ = (id) => document.getElementById(id);
  const { make, icon } = DX;
  const ASK_AGAIN = 1000; // milliseconds, for answers that another page is writing
  const LONGEST_WAIT = 120; // times
  const STORED_AFTER = 150; // milliseconds
  const STORED_WITHIN = 60; // times

  const play = {
    api: data.api,
    conversation: data.conversation,
    contexts: new Map(), // key of a model -> tokens that it reads
    streams: new Map(), // cell -> AbortController
    turns: [],
    tab: 0,

    changes: null,

    get mayChange() {
      return this.conversation.may_change;
    },
    get address() {
      return `${this.api}${this.conversation.id}/`;
    },
    isWriting(cell) {
      return this.streams.has(cell);
    },
    isLast(turn) {
      return this.turns.at(-1)?.value.position === turn.position;
    },

    // What a pane is told so far, or up to a prompt.
    messagesOf(pane, before) {
      const turns = this.turns.map(({ value }) => value);
      return window.DXMessages.of(this.conversation, turns, pane, before);
    },

    // A function of the conversation that returns what it changes; see DXChanges.
    change(edit) {
      return this.changes.make(edit);
    },

    async put(values) {
      const body = { ...values };
      if (body.panes) body.panes = body.panes.map(asked);
      return stored(await DX.api(this.address, { method: "PATCH", body }));
    },

    async create({ panes, system_prompt, tools, response_format, blind }) {
      const body = { panes: panes.map(asked), system_prompt, tools, response_format, blind };
      const seen = await DX.api(this.api, { method: "POST", body });
      history.replaceState(null, "", `${data.page}${seen.id}/`);
      $("play-welcome")?.remove();
      return stored(seen);
    },

    async send(text, replaces = 0) {
      if (this.sending || !text.trim()) return false;
      this.sending = true;
      try {
        await this.settle();
        // What was changed before is stored before.
        await this.changes.ensure();
        const body = { text, replaces };
        const value = await DX.api(`${this.address}turns/`, { method: "POST", body });
        while (this.turns.at(-1)?.value.position >= value.position)
          this.turns.pop().element.remove();
        const turn = this.add(value);
        for (const other of this.turns.slice(0, -1))
          other.cells.forEach((cell) => cell.drawControls());
        if (value.position === 1) this.name(text);
        turn.cells.forEach((cell) => this.write(cell));
        turn.element.scrollIntoView({ block: "nearest" });
        return true;
      } catch (error) {
        DX.toast(DX.reasonOf(error), "error");
        return false;
      } finally {
        this.sending = false;
      }
    },

    name(text) {
      if (this.conversation.name !== "New conversation") return;
      this.conversation.name = text.trim().replace(/\s+/g, " ").slice(0, 60);
      this.changes.stored.name = this.conversation.name;
      $("play-name").textContent = this.conversation.name;
      document.title = `${this.conversation.name} · DeepExtension`;
    },

    add(value) {
      const turn = new window.DXAnswers.Turn(value, this);
      this.turns.push(turn);
      $("play-turns").append(turn.element);
      return turn;
    },

    async write(cell) {
      const { turn, answer } = cell;
      const stop = new AbortController();
      this.streams.set(cell, stop);
      cell.set({
        state: "writing",
        text: "",
        reasoning: "",
        tool_calls: [],
        calls_waiting: [],
        error: "",
      });
      drawStop();
      const url = `${this.address}turns/${turn.position}/answers/${answer.place}/`;
      const pane = this.conversation.panes.find(({ id }) => id === answer.pane);
      try {
        if (cell.wasStopped) await this.ended(cell, stop.signal);
        await window.DXStream.answer(
          url,
          {
            state: (state) => this.hear(cell, pane, state),
            chunk: (chunk) => cell.write(chunk),
            failed: ({ message }) => cell.set({ state: "failed", error: message }),
            done: (stored) => cell.set(stored),
          },
          stop.signal,
        );
      } catch (error) {
        cell.wasStopped = stop.signal.aborted;
        if (stop.signal.aborted) cell.set({ state: "stopped" });
        else cell.set({ state: "failed", error: refusal(error) });
      } finally {
        this.streams.delete(cell);
        cell.drawActions();
        this.turnOf(cell)?.drawVotes();
        drawStop();
        announce(cell);
      }
    },

    hear(cell, pane, state) {
      cell.say(state.phase === "ready" ? "Reading the prompt" : state.words);
      if (state.phase !== "ready" || !pane || cell.turn.blind) return;
      if (state.context) this.contexts.set(pane.target, state.context);
      settings?.learn(pane.title, state.abilities);
      if (state.backend) pane.backend = [state.backend, state.note].filter(Boolean).join(": ");
      drawHeads();
    },

    // What was stopped here is stored a moment later; until then nobody else may write it.
    async ended({ turn, answer }, signal) {
      for (let times = 0; times < STORED_WITHIN; times += 1) {
        const { turns } = await DX.api(this.address, { signal });
        const { answers = [] } = turns.find((one) => one.position === turn.position) || {};
        const found = answers.find(({ place }) => place === answer.place);
        if (found?.state !== "writing") return;
        await new Promise((done) => setTimeout(done, STORED_AFTER));
      }
    },

    turnOf(cell) {
      return this.turns.find((turn) => turn.cells.includes(cell));
    },

    stop(cell) {
      this.streams.get(cell)?.abort();
    },
    stopAll() {
      for (const stop of this.streams.values()) stop.abort();
    },

    // Stop what is being written, and wait until it is stored: the next prompt is asked after it.
    async settle() {
      if (!this.streams.size) return;
      this.stopAll();
      for (let times = 0; times < STORED_WITHIN; times += 1) {
        await new Promise((done) => setTimeout(done, STORED_AFTER));
        const seen = await DX.api(this.address);
        if (!seen.turns.some(({ answers }) => answers.some(({ state }) => state === "writing")))
          return;
      }
    },

    async vote(turn, verdict) {
      try {
        const url = `${this.address}turns/${turn.value.position}/vote/`;
        turn.set(await DX.api(url, { method: "POST", body: { verdict } }));
      } catch (error) {
        DX.toast(DX.reasonOf(error), "error");
      }
    },

    async feedback(cell, kind, body) {
      const { turn, answer } = cell;
      const url = `${this.address}turns/${turn.position}/answers/${answer.place}/${kind}/`;
      try {
        const seen = await DX.api(url, { method: "PUT", body });
        // The others may be in the middle of something.
        this.turnOf(cell)?.set(seen, [cell]);
        return true;
      } catch (error) {
        DX.toast(DX.reasonOf(error), "error");
        return false;
      }
    },

    // What tools returned that an answer called: it goes on from there.
    async results(cell, results, round = null) {
      const { turn, answer } = cell;
      const url = `${this.address}turns/${turn.position}/answers/${answer.place}/results/`;
      try {
        const seen = await DX.api(url, { method: "POST", body: { results, round } });
        this.turnOf(cell)?.set(seen, [cell]);
      } catch (error) {
        DX.toast(DX.reasonOf(error), "error");
        return false;
      }
      this.write(cell);
      cell.element.focus();
      return true;
    },

    // A held-out prompt into the field, with its system prompt where the conversation has none yet.
    async take({ text, system }) {
      const field = $("play-text");
      field.value = text;
      if (system && !this.conversation.system_prompt && !this.turns.length) {
        await this.change(() => ({ system_prompt: system }));
        DX.toast("The system prompt of the row is set too.", "info");
      }
      grow(field);
      field.focus();
      count?.soon();
    },
  };

  const asked = ({ id, target, sampling }) => ({ id, target, sampling });
  const stored = ({ turns: _turns, ...rest }) => rest;
  const refusal = (error) => (error instanceof DX.ApiError ? error.message : error.message);

  function announce(cell) {
    const region = $("toast-status");
    const { text, error, tool_calls: calls } = cell.answer;
    const called = calls.map((call) => call.function?.name).join(", ");
    const words = text || error || (called && `calls ${called}`);
    if (region) region.textContent = `${cell.name}: ${words}`;
  }

  // Heads of the panes
  function drawHeads() {
    const { panes, blind } = play.conversation;
    const heads = panes.map((pane, index) => head(pane, index, blind));
    root.dataset.columns = Math.max(1, panes.length);
    root.dataset.tab = Math.min(play.tab, panes.length - 1);
    if (play.mayChange && panes.length < data.most_panes) {
      const add = window.DXAnswers.button("Add a model", "plus", () => pick(panes.length));
      heads.push(make("div", { className: "pane-add" }, add));
    }
    $("play-heads").replaceChildren(...heads);
  }

  function head(pane, index, blind) {
    const name = make("button", { type: "button", className: "btn pane-model" });
    name.append(make("span", { className: "pane-name", textContent: pane.title }));
    if (play.mayChange) {
      name.append(icon("selector"));
      name.title = "Choose another model";
      name.addEventListener("click", () => pick(index));
    } else name.disabled = true;
    const tab = make("button", { type: "button", className: "btn btn-sm pane-tab" });
    tab.append(String(index + 1));
    tab.ariaLabel = `Show the answers of model ${index + 1}`;
    tab.ariaPressed = String(index === play.tab);
    tab.addEventListener("click", () => {
      play.tab = index;
      drawHeads();
      $("play-heads").querySelectorAll(".pane-tab")[index].focus();
    });
    const parts = [tab, name];
    if (play.mayChange && play.conversation.panes.length > 1) {
      const others = () => play.conversation.panes.filter((_, at) => at !== index);
      parts.push(
        window.DXAnswers.button("", "x", () => put(others()), {
          label: `Remove ${pane.title}`,
          css: "btn-icon btn-quiet",
        }),
      );
    }
    const notes = [];
    if (pane.live) notes.push("Still training: this is its newest checkpoint.");
    if (pane.problem) notes.push(pane.problem);
    if (blind)
      notes.push("Shuffled for each prompt. After a vote both continue from the better answer.");
    else if (pane.backend) notes.push(pane.backend);
    const element = make("div", { className: "pane-head" });
    element.append(make("div", { className: "pane-line" }, ...parts));
    element.append(make("p", { className: "small quiet pane-note" }, notes.join(" ")));
    return element;
  }

  async function pick(index) {
    const choice = await window.DXHelpers.choose(data.groups);
    if (!choice) return;
    const panes = [...play.conversation.panes];
    const sampling = panes[index]?.sampling || panes.at(-1)?.sampling || {};
    // Another model goes on from what was said in its pane.
    panes[index] = {
      id: panes[index]?.id,
      target: choice.key,
      title: choice.title,
      base_title: "",
      sampling,
      live: false,
      problem: "",
    };
    await put(panes);
    warm([choice.key]);
  }

  async function put(panes) {
    try {
      await play.change(() => ({ panes }));
    } catch (error) {
      DX.toast(DX.reasonOf(error), "error");
    }
  }

  // A model is loaded while its reader still writes. What cannot be loaded says so when it is asked.
  const warmed = new Set();
  function warm(targets) {
    const cold = targets.filter((target) => !warmed.has(target));
    if (!cold.length) return;
    cold.forEach((target) => warmed.add(target));
    DX.api(`${play.api}warm/`, { method: "POST", body: { targets: cold } }).catch(() => {});
  }

  function drawStop() {
    const button = document.querySelector('[data-play="stop"]');
    if (button) button.hidden = !play.streams.size;
  }

  function grow(field) {
    const lines = field.value.split("\n").length + field.value.length / 100;
    field.rows = Math.max(2, Math.min(12, Math.ceil(lines)));
  }

  // What another page of the same conversation writes, or wrote when this one was loaded.
  async function follow(times = 0) {
    const open = play.turns.flatMap((turn) => turn.cells).filter((cell) => !play.isWriting(cell));
    if (!open.some((cell) => cell.answer.state === "writing") || times >= LONGEST_WAIT) return;
    await new Promise((done) => setTimeout(done, ASK_AGAIN));
    try {
      const seen = await DX.api(play.address);
      for (const turn of play.turns) {
        const value = seen.turns.find((one) => one.position === turn.value.position);
        const cells = turn.cells.filter((cell) => cell.answer.state === "writing");
        if (value && cells.length) turn.set(value, cells);
      }
    } catch {
      /* asked again */
    }
    follow(times + 1);
  }

  function composerCount() {
    const field = $("play-text");
    const send = document.querySelector('#play-composer [type="submit"]');
    return new window.DXCount.Count(play, {
      line: $("play-count"),
      messages: (pane) => {
        const asked = { role: "user", content: field.value };
        return field.value.trim() ? [...play.messagesOf(pane), asked] : [];
      },
      drawn: (refusal) => {
        send.ariaDisabled = refusal ? "true" : null;
        send.title = refusal;
      },
    });
  }

  function compose() {
    const form = $("play-composer");
    const field = $("play-text");
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const text = field.value;
      if (!text.trim()) return field.focus();
      if (!play.conversation.panes.length) return DX.toast("Choose a model first.", "warning");
      const refusal = await count.refusal();
      if (refusal) return DX.toast(refusal, "warning");
      field.value = "";
      count.rest();
      grow(field);
      if (await play.send(text)) count.soon();
      else if (!field.value) field.value = text;
      field.focus();
    });
    field.addEventListener("input", () => {
      grow(field);
      count.soon();
      warm(play.conversation.panes.map((pane) => pane.target));
    });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && play.streams.size && !document.querySelector("dialog[open]"))
        play.stopAll();
    });
    const acts = {
      stop: () => play.stopAll(),
      prompts: () => prompts.open(),
      tokens: () => tokens.open(),
    };
    form.addEventListener("click", (event) => {
      const name = event.target.closest("[data-play]")?.dataset.play;
      if (!name) return;
      if (name !== "stop" && !play.conversation.panes.length)
        return DX.toast("Choose a model first.", "warning");
      acts[name]();
    });
  }

  const { turns: firstTurns, ...firstSeen } = play.conversation;
  play.conversation = firstSeen;
  play.changes = new window.DXChanges.Changes(play.conversation, {
    create: (values) => play.create(values),
    send: (values) => play.put(values),
    shown: (isRefused) => {
      drawHeads();
      if (!isRefused) settings?.read();
      if ($("play-text")?.value.trim()) count?.soon();
    },
  });
  const editable = play.mayChange && $("play-composer");
  const settings = editable ? new window.DXSettings.Settings(play) : null;
  const tokens = editable ? new window.DXHelpers.Tokens(play) : null;
  const count = editable ? composerCount() : null;
  const prompts = editable ? new window.DXHelpers.Prompts(play) : null;
  drawHeads();
  for (const value of firstTurns) play.add(value);
  for (const turn of play.turns) turn.cells.forEach((cell) => cell.drawControls());
  if (editable) compose();
  play.turns.at(-1)?.element.scrollIntoView({ block: "nearest" });
  follow();
})();
