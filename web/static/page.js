// What every page does: the slice dialog, confirmations, copying, the menu, and saying when the server refuses something
// or is away.
(() => {
  "use strict";
  const byId = (id) => document.getElementById(id);

  // --- One slice, in the dialog or on its own page ------------------------------------------------------------------
  // Whether the heat map is on, and how strong: kept from slice to slice.
  const KEY = "ctbatch-heat";
  const heat = {on: true, strength: 100};
  try { Object.assign(heat, JSON.parse(sessionStorage.getItem(KEY))); } catch { /* no storage: this page only */ }

  const slice = () => document.querySelector(".slice[data-heat]");

  function showHeat(change = {}) {
    Object.assign(heat, change);
    try { sessionStorage.setItem(KEY, JSON.stringify(heat)); } catch { /* as above */ }
    const shown = slice();
    if (!shown || shown.dataset.heat === "none") return;
    shown.dataset.heat = heat.on ? "on" : "off";
    shown.querySelector("[data-heat-toggle]").checked = heat.on;
    shown.querySelector("[data-heat-strength]").value = heat.strength;
    shown.querySelector(".slice-heat").style.opacity = String(heat.strength / 100);
  }

  document.addEventListener("click", (event) => {
    if (event.target.closest?.("[data-close]") || event.target.id === "slice-dialog") byId("slice-dialog")?.close();
  });

  document.addEventListener("htmx:after:swap", (event) => {
    const target = event.detail.ctx?.target?.id;
    if (target !== "slice-body" && target !== "slice") return;
    showHeat();
    const dialog = byId("slice-dialog");
    if (!dialog) return;
    const inDialog = event.detail.ctx.sourceElement?.closest(".slice");
    if (inDialog && !dialog.open) return; // an answer that came after the dialog was closed does not open it again
    if (!dialog.open) dialog.showModal();
    nameSlice(`#slice-${slice().dataset.id}`);
  });

  // The address names the slice in the dialog, so that it can be reloaded, kept and sent.
  function nameSlice(hash) {
    history.replaceState(history.state, "", location.pathname + location.search + hash);
  }

  byId("slice-dialog")?.addEventListener("close", () => { nameSlice(""); showLabels(); });

  // Once the dialog is closed, show the labels that were given in it in the list, too.
  let labelled = false;

  function showLabels() {
    if (!labelled || byId("slice-dialog").open) return;
    labelled = false;
    const address = `${location.pathname}/results${location.search}${location.search ? "&" : "?"}poll=1`;
    htmx.ajax("GET", address, {target: "#results", swap: "outerMorph"});
  }

  document.addEventListener("htmx:after:request", ({detail: {ctx}}) => {
    if (!byId("slice-dialog") || ctx.response.status >= 400 || !/\/review(\?|$)/.test(ctx.request.action)) return;
    labelled = true;
    showLabels();
  });

  const named = byId("slice-dialog") && /^#slice-(\d+)$/.exec(location.hash);
  if (named) {
    const address = `${location.pathname}/slices/${named[1]}${location.search}`;
    htmx.ajax("GET", address, {target: "#slice-body", swap: "innerHTML"});
  }

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-heat-toggle]")) showHeat({on: event.target.checked});
  });

  document.addEventListener("input", (event) => {
    if (event.target.matches("[data-heat-strength]")) showHeat({on: true, strength: Number(event.target.value)});
  });

  const KEYS = {
    ArrowLeft: "[data-step='-1'][href]", ArrowRight: "[data-step='1'][href]",
    1: "#review-covid", 2: "#review-non-covid", u: "#review-undo:enabled",
  };

  document.addEventListener("keydown", (event) => {
    const typing = "input:not([type=checkbox], [type=range]), textarea, select";
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches(typing)) return;
    if (event.target.matches("[type=range]") && event.key.startsWith("Arrow")) return; // the slider moves
    if (!slice() || (byId("slice-dialog") && !byId("slice-dialog").open)) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key === "h") showHeat({on: !heat.on});
    else if (KEYS[key]) slice().querySelector(KEYS[key])?.click();
  });

  // Whoever moves the slider by pointer does not stay on it, so that the arrow keys go to other slices again.
  for (const end of ["pointerup", "pointercancel"]) {
    document.addEventListener(end, () => {
      if (document.activeElement.matches("[data-heat-strength]")) document.activeElement.blur();
    });
  }

  // A swipe across the picture does what the arrow keys do. Scrolling, zooming and moving a zoomed page do nothing.
  const SWIPE = 50; // pixels
  let touched = null;

  document.addEventListener("touchstart", (event) => {
    const single = event.touches.length === 1 && window.visualViewport.scale === 1;
    touched = single && event.target.closest(".slice-figure") ? event.touches[0] : null;
  }, {passive: true});

  document.addEventListener("touchend", (event) => {
    if (!touched) return;
    const [end] = event.changedTouches;
    const [right, down] = [end.clientX - touched.clientX, end.clientY - touched.clientY];
    touched = null;
    if (Math.abs(right) < Math.max(SWIPE, 2 * Math.abs(down))) return;
    slice()?.querySelector(right < 0 ? KEYS.ArrowRight : KEYS.ArrowLeft)?.click();
  });

  showHeat();

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
    menu.addEventListener("focusout", (event) => {
      if (event.relatedTarget && !menu.contains(event.relatedTarget)) menu.open = false;
    });
    menu.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { menu.open = false; menu.querySelector("summary").focus(); }
    });
  }

  // --- The session ------------------------------------------------------------------------------------------------
  const SIGNED_OUT = ["You are signed out", "Sign in again in another tab, then try again."];
  const metaOf = (page, name) => page.querySelector(`meta[name=${name}]`);

  // Give this page and all its forms the token of the present session, which differs after a new sign-in. Return null, or
  // a title and a sentence if the user of this page is not signed in any more, or the server does not answer.
  async function renewToken() {
    let fresh;
    try {
      const answer = await fetch(location.pathname);
      fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (answer.status >= 500 || !metaOf(fresh, "csrf-token")) throw new Error("not a page of ctbatch");
    } catch {
      return ["The server does not answer", "Nothing was sent. Try again in a moment."];
    }
    const [then, now] = [document, fresh].map((page) => metaOf(page, "user")?.content);
    if (!now) return SIGNED_OUT;
    if (now !== then) {
      return ["Another user is signed in", `This page is for ${then}, but now ${now} is signed in. Reload it.`];
    }
    const token = metaOf(fresh, "csrf-token").content;
    metaOf(document, "csrf-token").content = token;
    for (const input of document.querySelectorAll("input[name=csrf_token]")) input.value = token;
    return null;
  }

  window.ctbatch = {renewToken, SIGNED_OUT};

  // The address names a slice after its #, which does not reach the server: lead back to this slice after a sign-in.
  const next = document.querySelector("input[name=next]");
  if (next) next.value += location.hash;

  // --- The server refuses something -------------------------------------------------------------------------------
  let refused = null; // the request that was refused last: its path, and whether it was a poll
  const pathOf = (ctx) => ctx.request.action.split("?")[0];
  const isPoll = (ctx) => /[?&]poll=1/.test(ctx.request.action);

  function report(sentence) {
    const alert = byId("refused");
    const dialog = byId("slice-dialog");
    (dialog?.open ? dialog : byId("main")).prepend(alert);
    if (byId("refused-detail").textContent !== sentence) byId("refused-detail").textContent = sentence;
    alert.hidden = sentence === "";
  }

  // Send a request again with the new token. If its form has left the page, send what the form held, and show nothing.
  function repeat({sourceElement: form, sourceEvent: event, target, request: {method, action, body}}) {
    const gone = () => {
      const values = {...Object.fromEntries(body), csrf_token: metaOf(document, "csrf-token").content};
      return {source: document.body, values, target, swap: "none"};
    };
    htmx.ajax(method, action, {...(form.isConnected ? {source: form, event} : gone()), repeated: true});
  }

  document.addEventListener("htmx:response:error", async ({detail: {ctx}}) => {
    const [status, isPost] = [ctx.response.status, ctx.request.method === "POST"];
    if (status >= 500 || (status === 401 && !isPost)) return; // after a 401, the page leads to the sign-in
    if (isPoll(ctx) && refused && !refused.isPoll) return; // what a person did matters more
    const page = new DOMParser().parseFromString(ctx.text, "text/html");
    let sentence = page.querySelector("[data-detail]")?.textContent ?? `The server answered ${status}.`;
    if (status === 401) sentence = SIGNED_OUT.join(". ");
    if (page.querySelector("[data-problem=csrf]") && !ctx.repeated) {
      const problem = await renewToken();
      if (problem === null) return repeat(ctx);
      sentence = problem.join(". ");
    }
    // The page may show another slice by now, so name the one whose label was refused.
    const labelled = isPost && ctx.target.querySelector(".slice-title");
    refused = {path: pathOf(ctx), isPoll: isPoll(ctx)};
    report(labelled ? `The label of ${labelled.textContent} did not change. ${sentence}` : sentence);
  });

  document.addEventListener("htmx:after:request", ({detail: {ctx}}) => {
    if (ctx.response.status >= 400 || pathOf(ctx) !== refused?.path || (isPoll(ctx) && !refused.isPoll)) return;
    refused = null;
    report("");
  });

  // --- The server is away -----------------------------------------------------------------------------------------
  const away = (yes) => { if (byId("offline")) byId("offline").hidden = !yes; };
  document.addEventListener("htmx:error", () => away(true));
  document.addEventListener("htmx:after:request", (event) => away(event.detail.ctx?.response?.status >= 500));
})();
