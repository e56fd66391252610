// DXStream.answer(url, handlers, signal): server-sent events of an answer that is being written. handlers: state(values),
// chunk(values), failed(values), done(values). Resolves at the end; rejects with DX.ApiError where there is no stream,
// and with a TypeError where it breaks off without a last word.
(() => {
  "use strict";

  async function* events(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      const parts = rest.split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const lines = part.split("\n");
        const name = lines.find((line) => line.startsWith("event: "))?.slice(7) || "chunk";
        const data = lines
          .filter((line) => line.startsWith("data: "))
          .map((line) => line.slice(6))
          .join("\n");
        if (data) yield { name, data };
      }
    }
  }

  async function refusal(response) {
    const isJson = response.headers.get("Content-Type")?.includes("json");
    return new DX.ApiError(response.status, isJson ? await response.json() : null);
  }

  async function answer(url, handlers, signal) {
    const token = document.querySelector('meta[name="csrf-token"]')?.content || "";
    const response = await fetch(url, {
      method: "POST",
      signal,
      credentials: "same-origin",
      headers: { Accept: "text/event-stream, application/json", "X-CSRFToken": token },
    });
    if (!response.ok) throw await refusal(response);

    let ended = false;
    for await (const { name, data } of events(response.body)) {
      if (data === "[DONE]") continue;
      ended ||= name === "done" || name === "failed";
      handlers[name]?.(JSON.parse(data));
    }
    if (!ended) throw new TypeError("The connection was lost in the middle of the answer.");
  }

  window.DXStream = { answer };
})();
