/* The explorer: draws what stands in the page's data, and follows the pointer, the keys and the link. */
"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const names = data.entities;
const N = names.length;
const at = id => document.getElementById(id);
const VIEWS = ["matrix", "similarity", "cut"];

/* Numbers ------------------------------------------------------------------------------------------- */

function numbers(text) {
  return new Float64Array(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
}
for (const method of data.methods) {
  method.row = new Map(method.emitters.map((e, k) => [e, k]));
  method.numbers = Object.fromEntries(Object.entries(method.values).map(([m, text]) => [m, numbers(text)]));
}
for (const similarity of data.similarities) similarity.numbers = numbers(similarity.values);
const byName = (list, name) => list.find(thing => thing.name === name);

function value(method, metric, from, to) {
  const row = method.row.get(from);
  return row === undefined ? NaN : method.numbers[metric.name][row * N + to];
}
function likeness(similarity, a, b) { return similarity.numbers[a * N + b]; }
function harm(metric, v) { return metric.higher_is_better ? metric.unchanged - v : v - metric.unchanged; }
function mean(values) {
  const known = values.filter(Number.isFinite);
  return known.length ? known.reduce((a, b) => a + b, 0) / known.length : NaN;
}
function quantile(sorted, q) {
  const place = (sorted.length - 1) * q, low = Math.floor(place), high = Math.ceil(place);
  return sorted[low] + (sorted[high] - sorted[low]) * (place - low);
}
function told(v, digits = 3) {
  if (v === null || v === undefined || !Number.isFinite(v)) return "–";
  return Number(v.toPrecision(digits)).toString().replace("-", "−");
}
function words(name) { return name.replaceAll("_", " "); }

/* What is asked: all of it stands in the link ---------------------------------------------------------- */

const firstMethod = data.methods[0];
const firstPair = data.worst[firstMethod.name];
const categorical = data.attributes.find(a => a.kind === "categorical");
const START = {
  view: "matrix",
  metric: data.main,
  order: categorical ? "by " + categorical.name : "table",
  similarity: data.similarities.length ? data.similarities[0].name : "",
  methods: data.methods.slice(0, 3).map(m => m.name),
  forgotten: "",
  measured: "",
  from: firstMethod.emitters[0],
  to: firstMethod.emitters[0],
};
if (firstPair) {
  const pair = firstPair.map(name => names.indexOf(words(name)));
  if (pair.every(k => k >= 0)) [START.from, START.to] = pair;
}
let state = { ...START };
let hovered = null;  // a pair, while the pointer is over it
const pair = () => hovered || [state.from, state.to];

function orders() {
  const list = [["table", "as in the table"], ["harm", "most harm first"]];
  if (data.similarities.length) {
    list.push(["cluster", "clusters of the similarity"], ["near", "likeness to the chosen one"]);
  }
  return [...list, ...data.attributes.map(a => ["by " + a.name, words(a.name)])];
}
function thirds(attribute) {
  const sorted = attribute.values.filter(v => v !== null).map(Number).sort((a, b) => a - b);
  return [quantile(sorted, 1 / 3), quantile(sorted, 2 / 3)];
}
function choices(attribute) {  // value in the link -> words and a test
  const exact = v => [String(v), words(String(v)), x => String(x) === String(v)];
  if (attribute.kind === "categorical") {
    return [...new Set(attribute.values.filter(v => v !== null))].sort().map(exact);
  }
  const [low, high] = thirds(attribute);
  return [
    ["low", "up to " + told(low), x => x !== null && x <= low],
    ["middle", told(low) + " to " + told(high), x => x !== null && x > low && x <= high],
    ["high", "above " + told(high), x => x !== null && x > high],
  ];
}
function passes(filter) {  // "domain=nature"
  if (!filter) return () => true;
  const cut = filter.indexOf("=");
  const attribute = byName(data.attributes, filter.slice(0, cut));
  const choice = choices(attribute).find(c => c[0] === filter.slice(cut + 1));
  return k => choice[2](attribute.values[k]);
}
const known = {
  view: v => VIEWS.includes(v),
  metric: v => Boolean(byName(data.metrics, v)),
  order: v => orders().some(o => o[0] === v),
  similarity: v => Boolean(byName(data.similarities, v)),
  methods: v => v.split(",").every(m => byName(data.methods, m)),
  forgotten: filterIsKnown,
  measured: filterIsKnown,
  from: v => names.includes(v),
  to: v => names.includes(v),
};
function filterIsKnown(filter) {
  const cut = filter.indexOf("=");
  const attribute = byName(data.attributes, filter.slice(0, cut));
  return Boolean(attribute) && choices(attribute).some(c => c[0] === filter.slice(cut + 1));
}
function readLink() {
  const asked = new URLSearchParams(location.hash.slice(1)), unknown = [];
  state = { ...START };
  for (const [key, text] of asked) {
    if (!(key in known) || !known[key](text)) unknown.push(key + "=" + text);
    else if (key === "methods") state.methods = text.split(",");
    else if (key === "from" || key === "to") state[key] = names.indexOf(text);
    else state[key] = text;
  }
  says(unknown.length ? "The link asks for what this page has not: " + unknown.join(", ") : "");
}
function writeLink() {
  const asked = new URLSearchParams();
  for (const key of Object.keys(START)) {
    const now = key === "methods" ? state.methods.join(",") : key === "from" || key === "to"
      ? names[state[key]] : state[key];
    if (now !== "") asked.set(key, now);
  }
  history.replaceState(null, "", "#" + asked);
}
function change(part) { state = { ...state, ...part }; hovered = null; writeLink(); render(); }
function choose(from, to) {
  const moved = state.order === "near" && from !== state.from || state.view === "cut";
  state = { ...state, from, to };
  hovered = null;
  writeLink();
  if (moved) render(); else renderPair();
}

/* Elements: everything that came from a store is text, never HTML -------------------------------------- */

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, v] of Object.entries(attributes)) {
    if (key === "text") made.textContent = v;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), v);
    else made.setAttribute(key, v);
  }
  made.append(...children);
  return made;
}
function table(rows, kind = "numbers") {
  const [head, ...body] = rows;
  return element("div", { class: "wide" }, element("table", { class: kind },
    element("thead", {}, element("tr", {}, ...head.map(text => element("th", { text, scope: "col" })))),
    element("tbody", {}, ...body.map(row => element("tr", {}, ...row.map(text => element("td", { text })))))));
}
function says(text) {
  const place = at("said") || at("notes").appendChild(element("div", { id: "said", role: "status" }));
  place.className = text ? "note" : "";
  place.textContent = text;
}
function fill(select, list, now) {
  select.replaceChildren(...list.map(([v, text]) => element("option", { value: v, text })));
  select.value = now;
}
function fillFilter(select, now) {
  select.replaceChildren(element("option", { value: "", text: "all" }));
  for (const attribute of data.attributes) {
    const group = element("optgroup", { label: words(attribute.name) });
    for (const [v, text] of choices(attribute)) {
      group.append(element("option", { value: attribute.name + "=" + v, text: words(attribute.name) + ": " + text }));
    }
    select.append(group);
  }
  select.value = now;
}

/* CSV ------------------------------------------------------------------------------------------------- */

function csv(rows) {
  const cell = v => {
    const text = v === null || v === undefined || Number.isNaN(v) ? "" : String(v);
    return /[",\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  };
  return rows.map(row => row.map(cell).join(",")).join("\n") + "\n";
}
function csvButton(text, name, rows) {
  const save = () => {
    const link = element("a", { download: data.task + "_" + name + ".csv" });
    link.href = URL.createObjectURL(new Blob([csv(rows())], { type: "text/csv" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  return element("button", { type: "button", text, onclick: save, "data-csv": name });
}

/* Colours --------------------------------------------------------------------------------------------- */

function colour(name) {  // what light-dark() comes to
  const probe = document.body.appendChild(element("i", { style: "color: var(--" + name + ")" }));
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}
let ink = {};
function mix() {
  for (const name of ["text", "quiet", "line", "harm", "gain", "middle", "mark", "page"]) ink[name] = colour(name);
}
function scale(metric, values) {  // robust ends, as the figures of the results have them
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  if (!sorted.length) return { domain: [0, 1], range: [ink.middle, ink.harm] };
  const low = quantile(sorted, .02), high = quantile(sorted, .98);
  if (metric.signed) {
    const end = Math.max(-low, high) || 1, both = [ink.harm, ink.middle, ink.gain];
    return { domain: [-end, 0, end], range: metric.higher_is_better ? both : both.reverse() };
  }
  const domain = metric.higher_is_better ? [low, metric.unchanged] : [metric.unchanged, high];
  if (domain[0] === domain[1]) domain[1] += 1;
  return { domain, range: metric.higher_is_better ? [ink.harm, ink.middle] : [ink.middle, ink.harm] };
}
function legend(metric, colours, cells) {
  const [low, high] = [colours.domain[0], colours.domain.at(-1)], beyond = check => cells.some(check);
  const ends = [(beyond(v => v < low) ? "≤ " : "") + told(low, 2), (beyond(v => v > high) ? "≥ " : "") + told(high, 2)];
  const bar = element("i", { style: "background: linear-gradient(90deg, " + colours.range.join(", ") + ")" });
  return element("div", { class: "legend" }, element("span", { text: metric.label + ":" }),
    element("span", { text: ends[0] }), bar, element("span", { text: ends[1] }),
    element("span", { text: "red is harm; blank was not measured; a frame marks the forgotten one itself" }));
}

/* Who is shown, in which order -------------------------------------------------------------------------- */

function shownMethods() { return data.methods.filter(m => state.methods.includes(m.name)); }
function shown() {
  const methods = shownMethods(), metric = byName(data.metrics, state.metric);
  const similarity = byName(data.similarities, state.similarity);
  const forgotten = passes(state.forgotten), measured = passes(state.measured);
  const there = [...new Set(methods.flatMap(m => m.emitters))].sort((a, b) => a - b);
  const rows = there.filter(forgotten), columns = names.map((_, k) => k).filter(measured);
  return { methods, metric, similarity, ...arranged(rows, columns, methods, metric, similarity) };
}
function arranged(rows, columns, methods, metric, similarity) {
  const sort = (list, key) => list.map(k => [key(k), k]).sort((a, b) => a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : a[1] - b[1])
    .map(both => both[1]);
  const last = v => Number.isFinite(v) ? v : Infinity;
  let caused, suffered;
  if (state.order === "harm") {
    const cells = (froms, tos) => mean(methods.flatMap(m => froms.flatMap(f => tos.map(t =>
      f === t ? NaN : harm(metric, value(m, metric, f, t))))));
    caused = k => last(-cells([k], columns));
    suffered = k => last(-cells(rows, [k]));
  } else if (state.order === "cluster") {
    const place = new Map(similarity.order.map((k, i) => [k, i]));
    caused = suffered = k => place.get(k);
  } else if (state.order === "near") {
    caused = suffered = k => last(-likeness(similarity, state.from, k));
  } else if (state.order.startsWith("by ")) {
    const attribute = byName(data.attributes, state.order.slice(3));
    const missing = attribute.kind === "categorical" ? "\uffff" : Infinity;
    caused = suffered = k => attribute.values[k] === null ? missing
      : attribute.kind === "categorical" ? String(attribute.values[k]) : attribute.values[k];
    if (attribute.kind === "categorical") {
      const group = k => attribute.values[k] === null ? "" : words(String(attribute.values[k]));
      return { rows: sort(rows, caused), columns: sort(columns, suffered), group };
    }
  } else return { rows, columns, group: null };
  return { rows: sort(rows, caused), columns: sort(columns, suffered), group: null };
}
function runs(list, group) {  // of equal groups: name, first, after the last
  const found = [];
  list.forEach((k, i) => {
    const name = group(k);
    if (!found.length || found.at(-1).name !== name) found.push({ name, first: i, after: i });
    found.at(-1).after = i + 1;
  });
  return found;
}

/* Figures --------------------------------------------------------------------------------------------- */

let drawn = [];  // {view, mark}: Vega views, and how each marks a pair
let round = 0;  // of drawing: what a round before this one still draws is thrown away
let pending = [];  // what this round still draws; the body says `data-ready` when nothing is
function draw(...what) { pending.push(drawNow(...what)); }
async function drawNow(place, spec, mark, pick) {
  const mine = round, how = { mode: "vega", renderer: "canvas", actions: false, hover: false, tooltip: false, defaultStyle: false };
  const { view } = await vegaEmbed(place, spec, how);
  if (mine !== round) return view.finalize();
  const pairOf = item => item && item.datum && item.datum.from !== undefined ? [item.datum.from, item.datum.to] : null;
  view.addEventListener("pointermove", (_, item) => {
    const found = pairOf(item);
    if (!found || hovered && hovered[0] === found[0] && hovered[1] === found[1]) return;
    hovered = found;
    renderPair();
  });
  view.addEventListener("click", (_, item) => { if (pairOf(item)) pick(...pairOf(item)); });
  let dragged = false;  // Vega knows what a click hits from moves before it, and a finger makes none
  view.addEventListener("touchstart", () => { dragged = false; });
  view.addEventListener("touchmove", () => { dragged = true; });
  view.addEventListener("touchend", (_, item) => { if (!dragged && pairOf(item)) pick(...pairOf(item)); });
  place.addEventListener("pointerleave", () => { if (hovered) { hovered = null; renderPair(); } });
  drawn.push({ view, mark });
  mark(view, pair());
}
const font = "system-ui, sans-serif";
function frame(width, height, padding) {
  return {
    $schema: "https://vega.github.io/schema/vega/v6.json", width, height, padding, autosize: "none", background: null,
    config: { axis: { labelColor: ink.text, titleColor: ink.quiet, domainColor: ink.line, tickColor: ink.line,
      gridColor: ink.line, labelFont: font, titleFont: font, titleFontWeight: "normal", labelFontSize: 11, titleFontSize: 12 },
      text: { font, fill: ink.text } },
  };
}
function textWidth(texts, size, weight = "normal") {
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = weight + " " + size + "px " + font;
  return Math.max(0, ...texts.map(t => pen.measureText(t).width));
}
function matrixSpec(method, about, colours, room) {
  const { rows, columns, metric, group } = about;
  const high = rows.length > 40 ? Math.max(4, Math.min(12, room / columns.length)) : Math.max(13, Math.min(22, 460 / rows.length));
  const left = high >= 9 ? Math.min(room * .3, textWidth(rows.map(k => names[k]), 11) + 8) : 4;
  const width = room - left - 4, wide = width / columns.length;
  const named = wide >= 9;
  const groups = group ? runs(columns, group) : [];
  const upright = groups.some(g => (g.after - g.first) * wide < textWidth([g.name], 11) + 4);
  const above = groups.length ? (upright ? textWidth(groups.map(g => g.name), 11) + 8 : 18) : 2;
  const below = named ? Math.min(110, textWidth(columns.map(k => names[k]), 10) + 6) : 2;
  const cells = [];
  for (const from of rows) for (const to of columns) {
    const v = value(method, metric, from, to);
    if (Number.isFinite(v)) cells.push({ from, to, v });
  }
  const spec = frame(width, high * rows.length, { left, top: above, right: 4, bottom: below });
  const box = { x: { scale: "x", field: "to" }, y: { scale: "y", field: "from" },
    width: { scale: "x", band: 1 }, height: { scale: "y", band: 1 } };
  spec.data = [
    { name: "cells", values: cells },
    { name: "own", values: rows.filter(k => columns.includes(k)).map(k => ({ from: k, to: k })) },
    { name: "names", values: groups.map(g => ({ ...g })) },
    { name: "edges", values: groups.slice(1) },
    { name: "rowEdges", values: group ? runs(rows, group).slice(1) : [] },
    { name: "marked", values: [] },
  ];
  spec.scales = [
    { name: "x", type: "band", domain: columns, range: [0, width] },
    { name: "y", type: "band", domain: rows, range: [0, high * rows.length] },
    { name: "c", type: "linear", domain: colours.domain, range: colours.range, clamp: true, interpolate: "lab" },
  ];
  const entity = "names[datum.value]";
  spec.signals = [{ name: "names", value: names }];
  spec.axes = [];
  const axis = { domain: false, ticks: false, labelPadding: 3, labelOverlap: false };
  if (high >= 9) spec.axes.push({ ...axis, scale: "y", orient: "left", labelLimit: left - 6,
    encode: { labels: { update: { text: { signal: entity } } } } });
  if (named) spec.axes.push({ ...axis, scale: "x", orient: "bottom", labelAngle: -90, labelAlign: "right",
    labelBaseline: "middle", labelFontSize: 10, labelLimit: below - 4, encode: { labels: { update: { text: { signal: entity } } } } });
  const turned = upright ? { angle: { value: -90 }, align: { value: "left" }, baseline: { value: "middle" } }
    : { align: { value: "center" }, baseline: { value: "bottom" } };
  const gap = wide > 5 ? .5 : 0;
  spec.marks = [
    { type: "rect", from: { data: "cells" }, encode: { enter: { ...box, fill: { scale: "c", field: "v" },
      stroke: { value: ink.page }, strokeWidth: { value: gap } } } },
    { type: "rect", interactive: false, from: { data: "own" }, encode: { enter: { ...box,
      stroke: { value: ink.quiet }, strokeWidth: { value: 1 } } } },
    { type: "rule", interactive: false, from: { data: "edges" }, encode: { enter: {
      x: { signal: "datum.first * " + wide }, y: { value: 0 }, y2: { value: high * rows.length },
      stroke: { value: ink.text }, strokeWidth: { value: .8 } } } },
    { type: "rule", interactive: false, from: { data: "rowEdges" }, encode: { enter: {
      y: { signal: "datum.first * " + high }, x: { value: 0 }, x2: { value: width },
      stroke: { value: ink.text }, strokeWidth: { value: .8 } } } },
    { type: "text", interactive: false, from: { data: "names" }, encode: { enter: {
      x: { signal: "(datum.first + datum.after) / 2 * " + wide }, y: { value: -4 }, text: { field: "name" },
      fontSize: { value: 11 }, ...turned } } },
    ...[[ink.page, 5], [ink.mark, 2.5]].map(([stroke, strokeWidth]) => ({ type: "rect", interactive: false,
      from: { data: "marked" }, encode: { update: { ...box, stroke: { value: stroke }, strokeWidth: { value: strokeWidth } } } })),
  ];
  return spec;
}
function markCells(view, [from, to], about) {
  const there = about.rows.includes(from) && about.columns.includes(to);
  view.data("marked", there ? [{ from, to }] : []).run();
}
function points(about) {  // of all shown methods, without the forgotten themselves
  const found = [];
  for (const method of about.methods) for (const from of about.rows) for (const to of about.columns) {
    const y = value(method, about.metric, from, to), x = likeness(about.similarity, from, to);
    if (from !== to && Number.isFinite(x) && Number.isFinite(y)) found.push({ from, to, x, y, method: method.name });
  }
  return found;
}
function scatterSpec(about, room) {
  const all = points(about), height = Math.min(440, Math.max(260, room * .62));
  const padding = { left: 58, top: 8, right: 10, bottom: 44 };
  const spec = frame(room - padding.left - padding.right, height, padding);
  spec.data = [{ name: "points", values: all }, { name: "marked", values: [] }];
  const across = { type: "linear", zero: false, nice: true };
  spec.scales = [
    { name: "x", ...across, domain: { data: "points", field: "x" }, range: "width" },
    { name: "y", ...across, domain: { data: "points", field: "y" }, range: "height" },
    { name: "c", type: "ordinal", domain: about.methods.map(m => m.name), range: about.methods.map(m => m.color) },
  ];
  spec.axes = [
    { scale: "x", orient: "bottom", title: about.similarity.label, tickCount: 6, grid: true, gridOpacity: .5 },
    { scale: "y", orient: "left", title: about.metric.label, tickCount: 6, grid: true, gridOpacity: .5 },
  ];
  const place = { x: { scale: "x", field: "x" }, y: { scale: "y", field: "y" } };
  spec.marks = [
    { type: "symbol", from: { data: "points" }, encode: { enter: { ...place,
      fill: { scale: "c", field: "method" }, size: { value: all.length > 3000 ? 22 : 40 }, stroke: { value: ink.page },
      strokeWidth: { value: .5 }, opacity: { value: all.length > 3000 ? .45 : .75 } } } },
    ...[[ink.page, 5], [ink.mark, 2.5]].map(([stroke, strokeWidth]) => ({ type: "symbol", interactive: false,
      from: { data: "marked" }, encode: { update: { ...place, size: { value: 170 }, fill: { value: null },
        stroke: { value: stroke }, strokeWidth: { value: strokeWidth } } } })),
  ];
  return spec;
}
function markPoints(view, [from, to], about) {
  const marked = points({ ...about, rows: about.rows.filter(k => k === from), columns: about.columns.filter(k => k === to) });
  view.data("marked", marked).run();
}

/* The minimum cut (Dinic 1970): the same cut as the results', the one nearest to the protected entity ------ */

function minimumCut(method, metric, source, sink) {
  const weight = new Float64Array(N * N);
  for (const from of method.emitters) for (let to = 0; to < N; to++) {
    const carried = harm(metric, value(method, metric, from, to));
    if (from !== to && carried > 0) weight[from * N + to] = carried;
  }
  const left = Float64Array.from(weight), tiny = 1e-12 * Math.max(1e-300, ...weight);
  let level;
  const layered = () => {
    level = new Int32Array(N).fill(-1);
    level[source] = 0;
    const queue = [source];
    for (const a of queue) for (let b = 0; b < N; b++) {
      if (level[b] < 0 && left[a * N + b] > tiny) { level[b] = level[a] + 1; queue.push(b); }
    }
    return level[sink] >= 0;
  };
  let next;
  const push = (a, most) => {
    if (a === sink) return most;
    for (; next[a] < N; next[a]++) {
      const b = next[a], room = left[a * N + b];
      if (level[b] !== level[a] + 1 || room <= tiny) continue;
      const sent = push(b, Math.min(most, room));
      if (sent > 0) { left[a * N + b] -= sent; left[b * N + a] += sent; return sent; }
    }
    return 0;
  };
  while (layered()) { next = new Int32Array(N); while (push(source, Infinity) > 0); }
  const far = new Uint8Array(N);  // from where the sink can still be reached
  far[sink] = 1;
  const queue = [sink];
  for (const b of queue) for (let a = 0; a < N; a++) {
    if (!far[a] && left[a * N + b] > tiny) { far[a] = 1; queue.push(a); }
  }
  const edges = [];
  for (let a = 0; a < N; a++) for (let b = 0; b < N; b++) {
    if (!far[a] && far[b] && weight[a * N + b] > 0) edges.push({ from: a, to: b, weight: weight[a * N + b] });
  }
  edges.sort((a, b) => b.weight - a.weight);
  const sum = list => list.reduce((a, b) => a + b, 0);
  const out = sum(names.map((_, k) => weight[source * N + k])), into = sum(names.map((_, k) => weight[k * N + sink]));
  const cut = sum(edges.map(e => e.weight)), nFar = sum([...far]);
  return { cut, edges, nNear: N - nFar, nFar, share: cut / Math.min(out, into),
    trivial: edges.length > 0 && (N - nFar === 1 || nFar === 1) };
}
function cutWords(found, from, to) {
  if (!found.edges.length) return "no path: nothing measured leads from one to the other";
  if (found.trivial) return "no bottleneck: the cut only isolates " + names[found.nNear === 1 ? from : to];
  return found.nNear + " | " + found.nFar + " entities, cut " + told(found.cut) + " = " + told(100 * found.share, 2)
    + " % of what could flow";
}
function cutSpec(found, from, to, room, method) {
  const first = found.edges.slice(0, 14);
  const direct = found.edges.slice(14).filter(e => e.from === from && e.to === to);
  const edges = [...first, ...direct];
  const sides = [[from, ...edges.map(e => e.from)], [to, ...edges.map(e => e.to)]].map(side => [...new Set(side)]);
  const n = Math.max(...sides.map(side => side.length)), high = 21;
  const place = sides.map(side => new Map(side.map((k, i) => [k, ((n - side.length) / 2 + i + .5) * high])));
  const left = Math.min(room * .36, textWidth(sides[0].map(k => names[k]), 13, "bold") + 18);
  const right = Math.min(room * .36, textWidth(sides[1].map(k => names[k]), 13, "bold") + 18);
  const width = room - left - right, most = edges.length ? edges[0].weight : 1;
  const spec = frame(width, n * high, { left, right, top: 24, bottom: 6 });
  const label = (k, side) => ({ text: names[k], x: side ? width + 6 : -6, y: place[side].get(k), side,
    weight: k === (side ? to : from) ? "bold" : "normal" });
  const heads = [["emitter's side (" + found.nNear + ")", -6, 0], ["protected side (" + found.nFar + ")", width + 6, 1]];
  spec.data = [
    { name: "edges", values: edges.map(e => ({ ...e, y: place[0].get(e.from), y2: place[1].get(e.to),
      wide: .8 + 5 * e.weight / most })) },
    { name: "labels", values: sides.flatMap((side, s) => side.map(k => label(k, s))) },
    { name: "heads", values: heads.map(([text, x, side]) => ({ text, x, side })) },
    { name: "marked", values: [] },
  ];
  const line = { x: { value: 2 }, x2: { value: width - 2 }, y: { field: "y" }, y2: { field: "y2" } };
  const align = { signal: "datum.side ? 'left' : 'right'" };
  spec.marks = [
    { type: "rule", from: { data: "edges" }, encode: { enter: { ...line, strokeWidth: { field: "wide" },
      stroke: { value: method.color }, strokeOpacity: { value: .7 }, strokeCap: { value: "round" } } } },
    { type: "rule", interactive: false, from: { data: "marked" }, encode: { update: { ...line,
      stroke: { value: ink.mark }, strokeWidth: { value: 2 }, strokeDash: { value: [5, 3] } } } },
    { type: "text", interactive: false, from: { data: "labels" }, encode: { enter: { x: { field: "x" }, y: { field: "y" },
      text: { field: "text" }, align, baseline: { value: "middle" }, fontSize: { value: 13 }, fontWeight: { field: "weight" },
      limit: { signal: "datum.side ? " + (right - 8) + " : " + (left - 8) } } } },
    { type: "text", interactive: false, from: { data: "heads" }, encode: { enter: {
      x: { signal: "datum.side ? " + (width - 2) + " : 2" }, y: { value: -12 }, text: { field: "text" },
      align: { signal: "datum.side ? 'right' : 'left'" }, baseline: { value: "middle" }, fontSize: { value: 11 },
      fill: { value: ink.quiet } } } },
  ];
  return spec;
}
function markEdge(view, [from, to]) {
  view.data("marked", view.data("edges").filter(e => e.from === from && e.to === to).map(e => ({ ...e }))).run();
}

/* Views ----------------------------------------------------------------------------------------------- */

function plotBox(label) {
  return element("div", { class: "plot", tabindex: 0, role: "group", "aria-label": label, onkeydown: walk });
}
function figureOf(method, said, label) {
  const place = plotBox(label);
  const dot = element("span", { class: "dot", style: "background:" + method.color });
  const caption = element("figcaption", {}, dot, element("span", { text: method.label }));
  if (said) caption.append(element("span", { class: "said", text: said }));
  at("figures").append(element("figure", { "data-method": method.name }, caption, place));
  return place;
}
const room = () => Math.max(240, at("figures").clientWidth);
const KEYS = " Arrow keys go to the next pair.";

function testsOf(about, template, by) {
  return about.methods.map(m => [m, data.tests.find(t => t.template === template && t.method === m.name
    && t.metric === about.metric.name && t.by === by)]).filter(both => both[1]);
}
function testTable(tests, what) {
  const rows = tests.map(([method, t]) => {
    if (t.skipped || t.pvalue === null) return [method.label, told(t.r), "–", "–", "–", t.skipped || "nothing varies"];
    const span = t.ci_low === null ? "" : " [" + told(t.ci_low, 2) + ", " + told(t.ci_high, 2) + "]";
    const sure = t.adjusted < .05, reads = !sure ? "not more than chance" : t.harm_r > 0 ? "the alike suffer more" : "the alike suffer less";
    return [method.label, told(t.r, 2) + span, told(t.pvalue, 2), told(t.adjusted, 2), String(t.n_pairs ?? "–"), reads];
  });
  return table([["method", what, "p", "p corrected", "pairs", "it reads"], ...rows]);
}
const CORRECTED = "p-values rename the entities and keep the pairs together (Mantel); corrected over all tests of this "
  + "kind on the page (Benjamini and Hochberg).";
function testWords(about) {  // the test that goes with an order
  const likes = ["cluster", "near"].includes(state.order);
  if (!data.tests.length) return [];
  if (likes) {
    return [element("p", { text: "Does harm follow this order? " + about.similarity.label + " against "
      + about.metric.label + ". " + CORRECTED }), testTable(testsOf(about, "MetricSimilarityAlignment", state.similarity), "r [95 %]")];
  }
  if (state.order.startsWith("by ")) {
    const attribute = state.order.slice(3);
    return [element("p", { text: "Are those who share " + words(attribute) + " with the forgotten one harmed more, the "
      + "other attributes held fixed? " + CORRECTED }),
      testTable(testsOf(about, "InterferenceAlongAttribute", attribute), "partial r")];
  }
  return [element("p", { text: "This order is not tested; an attribute or a similarity is." })];
}
function unseen(...views) {
  const text = views.map(view => data.not_shown[view]).filter(Boolean).join(" ");
  return element("p", {}, element("b", { text: "What it does not show. " }), text);
}
function testsButton() {
  const columns = ["template", "method", "metric", "by", "r", "ci_low", "ci_high", "harm_r", "pvalue", "adjusted", "n_pairs", "skipped"];
  return csvButton("All tests as CSV", "tests", () => [columns, ...data.tests.map(t => columns.map(c => t[c]))]);
}
function pairRows(about) {
  const rows = [["method", "forgotten", "measured", "metric", "value"]];
  for (const m of about.methods) for (const f of about.rows) for (const t of about.columns) {
    rows.push([m.name, names[f], names[t], about.metric.name, value(m, about.metric, f, t)]);
  }
  return rows;
}
const draws = {
  matrix(about) {
    const cells = about.methods.flatMap(m => about.rows.flatMap(f => about.columns.filter(t => t !== f)
      .map(t => value(m, about.metric, f, t))));
    const colours = scale(about.metric, cells);
    at("figures").append(legend(about.metric, colours, cells));
    for (const method of about.methods) {
      const own = { ...about, rows: about.rows.filter(k => method.row.has(k)) };
      const said = own.rows.length + " forgotten × " + own.columns.length + " measured";
      const place = figureOf(method, said, method.label + ": " + about.metric.label + ", " + said + "." + KEYS);
      if (!own.rows.length || !own.columns.length) { place.textContent = "Nobody passes the filters."; continue; }
      draw(place, matrixSpec(method, own, colours, room()), (view, both) => markCells(view, both, own), choose);
    }
    const summaries = about.methods.map(m => {
      const s = m.summaries[about.metric.name];
      return [m.label, told(s.diagonal_average), told(s.off_diagonal_average), String(s.n_emitters)];
    });
    at("words").append(
      element("p", { text: "Means of " + about.metric.label + " over everything measured, whatever is filtered:" }),
      table([["method", "the forgotten themselves", "all others", "forgotten"], ...summaries]),
      ...testWords(about), unseen("matrix", state.order.startsWith("by ") ? "along" : "", "task"),
      element("div", { class: "buttons" }, csvButton("These numbers as CSV", "matrix", () => pairRows(about)), testsButton()));
  },
  similarity(about) {
    if (!about.similarity) { at("words").append(element("p", { text: "This store has no similarity." })); return; }
    const heading = about.similarity.label + " against " + about.metric.label;
    const place = plotBox(heading + ", a dot a pair." + KEYS);
    const key = about.methods.map(m => element("span", {}, element("span", { class: "dot", style: "background:" + m.color }), " " + m.label));
    at("figures").append(element("figure", {}, element("figcaption", {}, heading, element("span", { class: "said" },
      "a dot is a pair; the pair under the pointer has a ring")), element("div", { class: "legend" }, ...key), place));
    draw(place, scatterSpec(about, room()), (view, both) => markPoints(view, both, about), choose);
    at("words").append(element("p", { text: "If the likeness of names, attributes or pictures foretold harm, the cloud "
      + "would rise or fall. Filters hide dots; the tests are of all pairs. " + (data.tests.length ? CORRECTED : "") }));
    if (data.tests.length) at("words").append(testTable(testsOf(about, "MetricSimilarityAlignment", state.similarity), "r [95 %]"));
    at("words").append(unseen("similarity", "task"), element("div", { class: "buttons" },
      csvButton("These numbers as CSV", "similarity", () => [["method", "forgotten", "measured", about.similarity.name, about.metric.name],
        ...points(about).map(p => [p.method, names[p.from], names[p.to], p.x, p.y])]), testsButton()));
  },
  cut(about) {
    const [from, to] = [state.from, state.to], rows = [["method", "from", "to", "weight"]];
    for (const method of about.methods) {
      if (!method.row.has(from) || from === to) {
        const why = from === to ? "a cut parts two entities; choose another one to protect" : names[from] + " was not forgotten";
        figureOf(method, why, method.label + ": " + why);
        continue;
      }
      const found = minimumCut(method, about.metric, from, to), said = cutWords(found, from, to);
      const label = method.label + ", minimum cut from " + names[from] + " to " + names[to] + ": " + said + "." + KEYS;
      draw(figureOf(method, said, label), cutSpec(found, from, to, Math.min(room(), 760), method), markEdge, () => {});
      rows.push(...found.edges.map(e => [method.name, names[e.from], names[e.to], e.weight]));
    }
    at("words").append(element("p", { text: "Where would harm have to be stopped to protect " + names[to] + " when "
      + names[from] + " is forgotten, if harm went from pair to pair? The thickest of the pairs that part the two; only "
      + "entities that were forgotten have edges that go out." }), unseen("cut", "task"),
      element("div", { class: "buttons" }, csvButton("These edges as CSV", "cut", () => rows)));
  },
};

/* The pair -------------------------------------------------------------------------------------------- */

const sheets = new Map();  // name -> url, made when first seen
function sheetOf(name) {
  if (!sheets.has(name)) {
    const bytes = Uint8Array.from(atob(data.thumbnails.sheets[name]), c => c.charCodeAt(0));
    sheets.set(name, URL.createObjectURL(new Blob([bytes], { type: "image/webp" })));
  }
  return sheets.get(name);
}
function tile(name, entity, seed, words_) {
  const { tile: size, columns, seeds, missing } = data.thumbnails, most = narrow.matches ? 72 : 96;
  const shown_ = narrow.matches ? most : Math.max(56, Math.min(most, 250 / seeds.length));
  const made = element("span", { class: "tile", role: "img", "aria-label": words_, title: words_,
    style: "width:" + shown_ + "px;height:" + shown_ + "px" });
  const k = entity * seeds.length + seed, all = N * seeds.length;
  if (!(name in data.thumbnails.sheets) || missing[name].includes(k)) {
    made.classList.add("absent");
    made.setAttribute("aria-label", words_ + ": no picture");
    made.title = words_ + ": no picture";
    return made;
  }
  const zoom = shown_ / size, across = Math.min(columns, all);
  made.style.backgroundImage = "url(" + sheetOf(name) + ")";
  made.style.backgroundSize = across * size * zoom + "px " + Math.ceil(all / columns) * size * zoom + "px";
  made.style.backgroundPosition = -(k % columns) * shown_ + "px " + -Math.floor(k / columns) * shown_ + "px";
  return made;
}
const narrow = matchMedia("(max-width: 760px)");
function pictures(from, to) {  // states down and seeds across; on a phone the other way round
  if (!Object.keys(data.thumbnails.sheets).length) return element("p", { text: "This store has no pictures." });
  const { seeds } = data.thumbnails, methods = data.methods.filter(m => m.row.has(from));
  const states = [["without", "off"], ...methods.map(m => [m.label, m.name + "/" + from])];
  const cell = ([label, name], k) => element("td", { "data-sheet": name, "data-seed": seeds[k] },
    tile(name, to, k, names[to] + ", " + label + ", seed " + seeds[k]));
  const row = (text, cells) => element("tr", {}, element("th", { text, scope: "row" }), ...cells);
  const across = narrow.matches ? states.map(s => s[0]) : seeds.map(s => "seed " + s);
  const rows = narrow.matches ? seeds.map((seed, k) => row("seed " + seed, states.map(s => cell(s, k))))
    : states.map(s => row(s[0], seeds.map((_, k) => cell(s, k))));
  return element("div", { class: "wide" }, element("table", { class: "pictures" },
    element("thead", {}, element("tr", {}, element("th"), ...across.map(text => element("th", { text, scope: "col" })))),
    element("tbody", {}, ...rows)));
}
function steps() {  // for those without arrow keys
  const button = (text, label, by) => element("button", { type: "button", text, "aria-label": label, title: label,
    onclick: () => step(...by) });
  return element("div", { class: "steps" }, button("↑", "the one forgotten before", [-1, 0]),
    button("↓", "the next forgotten one", [1, 0]), button("←", "the one measured before", [0, -1]),
    button("→", "the next measured one", [0, 1]));
}
function renderPair() {
  const [from, to] = pair(), methods = data.methods.filter(m => m.row.has(from));
  const metric = byName(data.metrics, state.metric);
  const numbers_ = table([["", ...methods.map(m => m.label)], ...data.metrics.map(known_ =>
    [known_.label, ...methods.map(m => told(value(m, known_, from, to)))])]);
  numbers_.querySelectorAll("tbody tr")[data.metrics.indexOf(metric)].classList.add("chosen");
  const alike = data.similarities.map(s => s.label + " " + told(likeness(s, from, to))).join("; ");
  const own = from === to ? "The forgotten one itself: what happens here is the aim." : "";
  at("pair").replaceChildren(
    element("div", { class: "head" }, element("h2", {}, element("span", { id: "from", text: names[from] }), " → ",
      element("span", { id: "to", text: names[to] })), steps()),
    element("p", { text: own || names[from] + " was forgotten, " + names[to] + " was looked at." }),
    pictures(from, to), numbers_, element("p", { text: alike }),
    csvButton("This pair as CSV", "pair", () => [["method", "forgotten", "measured", "metric", "value"],
      ...methods.flatMap(m => data.metrics.map(x => [m.name, names[from], names[to], x.name, value(m, x, from, to)]))]));
  for (const { view, mark } of drawn) mark(view, [from, to]);
  if (hovered) return;
  at("spoken").textContent = names[from] + " forgotten, " + names[to] + ": " + methods.map(m =>
    m.label + " " + told(value(m, metric, from, to))).join(", ");
}
function step(down, across) {
  const { rows, columns } = shown();
  if (!rows.length || !columns.length) return;
  const move = (list, now, by) => {
    const place = list.indexOf(now);
    return place < 0 ? list[0] : list[Math.max(0, Math.min(list.length - 1, place + by))];
  };
  choose(move(rows, state.from, down), move(columns, state.to, across));
}
function walk(event) {
  const by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -N], End: [0, N] }[event.key];
  if (!by || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  const plot = event.currentTarget, method = plot.closest("figure").dataset.method;
  step(...by);
  if (document.contains(plot)) return;
  const again = document.querySelector("figure" + (method ? '[data-method="' + CSS.escape(method) + '"]' : "") + " .plot");
  if (again) again.focus();
}

/* Everything ------------------------------------------------------------------------------------------- */

function render() {
  for (const { view } of drawn) view.finalize();
  drawn = [];
  round += 1;
  pending = [];
  delete document.body.dataset.ready;
  mix();
  fill(at("metric"), data.metrics.map(m => [m.name, m.label]), state.metric);
  fill(at("order"), orders(), state.order);
  fill(at("similarity"), data.similarities.map(s => [s.name, s.label]), state.similarity);
  fillFilter(at("forgotten"), state.forgotten);
  fillFilter(at("measured"), state.measured);
  for (const box of at("methods").querySelectorAll("input")) box.checked = state.methods.includes(box.value);
  for (const view of VIEWS) at("tab-" + view).setAttribute("aria-selected", String(view === state.view));
  at("view").setAttribute("aria-labelledby", "tab-" + state.view);
  at("figures").replaceChildren();
  at("words").replaceChildren();
  draws[state.view](shown());
  renderPair();
  const mine = round;
  Promise.all(pending).then(() => { if (mine === round) document.body.dataset.ready = "yes"; });
}
const THEMES = { auto: "light dark", light: "light", dark: "dark" };
let theme = "auto";
function paint() {
  document.documentElement.style.colorScheme = THEMES[theme];
  at("theme").textContent = "Colours: " + theme;
}
function begin() {
  for (const note of data.notes) at("notes").append(element("div", { class: "note", text: note }));
  for (const m of data.methods) {
    const box = element("input", { type: "checkbox", value: m.name, onchange: () => {
      const chosen = [...at("methods").querySelectorAll(":checked")].map(b => b.value);
      if (chosen.length) change({ methods: chosen }); else box.checked = true;
    } });
    at("methods").append(element("label", {}, box, element("span", { class: "dot", style: "background:" + m.color }), m.label));
  }
  for (const id of ["metric", "order", "similarity", "forgotten", "measured"]) {
    at(id).addEventListener("change", () => change({ [id]: at(id).value }));
  }
  for (const view of VIEWS) {
    at("tab-" + view).addEventListener("click", () => change({ view }));
    at("tab-" + view).addEventListener("keydown", event => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      const next = VIEWS[(VIEWS.indexOf(view) + by + VIEWS.length) % VIEWS.length];
      change({ view: next });
      at("tab-" + next).focus();
    });
  }
  at("theme").addEventListener("click", () => {
    theme = { auto: "light", light: "dark", dark: "auto" }[theme];
    paint();
    render();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", render);
  addEventListener("hashchange", () => { readLink(); render(); });
  let before = innerWidth, waiting;
  addEventListener("resize", () => {
    if (innerWidth === before) return;
    before = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(render, 120);
  });
  at("options").open = !narrow.matches;
  paint();
  readLink();
  render();
}
begin();
})();
