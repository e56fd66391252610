// Before the first paint: the chosen theme, and the reader's time zone for the server (core/middleware.py).
// Django's admin keeps its theme under the same name, so that one choice holds for both.
(() => {
  const root = document.documentElement;
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    let choice = null;
    try {
      choice = localStorage.getItem("theme");
    } catch {
      /* storage is forbidden: follow the system */
    }
    const theme =
      choice === "light" || choice === "dark" ? choice : prefersDark.matches ? "dark" : "light";
    root.setAttribute("data-bs-theme", theme);
    // Swagger UI's own word for it, on the page of the API.
    root.classList.toggle("dark-mode", theme === "dark");
    document.dispatchEvent(new CustomEvent("theme:change"));
  };
  apply();
  prefersDark.addEventListener("change", apply);
  addEventListener("storage", apply);
  root.classList.add("js");

  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone) document.cookie = `timezone=${zone}; path=/; max-age=31536000; samesite=lax`;
})();
