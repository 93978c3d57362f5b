// What every page does: the slice dialog, confirmations, copying, the menu, and saying when the server refuses something
// or does not answer.
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
    if (inDialog && !dialog.open) return stopPoll(); // an answer that came late does not open the dialog again
    if (!dialog.open) dialog.showModal();
    showFailures();
    nameSlice(`#slice-${slice().dataset.id}`);
  });

  // The address names the slice in the dialog, so that it can be reloaded, kept and sent.
  function nameSlice(hash) {
    history.replaceState(history.state, "", location.pathname + location.search + hash);
  }

  const stopPoll = () => byId("slice-poll")?.remove(); // the slice is not seen any more

  byId("slice-dialog")?.addEventListener("close", () => {
    stopPoll();
    failures.delete(SLICE);
    nameSlice("");
    showFailures();
    showLabels();
  });

  // Once the dialog is closed, show the labels that were given in it in the list, too.
  let labelled = false;

  function showLabels() {
    if (!labelled || byId("slice-dialog").open) return;
    labelled = false;
    const address = `${location.pathname}/results${location.search}${location.search ? "&" : "?"}poll=1`;
    htmx.ajax("GET", address, {target: "#results", swap: "outerMorph"});
  }

  // If the list is drawn without the row that had the focus, focus the row of the slice shown last, or else the title.
  let wasInList = false;
  document.addEventListener("htmx:before:swap", () => { wasInList = document.activeElement.matches("#results *"); });
  document.addEventListener("htmx:after:swap", () => {
    if (!wasInList || document.activeElement !== document.body) return;
    const row = document.querySelector(`#slice-${slice()?.dataset.id} a`);
    (row ?? byId("results-title")).focus({preventScroll: true});
  });

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
  // A form that leads to another page is sent with the token of the present session. If that cannot be had, the page
  // stays, and keeps what was typed and chosen.
  let isRenewing = false;
  let renewed = null; // the form that is sent with a new token

  document.addEventListener("submit", async (event) => {
    const {target: form, submitter} = event;
    if (form === renewed) return;
    if (isRenewing) return event.preventDefault(); // a second click
    const {confirm, confirmFrom} = form.dataset ?? {}; // the question itself, or where a poll keeps it up to date
    const question = confirm ?? byId(confirmFrom)?.textContent;
    if (question && !window.confirm(question)) event.preventDefault();
    if (event.defaultPrevented || !form.matches("main form[method=post]") || !metaOf(document, "user")) return;
    event.preventDefault();
    isRenewing = true;
    const action = form.getAttribute("action");
    submitter?.setAttribute("aria-busy", "true");
    const problem = await renewToken();
    submitter?.removeAttribute("aria-busy");
    isRenewing = false;
    if (!form.isConnected || form.getAttribute("action") !== action) return; // a poll made another form of it
    if (problem) failures.set("form", {sentence: problem.join(". ")});
    else failures.delete("form");
    showFailures();
    if (problem) return;
    renewed = form;
    form.requestSubmit(submitter);
    renewed = null;
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
  // a title and a sentence if the user of this page is not signed in any more, or the server does not answer in time.
  async function renewToken() {
    let fresh;
    try {
      const answer = await fetch(location.pathname, {signal: AbortSignal.timeout(htmx.config.defaultTimeout)});
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

  // --- A request fails ----------------------------------------------------------------------------------------------
  // The failures that are shown, by purpose: each goes when a request of the same purpose succeeds. A label is for its
  // slice, and any other request, by a person or a poll, is for the place where its answer is shown.
  const failures = new Map(); // purpose -> {sentence, byPoll, name: of the slice whose label was sent}
  const isPoll = ({sourceElement}) => sourceElement.matches("[hx-trigger^=every]");
  const isPost = ({request}) => request.method === "POST";
  const SLICE = "slice-body";
  const placeOf = ({target}) => (target.id === "slice" ? SLICE : target.id);
  const purposeOf = (ctx) => (isPost(ctx) ? ctx.request.action.split("?")[0] : placeOf(ctx));

  // Show the failures where they are seen. What a person did matters more than what a poll did.
  function showFailures() {
    const all = [...failures.values()];
    const byPeople = all.filter(({byPoll}) => !byPoll);
    const names = new Map(); // sentence -> names of slices
    for (const {sentence, name} of byPeople.length > 0 ? byPeople : all) {
      names.set(sentence, (names.get(sentence) ?? []).concat(name ?? []));
    }
    const text = [...names].map(([sentence, some]) => (
      some.length > 0 ? `The ${some.length > 1 ? "labels" : "label"} of ${some.join(", ")} ${sentence}` : sentence
    )).join(" ");
    const [alert, dialog] = [byId("refused"), byId("slice-dialog")];
    const place = dialog?.open ? dialog : byId("main");
    if (alert.parentElement !== place) place.prepend(alert);
    if (byId("refused-detail").textContent !== text) byId("refused-detail").textContent = text;
    alert.hidden = text === "";
  }

  // Report a failed request. The page may show another slice by now, so name the one whose label was sent. If there was
  // no answer, the server may have kept the label.
  function failed(ctx, sentence, isAnswered) {
    if (isPoll(ctx) && placeOf(ctx) === SLICE && byId("slice-dialog")?.open === false) return; // nobody waits for it
    const name = isPost(ctx) ? ctx.target.querySelector(".slice-title")?.textContent : undefined;
    const label = isAnswered ? "did not change" : "may not have changed";
    failures.set(purposeOf(ctx), {sentence: name ? `${label}. ${sentence}` : sentence, byPoll: isPoll(ctx), name});
    if (ctx.sourceElement.matches("#filters")) ctx.sourceElement.reset(); // to what the list shows
    if (ctx.target.id === "results" && !isPoll(ctx)) labelled = true; // the list may still lack labels
    showFailures();
  }

  function notAnswered(ctx) {
    return `The server does not answer. ${isPoll(ctx) ? "This page keeps trying." : "Try again in a moment."}`;
  }

  // Send a request again with the new token. If its form has left the page, send what the form held, and show nothing.
  function repeat({sourceElement: form, sourceEvent: event, target, request: {method, action, body}}) {
    const gone = () => {
      const values = {...Object.fromEntries(body), csrf_token: metaOf(document, "csrf-token").content};
      return {source: document.body, values, target, swap: "none"};
    };
    htmx.ajax(method, action, {...(form.isConnected ? {source: form, event} : gone()), repeated: true});
  }

  document.addEventListener("htmx:error", ({detail: {ctx}}) => {
    if (ctx && ctx.text === undefined) failed(ctx, notAnswered(ctx), false);
  });

  document.addEventListener("htmx:response:error", async ({detail: {ctx}}) => {
    const {status} = ctx.response;
    if (status === 401 && !isPost(ctx)) return; // the page leads to the sign-in
    const page = new DOMParser().parseFromString(ctx.text, "text/html");
    let sentence = page.querySelector("[data-detail]")?.textContent;
    if (status === 401) sentence = SIGNED_OUT.join(". ");
    if (status >= 500 && (!sentence || isPoll(ctx))) sentence = notAnswered(ctx);
    if (page.querySelector("[data-problem=csrf]") && !ctx.repeated) {
      const problem = await renewToken();
      if (problem === null) return repeat(ctx);
      sentence = problem.join(". ");
    }
    failed(ctx, sentence ?? `The server answered ${status}.`, status < 500);
  });

  document.addEventListener("htmx:after:request", ({detail: {ctx}}) => {
    if (ctx.response.status < 400 && failures.delete(purposeOf(ctx))) showFailures();
  });
})();
