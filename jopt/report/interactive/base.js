"use strict";
// What the page is made of, and the few helpers that all of it shares.
const study = JSON.parse(document.getElementById("data").textContent);
const { axes, points } = study;
const charts = {};

const clone = (value) => JSON.parse(JSON.stringify(value));
const range = (n) => [...Array(n).keys()];
const distinct = (values) => [...new Set(values)];
// Plotly's labels know some tags; what comes from a config is to be shown as it stands.
const shown = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const brief = (text, most = 34) => shown(text.length <= most ? text : `${text.slice(0, most / 2)}…${text.slice(1 - most / 2)}`);

function element(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// A labelled choice; `options` are pairs of value and text.
function choice(name, options, value, change) {
  const own = options.map(([key, text]) => element("option", { value: key, ...(String(key) === String(value) ? { selected: "" } : {}) }, text));
  return element("label", {}, `${name} `, element("select", { name, change: (event) => change(event.target.value) }, ...own));
}

const axisOptions = (indices) => indices.map((i) => [i, axes[i].name]);

// The axes but those in `used` whose values must be fixed for every place over `used` to hold one point at most.
function loose(used) {
  const place = (point, more) => [...used, ...more].map((i) => point.at[i]).join();
  if (distinct(points.map((p) => place(p, []))).length === points.length) return [];
  return range(axes.length).filter((i) => !used.includes(i) && distinct(points.map((p) => p.at[i])).length > 1);
}

// The values at which the other axes stand at first: those of the control, or of the best point.
function fixed(state, used) {
  const others = loose(used);
  const start = points.find((p) => p.verdict === "control") ?? points.find((p) => p.mean !== null) ?? points[0];
  state.fixed ??= {};
  for (const i of others) state.fixed[i] ??= start.at[i];
  return others;
}

const matches = (state, others) => (point) => others.every((i) => point.at[i] === Number(state.fixed[i]));

function fixedControls(state, others, redraw) {
  return others.map((i) => choice(axes[i].name, axes[i].texts.map((text, k) => [k, text]), state.fixed[i], (value) => {
    state.fixed[i] = Number(value);
    redraw();
  }));
}

// An interval of a fraction is drawn between 0 and 1; in words it stands as it is.
const within = (value, fraction = study.fraction) => fraction && value !== null ? Math.min(1, Math.max(0, value)) : value;

// Where the axes that are not drawn stand: the picture says it, too, as it may be saved without the choices.
function nameSlice(layout, state, others) {
  if (!others.length) return;
  const where = others.map((i) => `${axes[i].name}=${axes[i].texts[Number(state.fixed[i])]}`).join(", ");
  layout.title = { text: shown(`at ${where}`), font: { size: 12 }, x: 0.01, xanchor: "left", y: 0.99, yanchor: "top" };
}

// A closed outline around a band, as one polygon.
const band = (x, low, high) => ({ x: [...x, ...x.slice().reverse()], y: [...high, ...low.slice().reverse()] });
const faint = (color, crowded) => `${color}${crowded ? "14" : "26"}`;

// A legend beside a wide plot, below a narrow one.
function legend(layout, narrow, entries) {
  layout.showlegend = entries > 1;
  if (narrow) {
    layout.legend = { ...layout.legend, orientation: "h", x: 0, y: -0.2, yanchor: "top", maxheight: 130 };
    layout.height += Math.min(130, 22 * Math.ceil(entries / 2));
  }
}

// Of the values of an axis those whose labels do not touch.
function apart(axis, gap) {
  const height = (k) => axis.log ? Math.log10(axis.values[k]) : axis.values[k];
  const order = range(axis.values.length).sort((a, b) => height(a) - height(b));
  const least = gap * (height(order[order.length - 1]) - height(order[0]));
  return order.reduce((kept, k) => !kept.length || height(k) - height(kept[kept.length - 1]) >= least ? [...kept, k] : kept, []);
}

function numberAxis(layout, i, narrow) {
  const axis = axes[i];
  layout.xaxis.title = { ...layout.xaxis.title, text: shown(axis.name) };
  if (axis.log) layout.xaxis.type = "log";
  layout.xaxis.exponentformat = "none";
  if (axis.values.length > 9) return;
  const ticks = apart(axis, narrow ? 0.12 : 0.04);
  Object.assign(layout.xaxis, { tickmode: "array", tickvals: ticks.map((k) => axis.values[k]), ticktext: ticks.map((k) => axis.texts[k]) });
}
