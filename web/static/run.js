// A training run's page: curves over all its epochs that grow while it trains, beside those of the champion's run.
(() => {
  "use strict";
  const POLL = 3000; // ms
  const HEIGHT = 260; // px
  const box = document.getElementById("curves");
  const live = () => document.getElementById("live");
  const charts = []; // {plot, place, key}
  let champion = null;
  let shown = ""; // what the curves show, so that they are drawn again only when something came
  let timer = null;

  // The browser stores no answer. This page keeps the last one and asks with its ETag: while nothing is new, nothing is
  // sent.
  const kept = new Map(); // address -> {tag, epochs}
  async function ask(address) {
    const last = kept.get(address);
    const headers = last ? {Accept: "application/json", "If-None-Match": last.tag} : {Accept: "application/json"};
    const answer = await fetch(address, {headers});
    if (answer.status === 304) return last.epochs;
    if (!answer.ok) return null;
    const epochs = await answer.json();
    kept.set(address, {tag: answer.headers.get("ETag"), epochs});
    return epochs;
  }

  const series = (epochs, key) => epochs.items.map((one) => one.metrics[key] ?? null);

  function columns(epochs, key) {
    const length = Math.max(epochs.items.length, champion?.items.length ?? 0);
    const pad = (values) => [...values, ...Array(length - values.length).fill(null)];
    const data = [Array.from({length}, (_, at) => at + 1), pad(series(epochs, key)), pad(series(epochs, `val_${key}`))];
    if (champion) data.push(pad(series(champion, `val_${key}`)));
    return data;
  }

  // Where a stage begins: a line between two epochs, named at its top.
  function borders(epochs) {
    return epochs.items.flatMap((one, at) => at > 0 && one.stage === epochs.items[at - 1].stage ? []
      : [{x: at + 0.5, name: epochs.stages[one.stage] ?? `stage ${one.stage + 1}`}]);
  }

  function drawBorders(plot, epochs, colours) {
    const {ctx, bbox} = plot;
    ctx.save();
    ctx.strokeStyle = colours.line;
    ctx.fillStyle = colours.muted;
    ctx.font = `${11 * devicePixelRatio}px Inter, sans-serif`;
    ctx.textBaseline = "top";
    ctx.textAlign = "left";
    let free = -Infinity; // names of short stages would lie over each other
    for (const {x, name} of borders(epochs)) {
      const at = plot.valToPos(x, "x", true);
      if (at < bbox.left - 1 || at > bbox.left + bbox.width) continue;
      ctx.beginPath();
      ctx.moveTo(at, bbox.top);
      ctx.lineTo(at, bbox.top + bbox.height);
      ctx.stroke();
      if (at < free) continue;
      ctx.fillText(name, at + 4 * devicePixelRatio, bbox.top + 2);
      free = at + ctx.measureText(name).width + 10 * devicePixelRatio;
    }
    ctx.restore();
  }

  function palette() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    return {train: colour("--positive"), validation: colour("--accent"), champion: colour("--muted"),
      muted: colour("--muted"), line: colour("--line-strong"), grid: colour("--line")};
  }

  function options(place, key, state) {
    const colours = palette();
    const axis = {stroke: colours.muted, grid: {stroke: colours.grid, width: 1}, ticks: {show: false}, font: "11px Inter, sans-serif"};
    const value = (_, number) => number === null ? "–" : number.toFixed(3);
    const lines = [{label: "Epoch", value: (_, number) => number ?? "–"}, {label: "training", stroke: colours.train, width: 1.75, points: {size: 5}, value, spanGaps: true},
      {label: "validation", stroke: colours.validation, width: 2.25, points: {size: 5}, value, spanGaps: true}];
    if (champion) lines.push({label: "champion", stroke: colours.champion, width: 1.5, dash: [6, 5], points: {show: false}, value, spanGaps: true});
    return {
      width: place.clientWidth, height: HEIGHT, series: lines, cursor: {y: false},
      legend: {live: true}, axes: [{...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500], space: 45}, {...axis, size: 48}],
      scales: {x: {time: false, range: () => [0.5, Math.max(1, state.epochs.items.length, champion?.items.length ?? 0) + 0.5]},
        y: {range: (_, low, high) => spread(low, high, key)}},
      hooks: {drawAxes: [(plot) => drawBorders(plot, state.epochs, colours)]},
    };
  }

  function spread(low, high, key) {
    if (low === null || low === undefined) return [0, 1];
    const room = Math.max((high - low) * 0.12, 0.02);
    return [Math.max(low - room, 0), key === "accuracy" ? Math.min(high + room, 1) : high + room];
  }

  function draw(epochs) {
    const text = JSON.stringify([epochs, champion?.items.length ?? 0]);
    if (text === shown || (epochs.items.length === 0)) return;
    shown = text;
    document.getElementById("curves-none").hidden = true;
    document.getElementById("curves-legend").hidden = false;
    box.querySelector(".curves").hidden = false;
    if (charts.length === 0) make(epochs);
    for (const chart of charts) {
      chart.state.epochs = epochs;
      chart.plot.setData(columns(epochs, chart.key));
    }
  }

  function make(epochs) {
    for (const place of box.querySelectorAll("[data-curve]")) {
      const key = place.dataset.curve;
      const state = {epochs};
      const plot = new uPlot(options(place, key, state), columns(epochs, key), place);
      charts.push({plot, place, key, state});
    }
  }

  function again() {
    if (charts.length === 0) return;
    const epochs = charts[0].state.epochs;
    for (const chart of charts.splice(0)) chart.plot.destroy();
    make(epochs);
  }

  async function poll() {
    clearTimeout(timer);
    const open = live()?.dataset.open === "true"; // read before asking, so that the last epochs are asked for
    try {
      const epochs = await ask(box.dataset.epochs);
      if (epochs) draw(epochs);
    } catch { /* the server is away; the page says so, and this goes on asking */ }
    if (open) timer = setTimeout(poll, POLL);
  }

  async function start() {
    if (box.dataset.champion) {
      try { champion = await ask(box.dataset.champion); } catch { /* then without it */ }
    }
    await poll();
  }

  new ResizeObserver(() => {
    for (const {plot, place} of charts) {
      if (place.clientWidth && place.clientWidth !== plot.width) plot.setSize({width: place.clientWidth, height: HEIGHT});
    }
  }).observe(box);
  new MutationObserver(again).observe(document.documentElement, {attributes: true, attributeFilter: ["data-bs-theme"]});
  start();
})();
