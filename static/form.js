// The new-train form answers while somebody types: it sends the form as it stands and shows what comes back.
// The server decides (training/form/preview.py); this script only shows, and offers its fixes as buttons.
(() => {
  "use strict";
  const { format, icon, make, live, readJson } = window.DX;
  const form = document.querySelector("form.train-form");
  const page = readJson("form-data");
  const summary = document.querySelector("[data-summary]");
  // What nobody has chosen yet is no mistake until Run was pressed.
  const unasked = new Set(
    form.getAttribute("data-posted") ? [] : ["base_model", "dataset", "rewards"],
  );
  // Attributes and not form.dataset, which is the field of that name.
  const ASK_AFTER = 200; // ms of silence after a key
  const COUNT_AGAIN = 1500; // ms between two looks at a running token count

  const control = (name) => form.elements[name];
  const rows = [...form.querySelectorAll("[data-field]")];

  function valueOf(name) {
    const row = document.getElementById(`field-${name}`);
    const kind = row?.dataset.kind;
    if (kind === "bool") return control(name).checked ? "on" : "";
    if (kind === "modules") return modulesValue(name);
    if (kind === "options") return optionsValue(row);
    // Compared by the server alone.
    if (kind === "rewards") return row.dataset.default;
    return control(name)?.value.trim() ?? "";
  }

  function modulesValue(name) {
    if (control(name).value === "all-linear") return "all-linear";
    return [...form.querySelectorAll(`[name="${name}-names"]:checked`)]
      .map((box) => box.value)
      .join(", ");
  }

  function optionsValue(row) {
    const filled = [...row.querySelectorAll(".option-row")].filter((line) =>
      line.children[0].value.trim(),
    );
    const pairs = filled.map(
      (line) =>
        `${JSON.stringify(line.children[0].value.trim())}: ${jsonOf(line.children[1].value)}`,
    );
    return `{${pairs.join(", ")}}`;
  }

  function jsonOf(text) {
    try {
      JSON.parse(text);
      return text.trim();
    } catch {
      return JSON.stringify(text.trim());
    }
  }

  // 1 and 1.0 are the same, and so are 2e-4 and 0.0002.
  function same(one, other) {
    if (one === other) return true;
    const number = Number(one.replace(/,(?=\d{3})/g, ""));
    return one !== "" && other !== "" && Number.isFinite(number) && number === Number(other);
  }

  function marks() {
    for (const row of rows) {
      if (row.dataset.default === undefined) continue;
      const value = valueOf(row.dataset.field);
      row.querySelector("[data-reset]").hidden = same(value, row.dataset.default);
      const was = row.querySelector("[data-was]");
      if (row.dataset.original !== undefined) was.hidden = same(value, row.dataset.original);
    }
    for (const was of form.querySelectorAll("[data-was][data-original]")) {
      was.hidden = control(was.dataset.was).value === was.dataset.original;
    }
    const folded = form.querySelector("details[data-group]");
    if (folded) {
      const all = folded.querySelectorAll("[data-field]").length;
      const changed = folded.querySelectorAll("[data-reset]:not([hidden])").length;
      live(
        folded.querySelector("[data-changed-count]"),
        changed ? `${changed} changed` : `${all} settings, all at their defaults`,
      );
    }
  }

  // wanted: a value, a list of values, or {above: a number}.
  function fulfils(value, wanted) {
    if (wanted.above !== undefined) return Number(value) > wanted.above;
    return [wanted].flat().map(String).includes(value);
  }

  // Of a setting, its value and those that a sweep tries beside it.
  function triedOf(name) {
    const mode = control(`sweep-${name}-mode`)?.value;
    if (mode === "both") return ["on", ""];
    const ends = ["low", "high"].map((end) => control(`sweep-${name}-${end}`));
    const texts = form.querySelectorAll(`[name="sweep-${name}"]`);
    const more = { values: [...texts], range: ends }[mode] ?? [];
    return [valueOf(name), ...more.map((one) => one.value.trim()).filter(Boolean)];
  }

  function switches() {
    for (const [name, wanted] of Object.entries(page.activeWhen)) {
      const on = Object.entries(wanted).every(
        ([other, values]) =>
          !control(other) || triedOf(other).some((value) => fulfils(value, values)),
      );
      document.getElementById(`field-${name}`).toggleAttribute("data-inactive", !on);
    }
  }

  function facts() {
    const model = page.models[control("base_model").value];
    const text = form.querySelector('[data-facts="base_model"]');
    if (model && text) {
      const template = model.template
        ? "Chat template found."
        : "No chat template: a plain one is used.";
      const context = model.context
        ? `, reads up to ${format.thousands(model.context)} tokens`
        : "";
      live(text, `${format.big(model.parameters)} weights${context}. ${template}`);
    }
    const data = page.datasets[control("dataset").value];
    const beside = form.querySelector('[data-facts="dataset"]');
    if (data && beside && beside.dataset.shown !== control("dataset").value) {
      const bad = data.problems ? ` ${format.thousands(data.problems)} bad rows are left out.` : "";
      beside.replaceChildren(
        `${format.counted(data.rows, "row")}, ${data.format}.${bad} `,
        make("a", { href: data.url, textContent: "Open" }),
      );
      beside.dataset.shown = control("dataset").value;
    }
    for (const holder of form.querySelectorAll("[data-modules]"))
      modules(holder, model?.modules ?? []);
  }

  // Offered for models that keep the adapter which made them.
  function carrying() {
    const row = document.getElementById("field-continue_adapter");
    if (!row) return;
    const adapter = page.models[control("base_model").value]?.adapter ?? "";
    row.hidden = !adapter;
    if (adapter) live(row.querySelector("[data-adapter]"), adapter);
    else row.querySelector('[value=""]').checked = true;
  }

  // One entry a dataset: its option stands for the version that is chosen beside it.
  function versions(choice, version) {
    const menu = control(choice.dataset.datasetChoice);
    if (version !== undefined) menu.selectedOptions[0].value = version;
    const family = page.datasets[menu.value]?.family;
    const versionsOfFamily = Object.entries(page.datasets)
      .filter(([, data]) => data.family === family)
      .sort(([one], [other]) => other - one);
    const beside = control(`${choice.dataset.datasetChoice}_version`);
    beside.hidden = beside.disabled = versionsOfFamily.length < 2;
    beside.replaceChildren(
      ...versionsOfFamily.map(([id, data]) =>
        make("option", { value: id, textContent: data.version, selected: id === menu.value }),
      ),
    );
  }

  function modules(holder, names) {
    const shown = [...holder.querySelectorAll("input")].map((box) => box.value);
    if (
      names.length === 0 ||
      (shown.length === names.length && names.every((name) => shown.includes(name)))
    )
      return;
    const chosen = [...holder.querySelectorAll("input:checked")].map((box) => box.value);
    holder.replaceChildren(
      ...[...new Set([...names, ...chosen])].map((name) =>
        make(
          "label",
          { className: "check" },
          make("input", {
            className: "form-check-input",
            type: "checkbox",
            name: `${holder.dataset.modules}-names`,
            value: name,
            checked: chosen.includes(name),
          }),
          make("span", { className: "mono", textContent: name }),
        ),
      ),
    );
  }

  // The proposed name follows the dataset until somebody has written another.
  let proposed = control("name").value;
  function name() {
    const data = page.datasets[control("dataset").value];
    if (!data || control("copied_from") || control("name").value !== proposed) return;
    proposed = `${data.slug}-${location.pathname.split("/").filter(Boolean).at(-1)}`.slice(0, 120);
    control("name").value = proposed;
  }

  function optionRows(row) {
    const lines = [...row.querySelectorAll(".option-row")];
    if (!lines.at(-1).children[0].value.trim()) return;
    const next = lines.at(-1).cloneNode(true);
    for (const input of next.children) input.value = "";
    row.querySelector("[data-options]").append(next);
  }

  // What an option of the trainer does, once its name is there.
  function optionHelp(row) {
    const lines = [...row.querySelectorAll(".option-row")].flatMap((line) => {
      const option = page.options[line.children[0].value.trim()];
      if (!option) return [];
      const choices = option.choices?.length ? ` One of ${option.choices.join(", ")}.` : "";
      const usual =
        option.default === null || option.default === undefined
          ? ""
          : ` Default ${optionText(option.default)}.`;
      return [
        make(
          "span",
          { className: "block" },
          make("span", { className: "mono", textContent: line.children[0].value.trim() }),
          `: ${option.help}${choices}${usual}`,
        ),
      ];
    });
    row.querySelector("[data-option-help]").replaceChildren(...lines);
  }

  const optionText = (value) => (typeof value === "string" ? value : JSON.stringify(value));

  // Messages beside their fields
  function messages(answer) {
    for (const box of form.querySelectorAll("[data-messages]")) {
      const name = box.dataset.messages;
      const errors = unasked.has(name) ? [] : (answer.errors[name] ?? []);
      const warning = answer.warnings[name];
      const wanted = JSON.stringify([errors, warning, answer.fixes[name]]);
      if (box.dataset.shown !== wanted) {
        box.dataset.shown = wanted;
        box.replaceChildren(
          ...errors.map((text) => notice("red", "alert-circle", text, answer.fixes[name])),
          ...(warning && !errors.length
            ? [notice("amber", "alert-triangle", warning, answer.fixes[name])]
            : []),
        );
      }
      const input = document.getElementById(`id-${name}`);
      if (!input) continue;
      if (errors.length) input.setAttribute("aria-invalid", "true");
      else input.removeAttribute("aria-invalid");
      input.classList.toggle("is-warning", Boolean(warning) && !errors.length);
    }
  }

  function notice(tint, picture, text, fixes = []) {
    const box = make(
      "div",
      { className: `notice notice-${tint}` },
      icon(picture),
      make("div", { textContent: text }),
    );
    if (fixes?.length)
      box.append(make("div", { className: "notice-fixes" }, ...fixes.map(fixButton)));
    return box;
  }

  function fixButton(fix) {
    const button = make("button", { type: "button", className: "btn btn-sm" }, fix.label);
    if (fix.effect) button.append(make("span", { className: "unit", textContent: fix.effect }));
    button.addEventListener("click", () => take(fix.set));
    return button;
  }

  // Sets fields to what a fix says.
  function take(values) {
    for (const [name, value] of Object.entries(values)) {
      const field = control(name);
      if (field.type === "checkbox") field.checked = Boolean(value);
      else field.value = value;
    }
    const first = document.getElementById(`id-${Object.keys(values)[0]}`);
    first?.closest("details")?.setAttribute("open", "");
    first?.focus();
    changed();
  }

  // Memory: the server draws the bar.
  function forecast(answer) {
    const html = answer.forecast_html;
    const holder = summary.querySelector("[data-forecast]");
    if (html === undefined || holder.shownHtml === html) return;
    holder.shownHtml = html;
    const hadFocus = holder.contains(document.activeElement);
    const wasOpen = holder.querySelector("details")?.open;
    holder.innerHTML = html;
    if (wasOpen) holder.querySelector("details")?.setAttribute("open", "");
    if (hadFocus) holder.querySelector("input, [data-step-run]")?.focus();
    document.dispatchEvent(new CustomEvent("forecast:shown"));
  }

  // Summary
  const number = (key) => summary.querySelector(`[data-number="${key}"]`);
  const blank = "\u00a0";

  function numbers(answer) {
    const plan = answer.plan;
    summary.toggleAttribute("data-stale", !plan);
    if (plan) {
      live(number("effective_batch"), format.thousands(plan.effective_batch));
      live(number("steps"), format.thousands(plan.steps));
      live(number("steps_note"), `${format.thousands(plan.steps_per_epoch)} per epoch`);
      live(number("train_rows"), format.thousands(plan.train_rows));
      live(
        number("rows_note"),
        `${format.thousands(plan.eval_rows)} ${control("evaluation_dataset").value ? "to measure on" : "held out"}`,
      );
      live(number("cut"), plan.counted ? format.thousands(plan.cut) : "–");
      const share = plan.cut ? `, ${format.share(plan.cut / plan.total)}` : "";
      live(
        number("cut_note"),
        plan.counted ? `of ${format.thousands(plan.total)}${share}` : "tokens are being counted",
      );
      live(number("disk"), format.size(answer.disk.needed_bytes), { unit: true });
      live(number("disk_note"), `of ${format.size(answer.disk.free_bytes)} free`);
      live(number("time"), answer.time ? format.about(answer.time.seconds) : "–");
      live(
        number("time_note"),
        answer.time
          ? `± ${format.about(answer.time.error).replace("about ", "")}, ${answer.time.basis}`
          : "no similar train yet",
      );
    }
    const device = answer.worker.device;
    live(number("device"), device ? device.name || device.kind : "–");
    const ahead = answer.queue.waiting + answer.queue.running;
    live(
      number("starts"),
      !answer.worker.ready
        ? answer.warnings.launcher
          ? "when the cluster is back"
          : "when a worker is back"
        : answer.queue.paused
          ? "when the queue is resumed"
          : ahead
            ? `after ${format.counted(ahead, "other train")}`
            : "at once",
    );
  }

  function titleOf(name) {
    const label = document.querySelector(`#field-${CSS.escape(name)} label`);
    return page.titles[name] ?? label?.textContent ?? "This train";
  }

  function problems(answer) {
    const errors = Object.keys(answer.errors).filter((name) => !unasked.has(name));
    const listed = [
      ...errors.map((name) => ["error", name]),
      ...Object.keys(answer.warnings).map((name) => ["warning", name]),
    ];
    const list = summary.querySelector("[data-problems]");
    const key = JSON.stringify(listed);
    if (list.dataset.shown !== key) {
      list.dataset.shown = key;
      list.replaceChildren(
        ...listed.map(([kind, name]) =>
          make(
            "li",
            { className: kind === "error" ? "bad" : "warn" },
            icon(kind === "error" ? "alert-circle" : "alert-triangle"),
            make("span", { className: "visually-hidden", textContent: `${kind}: ` }),
            make("a", { href: `#field-${name}`, textContent: titleOf(name) }),
          ),
        ),
      );
    }
    const missing = Object.keys(answer.errors).filter((name) => unasked.has(name));
    const words = { base_model: "a base model", dataset: "a dataset", rewards: "a reward" };
    const titles = missing.map((name) => words[name]).join(" and ");
    const say = errors.length
      ? `Fix ${format.counted(errors.length, "error")} to run. Warnings do not stop you.`
      : missing.length
        ? `Choose ${titles} to run.`
        : listed.length
          ? "Warnings do not stop you."
          : blank;
    live(summary.querySelector("[data-run-note]"), say);
    for (const button of form.querySelectorAll("[data-run]")) button.disabled = !answer.ok;
    bar(answer, errors, say);
    chips();
  }

  function bar(answer, errors, say) {
    const text = form.querySelector("[data-bar-text]");
    text.classList.toggle("bad", errors.length > 0);
    live(text, answer.ok && answer.plan ? format.counted(answer.plan.steps, "step") : say);
  }

  function chips() {
    for (const holder of form.querySelectorAll("[data-group-chip]")) {
      const group = holder.closest(".card");
      const reds = group.querySelectorAll(".field-messages .notice-red").length;
      const ambers = group.querySelectorAll(".field-messages .notice-amber").length;
      const [count, word, tint] = reds ? [reds, "error", "red"] : [ambers, "warning", "amber"];
      const text = count ? format.counted(count, word) : "";
      if (holder.textContent === text) continue;
      holder.replaceChildren(
        ...(text ? [make("span", { className: `chip chip-${tint}`, textContent: text })] : []),
      );
    }
  }

  // What a blank field stands for.
  function blanks(answer) {
    for (const [name, value] of Object.entries(answer.blank ?? {})) {
      const input = document.getElementById(`id-${name}`);
      if (input) input.placeholder = value;
    }
  }

  function show(answer) {
    messages(answer);
    blanks(answer);
    numbers(answer);
    forecast(answer);
    problems(answer);
    form.dispatchEvent(new CustomEvent("dx:plan", { detail: answer }));
  }

  // Asking
  let asking = null,
    timer = null,
    again = null;

  async function ask() {
    asking?.abort();
    asking = new AbortController();
    const mine = asking;
    clearTimeout(again);
    try {
      const response = await fetch(form.getAttribute("data-plan"), {
        method: "POST",
        body: new URLSearchParams(new FormData(form)),
        signal: mine.signal,
        headers: { Accept: "application/json" },
      });
      if (!response.ok) throw new Error(`The server answered ${response.status}.`);
      const answer = await response.json();
      summary.removeAttribute("aria-busy");
      live(summary.querySelector("[data-state]"), "");
      show(answer);
      if (answer.plan && !answer.plan.counted) again = setTimeout(ask, COUNT_AGAIN);
    } catch (error) {
      if (error.name === "AbortError") return;
      // Old numbers stay, in grey; the button works: the server checks again anyway.
      live(summary.querySelector("[data-state]"), "not up to date, trying again");
      for (const button of form.querySelectorAll("[data-run]")) button.disabled = false;
      again = setTimeout(ask, 4000);
    }
  }

  function changed() {
    carrying();
    marks();
    switches();
    facts();
    name();
    summary.setAttribute("aria-busy", "true");
    clearTimeout(timer);
    timer = setTimeout(ask, ASK_AFTER);
  }

  function setBack(row, text) {
    const name = row.dataset.field;
    if (row.dataset.kind === "bool") control(name).checked = text === "on";
    else if (row.dataset.kind === "modules") modulesSet(row, name, text);
    else if (row.dataset.kind === "options") optionsSet(row, text);
    else control(name).value = text;
    document.getElementById(`id-${name}`)?.focus();
    changed();
  }

  function modulesSet(row, name, text) {
    control(name).value = text === "all-linear" ? text : "choose";
    const wanted = text.split(", ");
    for (const box of row.querySelectorAll(`[name="${name}-names"]`))
      box.checked = wanted.includes(box.value);
  }

  function optionsSet(row, text) {
    const holder = row.querySelector("[data-options]");
    const lines = [...holder.querySelectorAll(".option-row")];
    for (const line of lines.slice(1)) line.remove();
    for (const input of lines[0].children) input.value = "";
    for (const [option, value] of Object.entries(JSON.parse(text || "{}"))) {
      const last = holder.lastElementChild;
      last.children[0].value = option;
      last.children[1].value = optionText(value);
      optionRows(row);
    }
  }

  form.addEventListener("input", (event) => {
    unasked.delete(event.target.name);
    const choice = event.target.closest("[data-dataset-choice]");
    if (choice)
      versions(choice, event.target.name.endsWith("_version") ? event.target.value : undefined);
    const row = event.target.closest('[data-kind="options"]');
    if (row) {
      optionRows(row);
      optionHelp(row);
    }
    changed();
  });
  form.addEventListener("change", (event) => {
    // A browser that fills the form in again says so by change alone.
    if (event.target.matches("select")) unasked.delete(event.target.name);
    if (event.target.matches("[data-reward-menu]")) unasked.delete("rewards");
    changed();
  });
  form.addEventListener("click", (event) => {
    const row = event.target.closest("[data-field]");
    if (event.target.matches("[data-reset]")) setBack(row, row.dataset.default);
    else if (event.target.matches("[data-back]")) setBack(row, row.dataset.original);
  });
  summary.addEventListener("click", (event) => {
    const fix = event.target.closest("[data-fix]");
    if (fix) {
      take(JSON.parse(fix.dataset.fix));
      return;
    }
    const link = event.target.closest("[data-problems] a");
    if (!link) return;
    const row = document.querySelector(link.hash);
    if (!row) return;
    event.preventDefault();
    row.closest("details")?.setAttribute("open", "");
    row.scrollIntoView({ block: "center" });
    row.querySelector("input:not([type=hidden]), select, textarea")?.focus({ preventScroll: true });
  });
  // Enter in a field does not start hours of work: only the button does.
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.matches("input:not([type=submit])")) {
      event.preventDefault();
      changed();
    }
  });
  form.addEventListener("submit", ({ submitter }) => {
    if (submitter?.hasAttribute("formaction")) return;
    for (const text of form.querySelectorAll("[data-run-text]")) text.textContent = "Starting …";
  });
  // A step was tried: the forecast knows more.
  document.addEventListener("step:done", () => ask());
  addEventListener("pageshow", () => {
    form.dispatchEvent(new CustomEvent("dx:again"));
    for (const text of form.querySelectorAll("[data-run-text]"))
      text.textContent = form.getAttribute("data-run-words") ?? "Run the Train";
    carrying();
    marks();
    switches();
    facts();
    for (const row of form.querySelectorAll('[data-kind="options"]')) optionHelp(row);
    ask();
  });
  show(page.preview);
})();
