// DXMarkdown.show(element, text): Markdown of a model as safe elements. A model's text is a stranger's: HTML in it is
// shown as text and not as elements, pictures are links, and what is left is cleaned again before it enters the page.
(() => {
  "use strict";
  const TAGS =
    "a b blockquote br code del em h3 h4 h5 h6 hr i li ol p pre span strong table tbody td th thead tr ul";
  const CLEAN = {
    ALLOWED_TAGS: TAGS.split(" "),
    ALLOWED_ATTR: ["href", "title", "class", "start", "align"],
    ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  };
  // A text of more characters is not coloured: it would hold the page up.
  const COLOURED = 20000;

  const escape = (text) => text.replace(/[&<>"']/g, (mark) => `&#${mark.codePointAt(0)};`);

  function code({ text, lang }) {
    const language = (lang || "").match(/^[\w+#-]{1,30}/)?.[0] || "";
    const known = language && window.hljs.getLanguage(language) && text.length <= COLOURED;
    const inner = known ? window.hljs.highlight(text, { language }).value : escape(text);
    return `<pre><code>${inner}</code></pre>`;
  }

  const renderer = {
    code,
    html: ({ text, block }) => (block ? `<p>${escape(text)}</p>` : escape(text)),
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    // The page has its own headings above these.
    heading({ tokens, depth }) {
      const level = Math.min(depth + 2, 6);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
  };
  const parser = new window.marked.Marked({ gfm: true, breaks: true, renderer });

  function finished(fragment) {
    for (const link of fragment.querySelectorAll("a")) {
      link.target = "_blank";
      link.rel = "noopener noreferrer nofollow";
    }
    for (const block of fragment.querySelectorAll("pre")) {
      const button = DX.make(
        "button",
        { className: "btn btn-sm btn-icon", type: "button", ariaLabel: "Copy the code" },
        DX.icon("copy"),
      );
      button.dataset.copy = "";
      const box = DX.make("div", { className: "md-code code" });
      block.replaceWith(box);
      box.append(button, block);
    }
    for (const table of fragment.querySelectorAll("table")) {
      const box = DX.make("div", { className: "table-wrap" });
      table.className = "table table-dense";
      table.replaceWith(box);
      box.append(table);
    }
    return fragment;
  }

  function show(element, text) {
    let html;
    try {
      html = parser.parse(text);
    } catch {
      // Whatever a parser cannot do is plain text.
      element.textContent = text;
      return;
    }
    element.replaceChildren(finished(window.DOMPurify.sanitize(html, CLEAN)));
  }

  window.DXMarkdown = { show };
})();
