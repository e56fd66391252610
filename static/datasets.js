// Pages of datasets: the upload with its progress, questions before what cannot be undone, long texts that fold.
(() => {
  "use strict";
  const { format, make, live, confirm } = DX;

  // Ask before what cannot be undone; a browser without scripts gets a page that asks.
  document.addEventListener(
    "submit",
    async (event) => {
      const form = event.target;
      if (form.dataset.ask === undefined || form.elements.sure) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      const { ask, askText, askYes, askNo } = form.dataset;
      if (!(await confirm({ title: ask, text: askText, yes: askYes, no: askNo, danger: true })))
        return;
      form.append(make("input", { type: "hidden", name: "sure", value: "1" }));
      form.submit();
    },
    true,
  );

  uploadPage();
  tokenRows();
  folds();

  for (const select of document.querySelectorAll("[data-submit]")) {
    document.querySelector("[data-submit-button]").hidden = true;
    select.addEventListener("change", () => select.form.submit());
  }

  function uploadPage() {
    const form = document.getElementById("upload");
    if (!form) return;
    const input = form.elements.file;
    const drop = document.getElementById("drop");
    const panel = document.getElementById("progress");
    const cancel = document.getElementById("cancel");
    const button = form.querySelector("button[type=submit]");
    const name = form.elements.name;
    const limit = Number(form.dataset.limit);
    let proposed = "";
    let request = null;

    const chosen = () => {
      const file = input.files[0];
      showErrors({});
      document.getElementById("file-name").textContent = file
        ? `${file.name}, ${format.size(file.size)}`
        : "";
      if (!file) return;
      // A name that somebody wrote is theirs; one that we proposed follows the file.
      if (!name.value || name.value === proposed) {
        proposed = file.name.replace(/\.[^.]+$/, "").slice(0, 120);
        name.value = proposed;
      }
      if (file.size > limit)
        showErrors({
          file: [
            `The file has ${format.size(file.size)}; at most ${format.size(limit)} can be uploaded.`,
          ],
        });
    };
    input.addEventListener("change", chosen);

    for (const kind of ["dragenter", "dragover"]) {
      drop.addEventListener(kind, (event) => {
        event.preventDefault();
        drop.classList.add("over");
      });
    }
    drop.addEventListener("dragleave", (event) => {
      if (!drop.contains(event.relatedTarget)) drop.classList.remove("over");
    });
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      if (event.dataTransfer.files.length) {
        input.files = event.dataTransfer.files;
        chosen();
      }
    });

    function showErrors(fields, other = "") {
      const known = ["name", "description", "labels", "file"];
      const rest = Object.entries(fields)
        .filter(([field]) => !known.includes(field))
        .map(([, texts]) => texts.join(" "));
      for (const field of known) {
        const text = [...(fields[field] || []), ...(field === "file" ? [...rest, other] : [])]
          .filter(Boolean)
          .join(" ");
        document.getElementById(`${field}-error`).textContent = text;
        form.elements[field].toggleAttribute("aria-invalid", Boolean(text));
      }
      drop.toggleAttribute("data-bad", Boolean(document.getElementById("file-error").textContent));
    }

    function busy(on) {
      button.setAttribute("aria-busy", String(on));
      button.querySelector("[data-verb]").textContent = on ? "Uploading …" : "Upload";
      panel.hidden = cancel.hidden = !on;
    }

    function failed(text) {
      busy(false);
      showErrors({}, text);
    }

    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (request) return;
      const file = input.files[0];
      if (!file) return showErrors({ file: ["Choose a file."] });
      if (file.size > limit) return chosen();
      showErrors({});
      busy(true);
      send(file);
    });
    cancel.addEventListener("click", () => request?.abort());

    function send(file) {
      const body = new FormData(form);
      body.delete("csrfmiddlewaretoken");
      // Last, so that an upload which breaks off breaks off within the file, which then is not taken.
      body.delete("file");
      body.append("file", file);
      const started = performance.now();
      request = new XMLHttpRequest();
      request.open("POST", form.dataset.url);
      request.setRequestHeader("Accept", "application/json");
      request.setRequestHeader("X-CSRFToken", form.elements.csrfmiddlewaretoken.value);
      request.upload.addEventListener("progress", (event) => {
        const share = event.loaded / event.total;
        const seconds = (performance.now() - started) / 1000;
        panel.querySelector("progress").value = share;
        const left =
          seconds > 2 && share < 1 ? `, ${format.about((seconds / share) * (1 - share))} left` : "";
        live(
          document.getElementById("progress-text"),
          share < 1
            ? `${format.share(share)} of ${format.size(file.size)}${left}`
            : "Upload complete. Checking the file …",
        );
      });
      request.addEventListener("load", () => {
        let answer = {};
        try {
          answer = JSON.parse(request.responseText);
        } catch {
          /* said below */
        }
        if (request.status === 201) return location.assign(answer.url);
        const status = request.status;
        request = null;
        busy(false);
        showErrors(
          answer.error?.fields || {},
          Object.keys(answer.error?.fields || {}).length
            ? ""
            : answer.error?.message || `The server answered ${status}.`,
        );
      });
      request.addEventListener("error", () => {
        request = null;
        failed("The connection was lost. Nothing was uploaded; try again.");
      });
      request.addEventListener("abort", () => {
        request = null;
        failed("Stopped. Nothing was kept.");
      });
      request.send(body);
    }
    if (input.files.length) chosen();
  }

  // Rows as tokens of another model: the address names it, so that a link shows the same.
  function tokenRows() {
    const place = document.getElementById("token-rows");
    if (!place) return;
    place.addEventListener("change", (event) => {
      if (!event.target.matches("[data-token-model]")) return;
      const address = new URL(location.href);
      address.searchParams.set("model", event.target.value);
      history.replaceState(null, "", address);
    });
    place.addEventListener("htmx:afterSwap", () => folds(place));
  }

  // Long texts show their beginning and a button for the rest.
  function folds(within = document) {
    for (const text of within.querySelectorAll(".foldable")) {
      if (text.scrollHeight < (text.classList.contains("tokens") ? 600 : 300)) continue;
      text.classList.add("folded");
      const button = make("button", {
        className: "btn-link unfold",
        type: "button",
        textContent: "Show all",
      });
      button.setAttribute("aria-expanded", "false");
      button.addEventListener("click", () => {
        const folded = text.classList.toggle("folded");
        button.textContent = folded ? "Show all" : "Show less";
        button.setAttribute("aria-expanded", String(!folded));
      });
      text.after(button);
    }
  }
})();
