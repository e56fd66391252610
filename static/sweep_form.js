// Several values in the form of a new train. What they come to is the server's to say (sweeps/form.py); this adds and
// takes away the controls, and has the form sent to where sweeps are made while a setting has more than one value.
(() => {
  "use strict";
  const { format, live } = window.DX;
  const form = document.querySelector("form.train-form");
  const panel = form.querySelector("[data-sweep-panel]");
  const sum = form.querySelector("[data-sweep-sum]");
  const fields = [...form.querySelectorAll("[data-sweep]")];
  const addresses = panel.dataset;

  const modeOf = (box) => box.querySelector('input[name$="-mode"]');
  const mainOf = (box) => form.elements[box.dataset.sweep];
  const buttonOf = (box, deed) => box.closest(".field").querySelector(`[data-sweep-do="${deed}"]`);
  const isSweep = () => fields.some((box) => modeOf(box).value);

  function show() {
    const on = isSweep();
    form.classList.toggle("is-sweep", on);
    form.setAttribute("action", on ? addresses.form : addresses.trainForm);
    form.setAttribute("data-plan", on ? addresses.plan : addresses.trainPlan);
    for (const box of fields) {
      const mode = modeOf(box).value;
      box.closest(".field").dataset.sweepMode = mode;
      box.querySelector("[data-sweep-range]").hidden = mode !== "range";
      const both = box.querySelector("[data-sweep-both]");
      if (both) both.hidden = mode !== "both";
    }
    const percentile = panel.querySelector("[data-sweep-percentile]");
    percentile.hidden = form.elements.pruner.value !== "percentile";
  }

  // What the form does when somebody types.
  const changed = () => form.dispatchEvent(new Event("change", { bubbles: true }));

  function add(box) {
    modeOf(box).value = "values";
    const main = mainOf(box);
    let control;
    if (main instanceof HTMLSelectElement) {
      control = main.cloneNode(true);
      const others = [...main.options].filter((option) => option.value !== main.value);
      const taken = [...box.querySelectorAll("[data-sweep-texts] select")].map((one) => one.value);
      control.value = (others.find((option) => !taken.includes(option.value)) ?? others[0])?.value;
    } else {
      control = document.createElement("input");
      control.className = "form-control";
      control.autocomplete = "off";
      control.spellcheck = false;
      control.maxLength = 2000;
      if (box.closest(".field").dataset.kind === "modules")
        control.placeholder = "all-linear, or q_proj, v_proj";
    }
    for (const name of ["id", "aria-describedby", "aria-invalid"]) control.removeAttribute(name);
    control.name = `sweep-${box.dataset.sweep}`;
    control.setAttribute("aria-label", `${box.dataset.title}: another value`);
    box.querySelector("[data-sweep-texts]").append(control);
    return control;
  }

  function range(box) {
    modeOf(box).value = "range";
    box.querySelector("[data-sweep-texts]").replaceChildren();
    const low = box.querySelector('input[name$="-low"]');
    if (!low.value) low.value = mainOf(box).value;
    return low;
  }

  function both(box) {
    modeOf(box).value = "both";
    return buttonOf(box, "drop");
  }

  function drop(box) {
    modeOf(box).value = "";
    box.querySelector("[data-sweep-texts]").replaceChildren();
    return box.closest(".field").querySelector("[data-sweep-do]");
  }

  const deeds = { add, range, both, drop };

  form.addEventListener("click", (event) => {
    const button = event.target.closest("[data-sweep-do]");
    if (!button) return;
    event.preventDefault();
    const target = deeds[button.dataset.sweepDo](
      button.closest(".field").querySelector("[data-sweep]"),
    );
    show();
    target?.focus();
    changed();
  });
  form.addEventListener("change", show);

  form.addEventListener("dx:plan", ({ detail }) => {
    const words = detail.sweep?.button ?? "Run the Train";
    form.setAttribute("data-run-words", words);
    for (const text of form.querySelectorAll("[data-run-text]")) live(text, words);
    live(sum, detail.sweep?.text ?? "");
    if (!detail.sweep) return;
    const bar = form.querySelector("[data-bar-text]");
    if (detail.ok) live(bar, format.counted(detail.sweep.trains, "train"));
  });
  // A browser that fills the form in again has the controls of the page as it came.
  form.addEventListener("dx:again", show);
  show();
})();
