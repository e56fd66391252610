// Train Overview: all parameters, or only those that were changed.
(() => {
  "use strict";
  const card = document.getElementById("parameters");
  const buttons = card.querySelectorAll("[data-show]");
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const changed = button.dataset.show === "changed";
      card.classList.toggle("only-changed", changed);
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      const more = card.querySelector(".more-options");
      if (more && changed) more.open = Boolean(more.querySelector(".parameter.changed"));
    });
  }
})();
