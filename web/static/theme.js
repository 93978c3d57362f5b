// Sets the colour theme before the first paint, and lets the button in the header change it.
(() => {
  "use strict";
  const KEY = "ctbatch-theme";
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  function chosen() {
    try { return localStorage.getItem(KEY) || "auto"; } catch { return "auto"; }
  }

  function apply() {
    const theme = chosen();
    const shown = theme === "auto" ? (dark.matches ? "dark" : "light") : theme;
    document.documentElement.setAttribute("data-bs-theme", shown);
    for (const frame of document.querySelectorAll("iframe[data-themed]")) { // a page of its own, which runs no scripts
      const address = `${frame.dataset.themed}?theme=${shown}`;
      if (frame.getAttribute("src") !== address) frame.setAttribute("src", address);
    }
    const button = document.getElementById("theme");
    if (!button) return;
    const words = {auto: "automatic", light: "light", dark: "dark"};
    button.hidden = false;
    button.setAttribute("aria-label", `Colour theme: ${words[theme]}`);
    for (const icon of button.querySelectorAll("[data-theme-icon]")) icon.hidden = icon.dataset.themeIcon !== theme;
  }

  function next() {
    const order = ["auto", "light", "dark"];
    const theme = order[(order.indexOf(chosen()) + 1) % order.length];
    try { localStorage.setItem(KEY, theme); } catch { /* private browsing: this page only */ }
    apply();
  }

  apply();
  dark.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", () => {
    apply();
    document.getElementById("theme")?.addEventListener("click", next);
  });
})();
