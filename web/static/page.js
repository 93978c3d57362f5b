// What every page does: the slice dialog, confirmations, copying, the menu, and saying when the server is away.
(() => {
  "use strict";
  const byId = (id) => document.getElementById(id);

  // --- The slice dialog -------------------------------------------------------------------------------------------
  let shownRow = null; // id of the row whose slice is shown; the row itself may be replaced by a poll

  const links = () => [...document.querySelectorAll("a[data-slice]")];

  function showNeighbours() {
    const nav = document.querySelector("#slice-body .slice-nav");
    if (!nav) return;
    const all = links();
    const at = all.findIndex((link) => link.closest("tr").id === shownRow);
    nav.hidden = all.length < 2;
    for (const button of nav.querySelectorAll("[data-step]")) button.disabled = !all[at + Number(button.dataset.step)];
  }

  function step(by) {
    const all = links();
    const at = all.findIndex((link) => link.closest("tr").id === shownRow);
    if (at >= 0) all[at + by]?.click();
  }

  function setHeat(on) {
    const slice = document.querySelector(".slice[data-heat]");
    if (!slice || slice.dataset.heat === "none") return;
    slice.dataset.heat = on ? "on" : "off";
    const toggle = slice.querySelector("[data-heat-toggle]");
    if (toggle) toggle.checked = on;
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[data-slice]");
    if (link) shownRow = link.closest("tr").id;
    const stepper = event.target.closest?.("[data-step]");
    if (stepper) step(Number(stepper.dataset.step));
    if (event.target.closest?.("[data-close]") || event.target.id === "slice-dialog") byId("slice-dialog")?.close();
  });

  document.addEventListener("htmx:after:swap", (event) => {
    if (event.detail.ctx?.target?.id !== "slice-body") return;
    const dialog = byId("slice-dialog");
    if (!dialog.open) dialog.showModal();
    showNeighbours();
  });

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-heat-toggle]")) setHeat(event.target.checked);
  });

  document.addEventListener("input", (event) => {
    if (!event.target.matches("[data-heat-strength]")) return;
    const heat = event.target.closest(".slice").querySelector(".slice-heat");
    heat.style.opacity = String(event.target.value / 100);
    setHeat(true);
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=text], input[type=range], textarea, select")) return;
    const slice = document.querySelector(".slice[data-heat]");
    if (!slice || (byId("slice-dialog") && !byId("slice-dialog").open)) return;
    if (event.key === "h" || event.key === "H") setHeat(slice.dataset.heat !== "on");
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });

  // --- Forms and buttons ------------------------------------------------------------------------------------------
  document.addEventListener("submit", (event) => {
    const {confirm, confirmFrom} = event.target.dataset ?? {}; // the question itself, or where a poll keeps it up to date
    const question = confirm ?? byId(confirmFrom)?.textContent;
    if (question && !window.confirm(question)) event.preventDefault();
  });

  for (const button of document.querySelectorAll("[data-copy]")) {
    if (!navigator.clipboard) continue; // only where the browser trusts the connection
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(byId(button.dataset.copy).textContent);
      button.querySelector("span").textContent = "Copied";
    });
  }

  for (const menu of document.querySelectorAll("details.menu")) {
    document.addEventListener("click", (event) => { if (!menu.contains(event.target)) menu.open = false; });
    menu.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { menu.open = false; menu.querySelector("summary").focus(); }
    });
  }

  // --- The server is away -----------------------------------------------------------------------------------------
  const away = (yes) => { if (byId("offline")) byId("offline").hidden = !yes; };
  document.addEventListener("htmx:error", () => away(true));
  document.addEventListener("htmx:after:request", (event) => away(event.detail.ctx?.response?.status >= 500));
})();
