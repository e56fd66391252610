// What every page uses: DX.format (the rules of core/templatetags/display.py), DX.icon, DX.toast, DX.confirm, DX.api,
// DX.poll, DX.live, and the behaviour of menus, dialogs, forms with a question, copy buttons, the side bar and the theme
// button.
(() => {
  "use strict";
  const MISSING = "–";
  const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
  // A true minus sign, and none before what was rounded to zero.
  const signed = (text) => (/[1-9]/.test(text) ? text.replace(/^-/, "−") : text.replace(/^-/, ""));
  // Python's :g — at most `digits` significant ones, no trailing zeros.
  const general = (value, digits) => String(Number(value.toPrecision(digits)));
  const fixed = (value, digits) =>
    value.toLocaleString("en-GB", { minimumFractionDigits: digits, maximumFractionDigits: digits });

  const format = {
    missing: MISSING,
    loss: (value) => (isNumber(value) ? signed(value.toFixed(3)) : MISSING),
    rate(value) {
      if (!isNumber(value)) return MISSING;
      if (value === 0 || Math.abs(value) >= 1e-3) return signed(general(value, 4));
      const [mantissa, exponent] = value.toExponential(2).split("e");
      return signed(`${Number(mantissa)}e${Number(exponent)}`);
    },
    thousands: (value) => (isNumber(value) ? signed(fixed(Math.round(value), 0)) : MISSING),
    big(value) {
      if (!isNumber(value)) return MISSING;
      for (const [size, unit] of [
        [1e12, "T"],
        [1e9, "B"],
        [1e6, "M"],
      ]) {
        if (Math.abs(value) >= size) return signed(`${general(value / size, 3)} ${unit}`);
      }
      return format.thousands(value);
    },
    size(value) {
      if (!isNumber(value)) return MISSING;
      for (const [scale, unit, digits] of [
        [1e9, "GB", 1],
        [1e6, "MB", 1],
        [1e3, "kB", 0],
      ]) {
        if (value >= scale) return `${fixed(value / scale, digits)} ${unit}`;
      }
      return `${Math.round(value)} B`;
    },
    share(value) {
      if (!isNumber(value)) return MISSING;
      const percent = value * 100;
      if (percent === 0 || percent >= 9.95) {
        return `${percent >= 99 && percent < 100 ? Math.floor(percent) : Math.round(percent)}%`;
      }
      return `${percent.toFixed(1)}%`;
    },
    duration(value) {
      if (!isNumber(value) || value < 0) return MISSING;
      const seconds = Math.round(value);
      const two = (number) => String(number).padStart(2, "0");
      if (seconds < 60) return `${seconds} s`;
      if (seconds < 3600) return `${Math.floor(seconds / 60)} m ${two(seconds % 60)} s`;
      const minutes = Math.floor(seconds / 60);
      if (minutes < 1440) return `${Math.floor(minutes / 60)} h ${two(minutes % 60)} m`;
      return `${Math.floor(minutes / 1440)} d ${Math.floor((minutes % 1440) / 60)} h`;
    },
    about(value) {
      if (!isNumber(value) || value < 0) return MISSING;
      const plain = value < 60 || value >= 3600;
      return `about ${plain ? format.duration(value) : `${Math.round(value / 60)} min`}`;
    },
    // A number with its noun: 1 row, 2 rows.
    counted: (value, noun, plural = `${noun}s`) =>
      `${format.thousands(value)} ${value === 1 ? noun : plural}`,
    // What an estimate says of the time that is left. One that is used up says nothing about the rest.
    timeLeft(seconds) {
      if (!isNumber(seconds)) return "";
      return seconds >= 1 ? `${format.about(seconds)} left` : "taking longer than estimated";
    },
    // When a waiting train starts, from {seconds, error}: "starts in about 12 min, give or take 3 min".
    starts(estimate) {
      if (estimate.seconds < 1) return "starts now";
      const text = `starts in ${format.about(estimate.seconds)}`;
      // Seconds of error beside minutes say nothing.
      if (estimate.error < Math.max(60, estimate.seconds / 10)) return text;
      return `${text}, give or take ${format.about(estimate.error).replace("about ", "")}`;
    },
    ordinal(value) {
      const tail =
        value % 100 >= 10 && value % 100 <= 20
          ? "th"
          : { 1: "st", 2: "nd", 3: "rd" }[value % 10] || "th";
      return `${format.thousands(value)}${tail}`;
    },
    // Dates and ISO texts in the reader's zone: 14:07, and 14:07 today / 23 Nov, 19:02.
    clock: (value) =>
      new Date(value).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" }),
    moment(value) {
      const date = new Date(value);
      const now = new Date();
      if (date.toDateString() === now.toDateString()) return `${format.clock(date)} today`;
      const year = date.getFullYear() === now.getFullYear() ? "" : ` ${date.getFullYear()}`;
      return `${date.getDate()} ${date.toLocaleString("en-GB", { month: "short" }).slice(0, 3)}${year}, ${format.clock(date)}`;
    },
    // Terminal escapes, control and direction marks taken out of log text.
    log(text) {
      const plain = text.replace(
        /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])/g,
        "",
      );
      return plain
        .replace(/\r\n/g, "\n")
        .replace(/[^\n]*\r(?!\n|$)/g, "")
        .replace(
          /[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g,
          "\ufffd",
        );
    },
  };

  function icon(name, css = "") {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("class", `icon ${css}`.trim());
    svg.setAttribute("aria-hidden", "true");
    const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
    use.setAttribute("href", `${document.documentElement.dataset.icons}#${name}`);
    svg.append(use);
    return svg;
  }

  // An element with properties and children: make("button", { className: "btn", type: "button" }, icon("x"), "Close").
  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  // Text into an element only where it changed, so that selections and screen readers are left in peace.
  // "73.9 MB" keeps its unit in grey where `unit` is set.
  function live(element, text, { unit = false } = {}) {
    if (!element || element.textContent.trim() === text) return;
    const cut = unit ? text.lastIndexOf(" ") : -1;
    if (cut < 0) element.textContent = text;
    else
      element.replaceChildren(
        `${text.slice(0, cut)} `,
        make("span", { className: "unit", textContent: text.slice(cut + 1) }),
      );
  }

  // How many trains run now, in the menu.
  function running(count) {
    const number = document.querySelector("[data-running]");
    if (!number) return;
    live(number, format.thousands(count));
    number.closest(".side-count").hidden = count === 0;
  }

  // A short message, see toasts.js: success, info and warning leave by themselves, an error stays.
  function toast(text, kind = "success") {
    return window.DXToasts.show(text, kind);
  }

  // The focus goes back to a menu's button, so that a dialog which was opened from the menu gives it back there.
  function closeMenus(except = null) {
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (menu === except) continue;
      if (menu.contains(document.activeElement))
        menu.querySelector("summary").focus({ preventScroll: true });
      menu.open = false;
    }
  }

  // No menu stays open under a dialog.
  function openDialog(dialog) {
    closeMenus();
    dialog.showModal();
  }

  // Ask before what cannot be undone. Resolves to true or false.
  function confirm({ title, text = "", yes = "OK", no = "Cancel", danger = false }) {
    return new Promise((resolve) => {
      const cancel = make("button", { className: "btn", value: "no", textContent: no });
      const accept = make("button", {
        className: `btn ${danger ? "btn-danger-text" : "btn-primary"}`,
        value: "yes",
        textContent: yes,
      });
      const form = make(
        "form",
        { method: "dialog" },
        make("h2", { id: "confirm-title", textContent: title }),
        make("p", { textContent: text }),
        make("div", { className: "actions" }, cancel, accept),
      );
      const dialog = make("dialog", { className: "dialog" }, form);
      dialog.setAttribute("aria-labelledby", "confirm-title");
      dialog.addEventListener("close", () => {
        dialog.remove();
        resolve(dialog.returnValue === "yes");
      });
      document.body.append(dialog);
      openDialog(dialog);
    });
  }

  class ApiError extends Error {
    constructor(status, body) {
      super(body?.error?.message || `The server answered ${status}.`);
      this.status = status;
      this.fields = body?.error?.fields || {};
    }
  }

  // Requests that only read time out: a connection that is lost silently would otherwise be waited for forever.
  const READ_TIMEOUT = 30000; // milliseconds
  const withTimeout = (signal) => {
    const limit = AbortSignal.timeout(READ_TIMEOUT);
    return signal ? AbortSignal.any([signal, limit]) : limit;
  };

  // JSON in, JSON out, with the session and its CSRF token. Rejects with ApiError {status, message, fields}, or with
  // another error when the server cannot be reached.
  async function api(url, { method = "GET", body, signal, headers = {} } = {}) {
    const token = document.querySelector('meta[name="csrf-token"]')?.content || "";
    const response = await fetch(url, {
      method,
      signal: method === "GET" ? withTimeout(signal) : signal,
      credentials: "same-origin",
      headers: {
        Accept: "application/json",
        "X-CSRFToken": token,
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
        ...headers,
      },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    clock.set(response.headers.get("Date"));
    const data = response.headers.get("Content-Type")?.includes("json")
      ? await response.json()
      : null;
    if (!response.ok) throw new ApiError(response.status, data);
    return data;
  }

  // The HTML at an address; null where it leads elsewhere, as to the sign-in. Rejects as `api` does.
  async function html(url) {
    const response = await fetch(url, {
      signal: withTimeout(),
      credentials: "same-origin",
      headers: { Accept: "text/html" },
    });
    if (!response.ok) throw new ApiError(response.status, null);
    return response.redirected ? null : response.text();
  }

  // Call `task` again and again, `seconds` apart (a number, or a function that returns one, null to end). One call at a
  // time; a hidden page rests; failures wait longer and are passed to `failed(error, since)`, recovery to `recovered()`.
  function poll(task, seconds, { failed = () => {}, recovered = () => {} } = {}) {
    let timer = null,
      over = false,
      failures = 0,
      since = null,
      running = false;
    const turn = async () => {
      clearTimeout(timer);
      if (over || running || document.hidden) return;
      running = true;
      const began = performance.now();
      try {
        await task();
        if (failures) recovered();
        failures = 0;
        since = null;
      } catch (error) {
        failures += 1;
        since ||= new Date();
        if (failures >= 2) failed(error, since);
      }
      running = false;
      const wait = typeof seconds === "function" ? seconds() : seconds;
      // A server that takes its time is given as much again, so that other pages get their turn.
      const took = performance.now() - began;
      if (wait === null) over = true;
      else timer = setTimeout(turn, Math.max(wait * 1000, took) * Math.min(2 ** failures, 16));
    };
    document.addEventListener("visibilitychange", turn);
    turn();
    return {
      now: turn,
      stop: () => {
        over = true;
        clearTimeout(timer);
      },
    };
  }

  // Follow server-sent events: `take(data)` for each message, in order, one at a time. `url()` says where to begin, each
  // time again, so that nothing is missed after a break. A hidden page rests. Breaks are reported to `failed(error, since)`,
  // recovery to `recovered()`. The server says `ended` when nothing more will come. A browser does not say why a stream was
  // refused: `allowed()` asks for something under the same rule, and what it rejects with is the reason.
  const QUIET = 12000; // milliseconds without a word, after which the connection is taken for lost
  const REST_AFTER = 5000; // milliseconds that a page may be hidden and still be followed
  const REFUSED = [401, 403, 404];
  function follow(url, take, { failed = () => {}, recovered = () => {}, allowed } = {}) {
    let source = null,
      over = false,
      failures = 0,
      since = null,
      retry = null,
      watch = null,
      rest = null,
      queue = Promise.resolve();

    function heard(moment) {
      clearTimeout(watch);
      watch = setTimeout(() => broke(new TypeError("The server does not answer.")), QUIET);
      if (moment) clock.set(new Date(moment * 1000).toISOString());
    }

    // Only what was taken counts: a page that cannot use what it hears is not live.
    function settled() {
      if (failures) recovered();
      failures = 0;
      since = null;
    }

    function close() {
      clearTimeout(watch);
      clearTimeout(retry);
      source?.close();
      source = null;
    }

    function broke(error) {
      close();
      if (over) return;
      failures += 1;
      since ||= new Date();
      if (failures >= 2) failed(error, since);
      retry = setTimeout(open, Math.min(500 * 2 ** failures, 16000));
    }

    function end() {
      over = true;
      close();
    }

    // No retry until somebody presses "Try now".
    function refused(error) {
      end();
      failures = 2;
      failed(error, (since ||= new Date()));
    }

    async function explain(mine) {
      try {
        await allowed?.();
      } catch (error) {
        if (mine !== source) return;
        if (REFUSED.includes(error.status)) return refused(error);
      }
      if (mine === source) broke(new TypeError("The server does not answer."));
    }

    function now() {
      over = over && !since;
      return open();
    }

    async function open() {
      close();
      if (over || document.hidden) return;
      let address;
      try {
        address = await url();
      } catch (error) {
        return broke(error);
      }
      if (over || source) return;
      const mine = (source = new EventSource(address));
      const isMine = () => mine === source && !over;
      watch = setTimeout(() => broke(new TypeError("The server does not answer.")), QUIET);
      mine.onmessage = ({ data }) => {
        const message = JSON.parse(data);
        heard(message.now);
        queue = queue.then(async () => {
          if (!isMine()) return;
          try {
            await take(message);
            settled();
          } catch (error) {
            broke(error);
          }
        });
      };
      mine.addEventListener("alive", ({ data }) => heard(Number(data)));
      // Behind the last message: one that could not be taken is asked for again.
      mine.addEventListener("ended", () => {
        queue = queue.then(() => isMine() && end());
      });
      mine.addEventListener("closed", () => {
        if (!isMine()) return;
        const message = "This train was deleted, or you no longer have access to it.";
        refused(new ApiError(404, { error: { message } }));
      });
      mine.onerror = () => {
        if (!isMine()) return;
        if (mine.readyState === EventSource.CLOSED) explain(mine);
        else broke(new TypeError("The server does not answer."));
      };
    }

    document.addEventListener("visibilitychange", () => {
      clearTimeout(rest);
      if (document.hidden) rest = setTimeout(close, REST_AFTER);
      else if (!source) open();
    });
    open();
    return { now, stop: end };
  }

  // Why a page is not live, for its reader: what the server said, or that it says nothing.
  const reasonOf = (error) =>
    error instanceof ApiError ? error.message : "The server does not answer.";

  // The server's clock, carried on from its latest answer: a browser's own may be wrong by minutes.
  const clock = {
    server: null,
    heard: 0,
    set(moment) {
      clock.heard = performance.now();
      if (!Number.isNaN(Date.parse(moment))) clock.server = Date.parse(moment);
    },
    // Seconds since the server last answered.
    silence: () => (performance.now() - clock.heard) / 1000,
    now: () =>
      clock.server === null ? Date.now() : clock.server + performance.now() - clock.heard,
    // Seconds from a moment, an ISO text, until now; never less than 0.
    since: (moment) => Math.max(0, (clock.now() - Date.parse(moment)) / 1000),
  };

  function readJson(id) {
    const element = document.getElementById(id);
    return element ? JSON.parse(element.textContent) : null;
  }

  window.DX = {
    clock,
    follow,
    format,
    icon,
    make,
    live,
    running,
    toast,
    confirm,
    openDialog,
    api,
    html,
    ApiError,
    poll,
    readJson,
    reasonOf,
  };
  if (!window.document?.body) return;

  document.addEventListener("click", async (event) => {
    const target = event.target.closest(
      "[data-copy], [data-dialog], [data-close], [data-theme-switch], [data-side]",
    );
    closeMenus(target?.closest(".menu-list") ? null : event.target.closest("details.menu"));
    if (!target) return;
    if (target.dataset.copy !== undefined) {
      const source = target.dataset.copy
        ? document.querySelector(target.dataset.copy)
        : target.closest(".code")?.querySelector("code");
      await navigator.clipboard.writeText((source.value ?? source.textContent).trim());
      toast(target.dataset.copied || "Copied.");
    } else if (target.dataset.dialog) {
      openDialog(document.querySelector(target.dataset.dialog));
    } else if (target.dataset.close !== undefined) {
      target.closest("dialog").close();
    } else if (target.dataset.themeSwitch !== undefined) {
      const dark = document.documentElement.getAttribute("data-bs-theme") !== "dark";
      document.documentElement.setAttribute("data-bs-theme", dark ? "dark" : "light");
      document.documentElement.classList.toggle("dark-mode", dark);
      try {
        localStorage.setItem("theme", dark ? "dark" : "light");
      } catch {
        /* holds for this page only */
      }
      document.dispatchEvent(new CustomEvent("theme:change"));
    } else if (target.dataset.side !== undefined) {
      sideToggle();
    }
  });

  function sideToggle(open = !document.querySelector(".side").classList.contains("open")) {
    document.querySelector(".side").classList.toggle("open", open);
    const button = document.querySelector("[data-side]");
    button.setAttribute("aria-expanded", String(open));
    (open ? document.querySelector(".side a") : button).focus();
  }

  document.addEventListener("pointerdown", (event) => {
    const side = document.querySelector(".side.open");
    if (side && !side.contains(event.target) && !event.target.closest("[data-side]"))
      sideToggle(false);
  });

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      const menu = document.querySelector("details.menu[open]");
      if (menu) {
        menu.open = false;
        menu.querySelector("summary").focus();
      } else if (document.querySelector(".side.open")) sideToggle(false);
    }
    const typing = event.target.closest("input, textarea, select, dialog, [contenteditable]");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      const search = document.querySelector("[data-search]");
      if (search) {
        event.preventDefault();
        search.focus();
      }
    }
  });

  // A form with a question is sent once that is answered with yes; before the next listener takes it for sent.
  document.addEventListener(
    "submit",
    async (event) => {
      const form = event.target.closest("form[data-question]");
      if (!form) return;
      event.preventDefault();
      const { question, text, yes = "Stop", no = "Cancel" } = form.dataset;
      if (await confirm({ title: question, text, yes, no, danger: true })) form.submit();
    },
    { capture: true },
  );

  // A form is sent once: its button is busy until the page goes.
  document.addEventListener("submit", (event) => {
    const button = event.submitter;
    if (event.defaultPrevented || event.target.method === "dialog" || !button?.matches(".btn"))
      return;
    // Not .dataset: a form with a field of that name has the field there.
    if (event.target.hasAttribute("data-sent")) return event.preventDefault();
    event.target.setAttribute("data-sent", "");
    button.setAttribute("aria-busy", "true");
  });
  addEventListener("pageshow", () => {
    for (const form of document.querySelectorAll("form[data-sent]"))
      form.removeAttribute("data-sent");
    for (const button of document.querySelectorAll('.btn[aria-busy="true"]'))
      button.removeAttribute("aria-busy");
  });

  // A dialog that some other script opens closes the menus too.
  document.addEventListener(
    "beforetoggle",
    (event) => {
      if (event.target.matches("dialog") && event.newState === "open") closeMenus();
    },
    true,
  );

  // A menu that the keyboard leaves is closed.
  document.addEventListener("focusout", (event) => {
    const menu = event.target.closest("details.menu[open]");
    if (menu && event.relatedTarget && !menu.contains(event.relatedTarget)) menu.open = false;
  });

  // What is larger than its place can be scrolled with the keyboard too.
  const SCROLLERS = ".table-wrap, .code.scroll, .answer-text";
  function reach(element) {
    const across = element.scrollWidth > element.clientWidth + 1;
    const down = element.scrollHeight > element.clientHeight + 1;
    if (across || down) element.tabIndex = 0;
    else element.removeAttribute("tabindex");
  }
  const sizes = new ResizeObserver((entries) => entries.forEach((entry) => reach(entry.target)));
  function watch(root) {
    for (const element of root.querySelectorAll(SCROLLERS)) {
      reach(element);
      sizes.observe(element);
    }
  }
  watch(document);
  new MutationObserver((changes) => {
    for (const { addedNodes } of changes) {
      for (const node of addedNodes) if (node.nodeType === Node.ELEMENT_NODE) watch(node);
    }
  }).observe(document.getElementById("main") ?? document.body, { childList: true, subtree: true });

  // Anywhere in a row with a .row-link opens it, but text can still be selected and inner controls work.
  document.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    const link = row?.querySelector("a.row-link");
    if (
      !link ||
      event.target.closest("a, button, input, label, summary, .menu") ||
      getSelection().toString()
    )
      return;
    if (event.ctrlKey || event.metaKey) window.open(link.href);
    else link.click();
  });
})();
