// The rewards of a new train: the menu adds a copy of a function's template under a key of its own, a button removes one.
// form.js hears of both by the form's events and asks the server what it says now.
(() => {
  "use strict";
  const form = document.querySelector("form.train-form");
  let key = 0;

  function add(holder, slug) {
    const template = [...holder.querySelectorAll("template")].find(
      (item) => item.dataset.reward === slug,
    );
    const rows = holder.querySelector("[data-reward-rows]");
    const taken = new Set(
      [...rows.querySelectorAll(`[name="${holder.dataset.rewards}-key"]`)].map(
        (input) => input.value,
      ),
    );
    while (taken.has(String(key))) key += 1;
    const row = template.content.firstElementChild.cloneNode(true);
    for (const item of row.querySelectorAll("[name], [id], [for]")) {
      for (const attribute of ["name", "id", "for"]) {
        const value = item.getAttribute(attribute);
        if (value) item.setAttribute(attribute, value.replace("-KEY-", `-${key}-`));
      }
      if (item.value === "KEY") item.value = String(key);
    }
    rows.append(row);
    holder.querySelector("[data-no-rewards]").hidden = true;
    row.querySelector("input:not([type=hidden]), select, textarea")?.focus();
  }

  form.addEventListener("change", (event) => {
    if (!event.target.matches("[data-reward-menu]") || !event.target.value) return;
    add(event.target.closest("[data-rewards]"), event.target.value);
    event.target.value = "";
  });
  form.addEventListener("click", (event) => {
    const button = event.target.closest("[data-reward-remove]");
    if (!button) return;
    const holder = button.closest("[data-rewards]");
    button.closest("[data-reward-row]").remove();
    holder.querySelector("[data-no-rewards]").hidden = Boolean(
      holder.querySelector("[data-reward-row]"),
    );
    const menu = holder.querySelector("[data-reward-menu]");
    menu.focus();
    menu.dispatchEvent(new Event("input", { bubbles: true }));
  });
})();
