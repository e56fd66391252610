// Search over everything: Ctrl-K (or Command-K) anywhere, "/" where the page has no search of its own.
(() => {
  "use strict";
  const { api, icon, make } = DX;
  const dialog = document.getElementById("search-dialog");
  if (!dialog) return;
  const input = document.getElementById("search-input");
  const box = document.getElementById("search-hits");
  const note = document.getElementById("search-note");
  const HINT = "Names, labels, or #number. Arrow keys choose, Enter opens.";
  const isMac = /Mac|iPhone|iPad/.test(navigator.platform);
  let number = 0,
    timer = null,
    active = -1;

  const options = () => [...box.querySelectorAll('[role="option"]')];

  function open() {
    if (dialog.open || document.querySelector("dialog[open]")) return;
    for (const menu of document.querySelectorAll("details.menu[open]")) menu.open = false;
    dialog.showModal();
    input.select();
    input.focus();
    if (!input.value) clear();
  }

  function clear() {
    box.replaceChildren();
    note.textContent = HINT;
    choose(-1);
  }

  // Mark one hit as the one that Enter opens.
  function choose(index) {
    const all = options();
    active = all.length ? Math.max(-1, Math.min(index, all.length - 1)) : -1;
    all.forEach((item, place) => item.setAttribute("aria-selected", String(place === active)));
    input.setAttribute("aria-expanded", String(all.length > 0));
    if (active < 0) return input.removeAttribute("aria-activedescendant");
    input.setAttribute("aria-activedescendant", all[active].id);
    all[active].scrollIntoView({ block: "nearest" });
  }

  function hit(item, id) {
    const link = make(
      "a",
      { className: "search-hit", href: item.url, id, tabIndex: -1 },
      icon(item.icon),
      make("span", { className: "clip", textContent: item.title }),
      make("span", { className: "small faint clip", textContent: item.note }),
    );
    link.setAttribute("role", "option");
    return link;
  }

  function draw(groups, words) {
    let count = 0;
    box.replaceChildren(
      ...groups.map((group) => {
        const title = make("div", {
          className: "search-kind",
          id: `search-${group.kind}`,
          textContent: group.title,
        });
        const hits = group.hits.map((item) => hit(item, `search-hit-${count++}`));
        if (group.more) {
          const all = {
            title: `All ${group.title.toLowerCase()} with “${words}”`,
            note: "",
            url: group.more,
            icon: "arrow-narrow-right",
          };
          hits.push(hit(all, `search-hit-${count++}`));
        }
        const section = make("div", {}, title, ...hits);
        section.setAttribute("role", "group");
        section.setAttribute("aria-labelledby", title.id);
        return section;
      }),
    );
    note.textContent = count
      ? `${count} result${count === 1 ? "" : "s"}`
      : `Nothing is called “${words}”. Try part of a name.`;
    choose(count ? 0 : -1);
  }

  async function ask() {
    const words = input.value.trim();
    const mine = ++number;
    if (!words) return clear();
    try {
      const groups = await api(`${dialog.dataset.url}?q=${encodeURIComponent(words)}`);
      if (mine === number) draw(groups, words);
    } catch (problem) {
      if (mine !== number) return;
      box.replaceChildren();
      note.textContent = `The search did not work. ${problem.message}`;
      choose(-1);
    }
  }

  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(ask, 120);
  });
  input.addEventListener("keydown", (event) => {
    const steps = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in steps) {
      event.preventDefault();
      const count = options().length;
      if (count) choose((active + steps[event.key] + count) % count);
    } else if (event.key === "Enter") {
      event.preventDefault();
      const link = options()[active];
      if (!link) return;
      if (event.ctrlKey || event.metaKey) window.open(link.href);
      else location.assign(link.href);
    }
  });
  box.addEventListener("pointermove", (event) => {
    const index = options().indexOf(event.target.closest('[role="option"]'));
    if (index >= 0 && index !== active) choose(index);
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });

  document.addEventListener("keydown", (event) => {
    const wants =
      event.key.toLowerCase() === "k" &&
      (event.ctrlKey || event.metaKey) &&
      !event.shiftKey &&
      !event.altKey;
    if (wants) {
      event.preventDefault();
      if (dialog.open) dialog.close();
      else open();
      return;
    }
    const typing = event.target.closest?.("input, textarea, select, dialog, [contenteditable]");
    const plain = event.key === "/" && !event.ctrlKey && !event.metaKey && !event.altKey;
    if (plain && !typing && !document.querySelector("[data-search]")) {
      event.preventDefault();
      open();
    }
  });
  for (const button of document.querySelectorAll("[data-search-open]"))
    button.addEventListener("click", open);
  if (isMac)
    for (const key of document.querySelectorAll("[data-search-key]")) key.textContent = "⌘ K";
})();
