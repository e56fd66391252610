// What is wrong with the layout of the page at its present width: [{key, line to read}]. An expression: a function of
// {targets: whether what can be clicked is held to a finger's size}.
({ targets }) => {
  const COLUMN = 120;
  const CUT_COLUMN = 80;
  const TARGET = 44;
  const root = document.documentElement;
  // {rule and kind of element: [the first such line, how many]}
  const found = new Map();

  function say(rule, element, detail) {
    const key = `${rule}: ${kind(element)}`;
    if (!found.has(key)) found.set(key, [`${key} ${words(element)} ${detail}`, 0]);
    found.get(key)[1] += 1;
  }

  function kind(element) {
    const css = element.getAttribute("class")?.trim().split(/\s+/).slice(0, 3).join(".");
    const parent = element.parentElement?.getAttribute("class")?.trim().split(/\s+/)[0];
    return `${parent ? `.${parent} > ` : ""}${element.localName}${css ? `.${css}` : ""}`;
  }

  function words(element) {
    const text = element.textContent || element.value || element.id;
    return `"${text.trim().replace(/\s+/g, " ").slice(0, 40)}"`;
  }

  const styles = new Map();
  const style = (element) => {
    if (!styles.has(element)) styles.set(element, getComputedStyle(element));
    return styles.get(element);
  };

  // What stands over the page on purpose, and what only screen readers meet.
  const APART =
    "dialog, .toasts, .topbar, .compare-bar, .run-bar, .skip-link, .visually-hidden, canvas, svg, option, noscript";
  const MENU = "details.menu > :not(summary)";

  const seen = new Map();
  function visible(element) {
    if (!element) return true;
    if (!seen.has(element)) seen.set(element, shown(element));
    return seen.get(element);
  }
  function shown(element) {
    return (
      !element.matches(APART) &&
      !element.matches(MENU) &&
      visible(element.parentElement) &&
      drawn(element)
    );
  }
  function drawn(element) {
    const css = style(element);
    if (css.display === "none" || css.visibility === "hidden" || css.opacity === "0") return false;
    return css.clipPath === "none" || !css.clipPath.startsWith("inset(50%");
  }
  // A closed <details> hides its content without any style that says so.
  const open = (element) => element.checkVisibility({ contentVisibilityAuto: true });

  const scrolls = (element) => element && ["auto", "scroll"].includes(style(element).overflowX);

  // The part of a box that its scrolling and cutting ancestors let through; null where nothing is left.
  function clipped(box, element) {
    let { left, right, top, bottom } = box;
    for (let at = element; at && at !== document.body; at = at.parentElement) {
      const css = style(at);
      if (css.display === "inline") continue;
      if (css.overflowX !== "visible" || css.overflowY !== "visible") {
        const frame = at.getBoundingClientRect();
        left = Math.max(left, frame.left);
        right = Math.min(right, frame.right);
        top = Math.max(top, frame.top);
        bottom = Math.min(bottom, frame.bottom);
      }
    }
    return right - left > 1 && bottom - top > 1 ? { left, right, top, bottom } : null;
  }

  // Every text that can be read: [{element, text, lines: [box]}].
  function textsOf() {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const range = document.createRange();
    const texts = [];
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const element = node.parentElement;
      if (
        !node.data.trim() ||
        element.closest("script, style, .log") ||
        !visible(element) ||
        !open(element)
      )
        continue;
      range.selectNodeContents(node);
      const lines = [...range.getClientRects()].filter((box) => box.width > 0);
      texts.push({ node, element, lines });
    }
    return texts;
  }

  // Whether the words stand on more than one line.
  function lineCount(lines) {
    let count = 0;
    let bottom = -Infinity;
    for (const box of lines) {
      if (box.top >= bottom - 2) {
        count += 1;
        bottom = box.bottom;
      }
    }
    return count;
  }

  function block(element) {
    let at = element;
    while (
      style(at).display.startsWith("inline") &&
      !["inline-block", "inline-flex", "inline-grid"].includes(style(at).display)
    )
      at = at.parentElement;
    return at;
  }

  function checkScroll() {
    const over = root.scrollWidth - root.clientWidth;
    if (over <= 0) return;
    for (const element of document.body.querySelectorAll("*")) {
      const box = element.getBoundingClientRect();
      if (
        box.width &&
        box.right > root.clientWidth + 1 &&
        !element.children.length &&
        drawn(element)
      ) {
        say("sideways scroll", element, `ends at ${Math.round(box.right)} of ${root.clientWidth}`);
      }
    }
    if (!found.size) say("sideways scroll", document.body, `${over} px`);
  }

  function checkColumn({ element, node, lines }) {
    const text = node.data.trim().replace(/\s+/g, " ");
    const home = block(element);
    const width = home.clientWidth || home.getBoundingClientRect().width;
    const cut = home.scrollWidth > home.clientWidth + 1;
    // One line that is cut may be narrower, but not where it says what the row is.
    const least = !cut || home.closest("th[scope=row]") ? COLUMN : CUT_COLUMN;
    if (text.length < 24 || width >= least) return;
    if (cut || lineCount(lines) > 3 || !lines.length)
      say("narrow text", home, `is ${Math.round(width)} px wide`);
  }

  // A word of ordinary length that goes over the end of its line.
  function checkWords({ element, node, lines }, range) {
    if (lineCount(lines) < 2) return;
    for (const word of node.data.matchAll(/[\p{L}\p{N}.,_-]{4,22}/gu)) {
      // A hyphen is a place to break at, and so is the underscore's neighbour in a longer name.
      if (
        /[-_/]/.test(word[0]) ||
        /\S/.test(node.data[word.index - 1] || " ") ||
        /\S/.test(node.data[word.index + word[0].length] || " ")
      )
        continue;
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const boxes = [...range.getClientRects()].filter((box) => box.width > 0);
      if (lineCount(boxes) > 1) {
        say("broken word", block(element), `breaks inside "${word[0]}"`);
        return;
      }
    }
  }

  function checkCard({ element, lines }) {
    const card = element.closest(".card, .notice, .menu-list, .module");
    if (!card || !lines.length) return;
    const frame = card.getBoundingClientRect();
    for (let at = element; at && at !== card; at = at.parentElement) {
      if (style(at).overflowX !== "visible" && style(at).display !== "inline") return;
    }
    const right = Math.max(...lines.map((box) => box.right));
    if (right > frame.right + 1)
      say("leaves its card", element, `by ${Math.round(right - frame.right)} px`);
  }

  const CONTROLS = "button, .btn, input:not([type=hidden]), select, textarea, summary";

  function checkControls() {
    for (const control of document.querySelectorAll(`${CONTROLS}, table`)) {
      if (!visible(control) || !open(control)) continue;
      checkCard({ element: control, lines: [control.getBoundingClientRect()] });
    }
  }

  // Cut by an ellipsis although the box beside it is empty.
  function checkCut(element) {
    const css = style(element);
    if (
      css.overflowX === "visible" ||
      css.textOverflow !== "ellipsis" ||
      element.scrollWidth <= element.clientWidth + 1
    )
      return;
    if (element.matches("select, input")) return;
    const cell = element.closest("td, th") || element.parentElement;
    if (!cell || !visible(element) || !open(element)) return;
    const inner = cell.getBoundingClientRect();
    const room = inner.right - parseFloat(style(cell).paddingRight) - rightmost(cell);
    if (room > 16) say("cut beside room", element, `has ${Math.round(room)} px of room`);
    const slack = slackOf(cell);
    if (slack >= 64 && element.clientWidth < 280)
      say(
        "cut beside room",
        element,
        `is ${element.clientWidth} px; other columns keep ${Math.round(slack)} px empty`,
      );
  }

  // Right edge of what a cell holds.
  function rightmost(cell) {
    let right = cell.getBoundingClientRect().left;
    const range = document.createRange();
    for (const child of cell.childNodes) {
      if (child.nodeType === Node.TEXT_NODE ? !child.data.trim() : !visible(child)) continue;
      range.selectNode(child);
      for (const box of range.getClientRects()) right = Math.max(right, box.right);
    }
    return right;
  }

  // Pixels that the columns of a cell's table keep empty in every row.
  const slacks = new Map();
  function slackOf(cell) {
    const table = cell.closest("table");
    if (!table || style(table).display !== "table") return 0;
    if (!slacks.has(table))
      slacks.set(
        table,
        [...columnSlacks(table).values()].reduce((sum, value) => sum + value, 0),
      );
    return slacks.get(table);
  }
  function columnSlacks(table) {
    const slack = new Map();
    const range = document.createRange();
    for (const row of table.rows) {
      for (const cell of row.cells) {
        if (!visible(cell) || cell.colSpan > 1) continue;
        const css = style(cell);
        // Kept free on purpose: what stands in it changes while somebody looks.
        const kept = parseFloat(css.minWidth) >= cell.offsetWidth - 1;
        const room = kept
          ? 0
          : cell.clientWidth -
            parseFloat(css.paddingLeft) -
            parseFloat(css.paddingRight) -
            used(cell, range);
        slack.set(
          cell.cellIndex,
          Math.max(0, Math.min(slack.get(cell.cellIndex) ?? Infinity, room)),
        );
      }
    }
    return slack;
  }
  function used(cell, range) {
    let left = Infinity;
    let right = -Infinity;
    const walker = document.createTreeWalker(cell, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const element = node.nodeType === Node.TEXT_NODE ? node.parentElement : node;
      if (
        node.nodeType === Node.TEXT_NODE
          ? !node.data.trim()
          : !node.matches("svg, input, progress, .btn, .avatar")
      )
        continue;
      if (!visible(element) && !element.matches("svg")) continue;
      range.selectNode(node);
      for (const box of range.getClientRects()) {
        left = Math.min(left, box.left);
        right = Math.max(right, box.right);
      }
    }
    return right > left ? right - left : 0;
  }

  // Two texts, or a text and a control that it is not part of, on the same pixels.
  function checkOverlaps(texts) {
    const boxes = [];
    for (const { element, lines } of texts) {
      for (const line of lines) {
        const box = clipped(line, element);
        if (box) boxes.push({ ...box, element, text: true });
      }
    }
    for (const control of document.querySelectorAll(CONTROLS)) {
      if (!visible(control) || !open(control) || control.matches(".segmented input, [type=file]"))
        continue;
      const box = clipped(control.getBoundingClientRect(), control.parentElement);
      if (box) boxes.push({ ...box, element: control, text: false });
    }
    boxes.sort((one, other) => one.top - other.top);
    for (let i = 0; i < boxes.length; i += 1) {
      for (let j = i + 1; j < boxes.length && boxes[j].top < boxes[i].bottom; j += 1)
        compare(boxes[i], boxes[j]);
    }
  }
  function compare(one, other) {
    if (one.element === other.element || (!one.text && !other.text)) return;
    if (one.element.contains(other.element) || other.element.contains(one.element)) return;
    const across = Math.min(one.right, other.right) - Math.max(one.left, other.left);
    const down = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
    if (across < 3 || down < 4) return;
    // A unit stands in its field, a key's sign in the search, on purpose.
    if (
      [one, other].some(
        ({ element }) => element.matches(".unit, .kbd") && !element.closest("td, dd"),
      )
    )
      return;
    if (stuck(one.element) !== stuck(other.element)) return;
    say("overlap", one.element, `and ${kind(other.element)} ${words(other.element)}`);
  }
  const sticky = new Map();
  function stuck(element) {
    if (!element) return false;
    if (!sticky.has(element))
      sticky.set(
        element,
        ["fixed", "sticky"].includes(style(element).position) || stuck(element.parentElement),
      );
    return sticky.get(element);
  }

  // What a finger must hit. A link in running text is as high as its line.
  function checkTargets() {
    for (const element of document.querySelectorAll(`a[href], ${CONTROLS}, label:has(input)`)) {
      if (!visible(element) || !open(element) || element.disabled || inText(element)) continue;
      const box = areaOf(element).getBoundingClientRect();
      if (!box.width || (box.height >= TARGET - 0.5 && box.width >= TARGET - 0.5)) continue;
      say("small target", element, `is ${Math.round(box.width)} × ${Math.round(box.height)}`);
    }
  }
  // A label is part of its control, and a whole row may act as what stands in it.
  const AREAS = [
    ["input", "label"],
    [".row-link", "tr"],
    [".opblock-summary *", ".opblock-summary"],
    [".opblock-tag *", ".opblock-tag"],
  ];
  function areaOf(element) {
    const found = AREAS.find(([inner, outer]) => element.matches(inner) && element.closest(outer));
    return found ? element.closest(found[1]) : element;
  }
  function inText(element) {
    if (!element.matches("a, button.btn-link") || !style(element).display.startsWith("inline"))
      return false;
    const whole = block(element.parentElement).textContent.trim().length;
    return (
      element.closest("p, .context, .notice, .help, .clip, dd, li, td") &&
      whole > element.textContent.trim().length + 2
    );
  }

  // Django's lists of rows scroll where they are too wide.
  function checkColumns() {
    for (const list of document.querySelectorAll("#changelist .results")) {
      const over = list.scrollWidth - list.clientWidth;
      if (over > 1 && root.clientWidth >= 1440) say("columns out of sight", list, `by ${over} px`);
    }
  }

  const range = document.createRange();
  const texts = textsOf();
  checkScroll();
  checkColumns();
  for (const text of texts) {
    checkColumn(text);
    checkWords(text, range);
    checkCard(text);
  }
  for (const element of new Set(texts.map((text) => block(text.element)))) checkCut(element);
  checkControls();
  checkOverlaps(texts);
  if (targets) checkTargets();
  return [...found].map(([key, [line, count]]) => ({
    key,
    line: count > 1 ? `${line}, and ${count - 1} more` : line,
  }));
};
