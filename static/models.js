// A GGUF file is uploaded with a progress bar.
"use strict";

(() => {
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
      refuse("The connection was lost. Nothing was uploaded; try again.");
    });
    button.setAttribute("aria-busy", "true");
    state.hidden = false;
    request.send(body);
    form
      .querySelector("[data-cancel]")
      .addEventListener("click", () => request.abort(), { once: true });
  });
})();
