// A log, of a train or another job: read by byte offset, kept in pieces that the browser lays out only when they come
// into view, searched without touching the text (CSS highlights). Megabytes stay smooth because nothing is ever drawn
// twice.
(() => {
  "use strict";
  const { api, format, poll } = DX;
  const MOST_BYTES = 16 << 20; // of the end of the log are shown at first
  const PIECE_LINES = 200;
  const LONGEST_PIECE = 1 << 18; // characters: lines without an end must not make one endless piece
  const MOST_MATCHES = 10_000;
  const BEFORE_BYTES = 4096;
  const box = document.getElementById("log");
  const follow = document.getElementById("log-follow");
  const wrap = document.getElementById("log-wrap");
  const search = document.getElementById("log-search");
  const matchesText = document.getElementById("log-matches");
  const state = document.getElementById("log-state");
  const steps = document.querySelectorAll("[data-match]");
  const ENDED = ["finished", "failed", "stopped"];
  let ended = "ended" in box.dataset;
  let offset = null,
    size = 0,
    skipped = 0,
    complete = false,
    pieces = [],
    lines = 0,
    held = 0;
  let matches = [],
    current = -1,
    searching = 0,
    detached = false,
    view = 0, // counts what is looked at: the end, a part; an answer for an earlier view is dropped
    reading = null; // the view that is being read, by one reader: two would append the same pieces

  document.querySelector("[data-zone]").textContent =
    Intl.DateTimeFormat().resolvedOptions().timeZone;

  // Text that ends in a whole line goes on the last piece until that is full; a half line stays replaceable.
  function append(text) {
    if (!text) return;
    let rest = text;
    while (rest) {
      let piece = pieces.at(-1);
      if (!piece || piece.lines >= PIECE_LINES || piece.raw.length > LONGEST_PIECE) {
        const pre = document.createElement("pre");
        pre.className = "piece";
        pre.append(document.createTextNode(""));
        box.append(pre);
        piece = { node: pre.firstChild, lines: 0, raw: "" };
        pieces.push(piece);
      }
      let end = 0,
        taken = 0;
      while (taken < PIECE_LINES - piece.lines) {
        const next = rest.indexOf("\n", end);
        if (next < 0) {
          end = rest.length;
          break;
        }
        end = next + 1;
        taken += 1;
      }
      piece.lines += taken;
      lines += taken;
      piece.raw += rest.slice(0, end);
      // The last line break is the block's own end: shown as text it would draw an empty line.
      piece.node.data = format.log(piece.raw.replace(/\n$/, ""));
      rest = rest.slice(end);
      held += end;
    }
    while (held > 2 * MOST_BYTES) {
      const [oldest] = pieces.splice(0, 1);
      held -= oldest.raw.length;
      oldest.node.parentElement.remove();
    }
    if (search.value) find(false);
  }

  function toEnd() {
    box.scrollTop = box.scrollHeight;
  }

  function clear() {
    pieces = [];
    lines = held = 0;
    box.replaceChildren();
  }

  async function read() {
    if (detached || reading === view) return;
    const mine = view;
    reading = mine;
    try {
      await readView(mine);
    } finally {
      if (reading === mine) reading = null;
    }
  }

  async function readView(mine) {
    if (offset === null) {
      const first = await api(`${box.dataset.url}?offset=0&limit=1`);
      if (mine !== view) return;
      skipped = Math.max(0, first.size - MOST_BYTES);
      offset = skipped;
      clear();
      document.dispatchEvent(
        new CustomEvent("log:size", { detail: { size: first.size, skipped } }),
      );
    }
    let fresh = skipped > 0 && pieces.length === 0;
    do {
      const answer = await api(`${box.dataset.url}?offset=${offset}`);
      if (mine !== view) return;
      let text = answer.text;
      if (fresh) text = text.slice(text.indexOf("\n") + 1);
      fresh = false;
      const moved = answer.offset > offset;
      offset = answer.offset;
      size = answer.size;
      append(text);
      if (follow.checked) toEnd();
      describe();
      if (!moved) break;
    } while (offset < size);
    complete = ended && offset >= size;
    describe();
  }

  function describe() {
    const part = skipped ? `, the first ${format.size(skipped)} by place or search` : "";
    const read =
      offset < size
        ? `reading, ${format.share(offset / size)}`
        : ended
          ? "complete"
          : follow.checked
            ? "following"
            : "live";
    DX.live(
      state,
      size
        ? `${format.size(size)}, ${format.counted(lines, "line")}, ${read}${part}`
        : ended
          ? box.dataset.nothing
          : "Nothing written yet.",
    );
  }

  // Of a log too long to be shown whole: the part from byte `at` on, where a line begins, under some lines before it.
  // What is written meanwhile waits.
  async function showPart(at) {
    detached = true;
    follow.checked = false;
    const mine = ++view;
    const start = Math.max(0, at - BEFORE_BYTES);
    const [before, after] = await Promise.all([
      at ? api(`${box.dataset.url}?offset=${start}&limit=${at - start}`) : { text: "" },
      api(`${box.dataset.url}?offset=${at}`),
    ]);
    if (mine !== view) return;
    clear();
    append(start ? before.text.slice(before.text.indexOf("\n") + 1) : before.text);
    // Where its first line comes to stand: on the last piece, or at the beginning of the next.
    const last = pieces.at(-1),
      length = last ? last.node.data.length : 0;
    append(after.text);
    const goesOn = last && last.node.data.length > length;
    const node = goesOn ? last.node : pieces[pieces.indexOf(last) + 1]?.node;
    if (node?.length) bring([node, goesOn ? Math.min(length + 1, node.length - 1) : 0], 1);
    DX.live(state, `Around ${format.size(at)} of ${format.size(after.size)}`);
  }

  function toTheEnd() {
    detached = complete = false;
    offset = null;
    view += 1;
    follow.checked = true;
    // Of what has ended nobody looks by himself any more.
    if (ended) read();
    else polling.now();
  }

  const polling = poll(read, () => (complete ? null : 1), {
    failed: (error, since) =>
      DX.live(state, `Not live since ${format.clock(since)}. What is shown stays.`),
  });
  // "train:status" comes from train.js, "job:status" from jobs.js.
  for (const name of ["train:status", "job:status"])
    document.addEventListener(name, (event) => {
      ended = ENDED.includes(event.detail.status);
      polling.now();
    });

  // Scrolling up lets go of the end, scrolling down to it takes hold again.
  let before = 0;
  box.addEventListener(
    "scroll",
    () => {
      const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 24;
      if (box.scrollTop < before - 4 && !atEnd) follow.checked = false;
      before = box.scrollTop;
    },
    { passive: true },
  );
  follow.addEventListener("change", () => {
    if (follow.checked) toEnd();
    describe();
  });
  wrap.addEventListener("change", () => {
    box.classList.toggle("wrap", wrap.checked);
    try {
      localStorage.setItem("log-wrap", wrap.checked ? "1" : "");
    } catch {
      /* holds for this page only */
    }
    if (follow.checked) toEnd();
  });
  try {
    wrap.checked = localStorage.getItem("log-wrap") === "1";
  } catch {
    /* as it is */
  }
  box.classList.toggle("wrap", wrap.checked);

  // All places of the searched text, ignoring case: [text node, start].
  function find(jump = true) {
    const wanted = search.value.toLowerCase();
    matches = [];
    if (wanted) {
      for (const { node } of pieces) {
        const text = node.data.toLowerCase();
        // Lower case of some letters is longer than the letter: then offsets would be another text's.
        if (text.length !== node.data.length) continue;
        for (
          let at = text.indexOf(wanted);
          at >= 0 && matches.length < MOST_MATCHES;
          at = text.indexOf(wanted, at + wanted.length)
        )
          matches.push([node, at]);
      }
    }
    if (jump) current = matches.length ? 0 : -1;
    current = Math.min(current, matches.length - 1);
    draw(wanted.length);
    if (jump && current >= 0) show();
  }

  function range([node, at], length) {
    const selection = new Range();
    selection.setStart(node, at);
    selection.setEnd(node, Math.min(node.length, at + length));
    return selection;
  }

  function draw(length) {
    for (const step of steps) step.disabled = matches.length === 0;
    const most = matches.length >= MOST_MATCHES ? "+" : "";
    DX.live(
      matchesText,
      !search.value
        ? ""
        : matches.length
          ? `${format.thousands(current + 1)} of ${format.thousands(matches.length)}${most}`
          : "Not found",
    );
    if (!CSS.highlights) return;
    CSS.highlights.set("log-match", new Highlight(...matches.map((match) => range(match, length))));
    CSS.highlights.set(
      "log-current",
      new Highlight(...(current >= 0 ? [range(matches[current], length)] : [])),
    );
  }

  // Text of a piece into the middle of the box; twice, since what comes into view is laid out only then.
  function bring(text, length) {
    const frame = box.getBoundingClientRect();
    for (let turn = 0; turn < 2; turn += 1) {
      text[0].parentElement.scrollIntoView({ block: "nearest" });
      const place = range(text, length).getBoundingClientRect();
      box.scrollTop += place.top - frame.top - box.clientHeight / 2;
      if (!wrap.checked && (place.right > frame.right || place.left < frame.left))
        box.scrollLeft += place.left - frame.left - box.clientWidth / 2;
    }
  }

  function show() {
    follow.checked = false;
    bring(matches[current], search.value.length);
    describe();
  }

  function step(by) {
    if (!matches.length) return;
    current = (current + by + matches.length) % matches.length;
    draw(search.value.length);
    show();
  }

  search.addEventListener("input", () => {
    clearTimeout(searching);
    searching = setTimeout(find, 150);
  });
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      event.preventDefault();
      step(event.shiftKey ? -1 : 1);
    }
  });
  for (const button of steps)
    button.addEventListener("click", () => step(Number(button.dataset.match)));
  window.DXLog = { showPart, toTheEnd };
})();
