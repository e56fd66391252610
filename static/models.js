// Models: imports show how far they are, a GGUF file is uploaded with a progress bar.
"use strict";

(() => {
  // While something on the page is imported the page is asked for anew, and only the parts that changed are put in
  // place: the server alone knows how they look.
  const importing = () => document.querySelector("[data-importing]");

  async function refresh() {
    const response = await fetch(location.href, {
      credentials: "same-origin",
      headers: { Accept: "text/html" },
    });
    if (!response.ok) throw new Error(`The server answered ${response.status}.`);
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    for (const old of document.querySelectorAll("[data-part]")) {
      const part = fresh.querySelector(`[data-part="${CSS.escape(old.dataset.part)}"]`);
      if (!part || !old.isConnected || old.outerHTML === part.outerHTML) continue;
      // An inner part changes by itself as long as the frame around it stays.
      if (
        old.querySelector("[data-part]") &&
        "importing" in old.dataset &&
        "importing" in part.dataset
      )
        continue;
      if (old.contains(document.activeElement)) old.querySelector(":focus")?.blur();
      old.replaceWith(document.importNode(part, true));
    }
  }

  if (importing()) DX.poll(refresh, () => (importing() ? 1 : null));

  const form = document.querySelector("form[data-upload]");
  if (!form) return;
  const file = form.querySelector('input[type="file"]');
  const drop = form.querySelector("[data-drop]");
  const error = document.getElementById("file-error");
  const state = form.querySelector("[data-upload-state]");
  const bar = state.querySelector("progress");
  const words = state.querySelector("[data-upload-text]");
  const button = form.querySelector('button[type="submit"]');

  for (const kind of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) file.files = event.dataTransfer.files;
    });
  }

  function refuse(text) {
    error.textContent = text;
    error.hidden = !text;
    file.setAttribute("aria-invalid", String(Boolean(text)));
    if (text) file.focus();
  }

  function ended() {
    button.removeAttribute("aria-busy");
    delete form.dataset.sent;
    state.hidden = true;
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (button.getAttribute("aria-busy")) return;
    refuse("");
    if (!file.files.length) return refuse("Choose a GGUF file.");
    const request = new XMLHttpRequest();
    const body = new FormData(form);
    body.delete("csrfmiddlewaretoken");
    request.open("POST", form.dataset.upload);
    request.setRequestHeader("Accept", "application/json");
    request.setRequestHeader(
      "X-CSRFToken",
      document.querySelector('meta[name="csrf-token"]').content,
    );
    request.responseType = "json";
    request.upload.addEventListener("progress", ({ loaded, total }) => {
      bar.value = total ? loaded / total : 0;
      DX.live(words, `${DX.format.size(loaded)} of ${DX.format.size(total)}`);
    });
    request.addEventListener("load", () => {
      if (request.status === 201) return location.assign(request.response.url);
      ended();
      refuse(request.response?.error?.message || `The server answered ${request.status}.`);
    });
    request.addEventListener("error", () => {
      ended();
      refuse("The upload was cut off. Nothing was kept; send it again.");
    });
    button.setAttribute("aria-busy", "true");
    state.hidden = false;
    request.send(body);
    form
      .querySelector("[data-cancel]")
      .addEventListener("click", () => request.abort(), { once: true });
  });
})();
