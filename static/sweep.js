// A sweep's charts and table point at each other: the line of a train and its row are lit together, by pointer and by
// keyboard, and what the line says stands below it.
(() => {
  "use strict";
  let lit = null,
    litText = "";

  function light(number, text) {
    lit = number;
    litText = text;
    for (const part of document.querySelectorAll("[data-trial]"))
      part.classList.toggle("is-lit", number !== null && part.dataset.trial === number);
    const words = document.querySelector("[data-lit]");
    if (words && text) DX.live(words, text);
  }

  const partOf = (event) => event.target.closest?.("[data-trial]");
  const textOf = (part) =>
    part.dataset.text ??
    document.querySelector(`.trial-line[data-trial="${part.dataset.trial}"]`)?.dataset.text;

  for (const name of ["pointerover", "focusin"])
    document.addEventListener(name, (event) => {
      const part = partOf(event);
      if (part) light(part.dataset.trial, textOf(part));
      else if (lit !== null && name === "pointerover") light(null);
    });

  // Its row is shown, and its train is the first link there.
  document.addEventListener("click", (event) => {
    const line = event.target.closest?.(".trial-line");
    if (!line) return;
    event.preventDefault();
    const row = document.getElementById(`trial-${line.dataset.trial}`);
    row?.scrollIntoView({ block: "center" });
    row?.querySelector("a")?.focus({ preventScroll: true });
    light(line.dataset.trial, textOf(line));
  });

  // The page is fetched again every few seconds, with the hint in the place of what the line says.
  document.addEventListener("htmx:afterSettle", () => {
    if (lit !== null) light(lit, litText);
  });
})();
