// A log that is too long to be shown whole: anywhere in it by a slider, and a search of all of it on the server, whose
// matches appear while the search continues.
(() => {
  "use strict";
  const { api, format, make } = DX;
  const MOST_SHOWN = 1000;
  const box = document.getElementById("log");
  const search = document.getElementById("log-search");
  const bar = document.getElementById("log-whole");
  const slider = bar.querySelector("[data-place]");
  const status = bar.querySelector("[data-search-status]");
  const list = document.getElementById("log-found");
  let size = 0,
    turn = 0,
    waiting = 0;

  document.addEventListener("log:size", (event) => {
    size = event.detail.size;
    bar.hidden = event.detail.skipped === 0;
    if (!bar.hidden && search.value) look();
  });

  slider.addEventListener("change", async () => {
    const about = Math.floor((size * Number(slider.value)) / 1000);
    if (about >= size) return DXLog.toTheEnd();
    // From the beginning of the next line on.
    const { text } = await api(`${box.dataset.url}?offset=${about}&limit=65536`);
    const skipped = about
      ? new TextEncoder().encode(text.slice(0, text.indexOf("\n") + 1)).length
      : 0;
    await DXLog.showPart(about + skipped);
  });

  bar.querySelector("[data-end]").addEventListener("click", () => {
    slider.value = 1000;
    DXLog.toTheEnd();
  });

  async function look() {
    const mine = ++turn,
      words = search.value;
    let count = 0,
      at = 0;
    list.replaceChildren();
    list.hidden = !words;
    while (words && at !== null && count < MOST_SHOWN) {
      const answer = await api(
        `${box.dataset.url}search/?q=${encodeURIComponent(words)}&offset=${at}`,
      );
      // Other words were asked for meanwhile.
      if (mine !== turn) return;
      count += answer.matches.length;
      at = answer.next;
      list.append(
        ...answer.matches.map(({ offset, text }) => {
          const button = make(
            "button",
            { type: "button", className: "log-hit mono" },
            make("span", { className: "faint", textContent: format.size(offset) }),
            make("span", { textContent: format.log(text) }),
          );
          button.addEventListener("click", () => jump(button, offset));
          return make("li", {}, button);
        }),
      );
      status.textContent =
        at === null
          ? `${format.counted(count, "line")} in the whole log`
          : `${format.counted(count, "line")}, ${format.share(at / answer.size)} searched`;
    }
    if (!words) status.textContent = "";
  }

  function jump(button, offset) {
    for (const other of list.querySelectorAll('[aria-current="true"]'))
      other.removeAttribute("aria-current");
    button.setAttribute("aria-current", "true");
    slider.value = Math.floor((offset / size) * 1000);
    return DXLog.showPart(offset);
  }

  search.addEventListener("input", () => {
    if (bar.hidden) return;
    clearTimeout(waiting);
    waiting = setTimeout(look, 300);
  });
})();
