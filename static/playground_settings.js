// DXSettings: what is asked beside the prompt. Reads the conversation into the fields, and tells `play.change(values)`
// what was changed.
(() => {
  "use strict";
  const $ = (id) => document.getElementById(id);
  const WORDS = {
    tools: "tools",
    json_object: "JSON",
    json_schema: "JSON schema",
    min_p: "min p",
    penalties: "penalties",
    seed: "a seed",
  };

  class Settings {
    constructor(play) {
      this.play = play;
      this.chosen = null; // index of the pane whose sampling is shown; null for all
      this.abilities = new Map(); // title -> abilities
      this.refused = null; // the field whose text is not what is stored
      this.unfinished = false; // a schema is asked for, and not written yet
      this.wide = matchMedia("(min-width: 1200px)");
      $("play-fold").open = this.wide.matches && play.conversation.panes.length < 3;
      this.read();
      $("play-settings").addEventListener("change", (event) => this.changed(event.target));
    }

    get sampling() {
      return this.play.conversation.panes[this.chosen ?? 0]?.sampling || {};
    }

    // The conversation into the fields, but for what somebody is still writing.
    read() {
      const { conversation } = this.play;
      const count = conversation.panes.length;
      if (this.chosen !== null && this.chosen >= count) this.chosen = null;
      $("play-blind").checked = conversation.blind;
      $("play-blind").disabled = count !== 2;
      $("play-blind-help").hidden = count === 2;
      const { tools, system_prompt: system, response_format: form } = conversation;
      this.put($("play-system"), system);
      this.put($("play-functions"), tools.length ? JSON.stringify(tools, null, 2) : "");
      if (!this.unfinished && this.refused !== $("play-schema")) {
        this.put($("play-form"), form.type || "");
        $("play-schema").hidden = form.type !== "json_schema";
        if (form.json_schema)
          this.put($("play-schema"), JSON.stringify(form.json_schema.schema, null, 2));
      }
      this.readSampling();
      this.drawChoices();
      this.drawAbilities();
    }

    put(field, text) {
      if (field !== document.activeElement && field !== this.refused) field.value = text;
    }

    readSampling() {
      for (const field of document.querySelectorAll("[data-sampling]")) {
        const value = this.sampling[field.dataset.sampling];
        this.put(field, Array.isArray(value) ? value.join("\n") : (value ?? ""));
      }
    }

    drawChoices() {
      const { panes } = this.play.conversation;
      $("play-for").hidden = panes.length < 2;
      const names = ["All", ...panes.map((_, index) => String(index + 1))];
      $("play-for-choices").replaceChildren(
        ...names.map((name, index) => {
          const which = index === 0 ? null : index - 1;
          const button = DX.make("button", { type: "button", textContent: name });
          button.ariaPressed = String(which === this.chosen);
          button.title = which === null ? "All models" : panes[which].title;
          button.addEventListener("click", () => {
            this.chosen = which;
            this.refuse("");
            this.readSampling();
            this.drawChoices();
          });
          return button;
        }),
      );
    }

    learn(title, abilities) {
      this.abilities.set(title, abilities);
      this.drawAbilities();
    }

    // What a model that is loaded cannot do is said where somebody asks for it.
    drawAbilities() {
      const lacking = [];
      for (const pane of this.play.conversation.panes) {
        const known = this.abilities.get(pane.title);
        if (!known) continue;
        const missing = Object.keys(WORDS).filter((name) => !known.includes(name));
        if (missing.length)
          lacking.push(`${pane.title}: no ${missing.map((name) => WORDS[name]).join(", no ")}.`);
      }
      $("play-abilities").textContent = lacking.join(" ");
    }

    refuse(text, field = null) {
      this.refused = text ? field : null;
      $("play-error").textContent = text;
      $("play-error").hidden = !text;
      for (const one of document.querySelectorAll("#play-settings [aria-invalid]"))
        one.removeAttribute("aria-invalid");
      if (text && field) field.ariaInvalid = "true";
    }

    async changed(field) {
      let change;
      try {
        change = this.change(field);
      } catch (error) {
        return this.refuse(error.message, field);
      }
      if (!change) return;
      if (this.refused === field) this.refuse("");
      try {
        await this.play.change(change);
      } catch (error) {
        this.refuse(DX.reasonOf(error), field);
      }
    }

    // What a field says, as DXChanges has it. Throws with words for people.
    change(field) {
      if (field.dataset.sampling) return this.sampled(field);
      const values = this.values(field);
      return values && (() => values);
    }

    values(field) {
      if (field.id === "play-blind") return { blind: field.checked };
      if (field.id === "play-system") return { system_prompt: field.value };
      if (field.id === "play-functions") return { tools: json(field, "tools", []) };
      if (field.id === "play-form" || field.id === "play-schema") {
        const type = $("play-form").value;
        this.unfinished = type === "json_schema" && !$("play-schema").value.trim();
        $("play-schema").hidden = type !== "json_schema";
        if (type !== "json_schema") return { response_format: type ? { type } : {} };
        if (this.unfinished) return null;
        const schema = json($("play-schema"), "schema", {});
        return { response_format: { type, json_schema: { name: "answer", schema } } };
      }
      return null;
    }

    sampled(field) {
      const name = field.dataset.sampling;
      const value = sampled(field);
      const { chosen } = this;
      const set = (pane, index) => {
        if (chosen !== null && chosen !== index) return pane;
        const sampling = { ...pane.sampling };
        if (value === null) delete sampling[name];
        else sampling[name] = value;
        return { ...pane, sampling };
      };
      return ({ panes }) => ({ panes: panes.map(set) });
    }
  }

  function sampled(field) {
    if (field.dataset.sampling === "stop") {
      const lines = field.value.split("\n").filter(Boolean);
      return lines.length ? lines : null;
    }
    if (field.validity.badInput) throw new Error("Give a number.");
    return field.value === "" ? null : Number(field.value);
  }

  function json(field, what, empty) {
    if (!field.value.trim()) return empty;
    try {
      return JSON.parse(field.value);
    } catch (error) {
      throw new Error(`The ${what} cannot be read as JSON: ${error.message}`);
    }
  }

  window.DXSettings = { Settings };
})();
