charts.curves = (plot, state, narrow, redraw) => {
  const { curves, shown: visible, splits, outcomes, logs } = plot.data;
  const colored = range(axes.length).filter((i) => axes[i].texts.length > 1);
  state.split ??= splits[0];
  state.outcome ??= outcomes[0];
  state.band ??= "interval";
  state.color ??= colored.find((i) => axes[i].texts.length <= 7) ?? colored[0] ?? null;
  const dashed = colored.find((i) => i !== state.color && axes[i].texts.length <= 5);
  const dashes = ["solid", "dash", "dot", "dashdot", "longdash"];
  const [line, outline] = plot.figure.data;
  const traces = [];
  const crowded = visible.length > 6;
  const entries = Object.keys(curves).map(Number);
  if (state.color !== null) entries.sort((a, b) => points[a].at[state.color] - points[b].at[state.color] || a - b);
  for (const i of entries) {
    const own = curves[i][state.split]?.[state.outcome];
    if (!own) continue;
    const k = state.color === null ? 0 : points[i].at[state.color];
    const color = state.color === null ? "#0072B2" : axes[state.color].colors[k];
    const same = { legendgroup: `p${i}`, visible: visible.includes(i) ? true : "legendonly" };
    const [low, high] = state.band === "extremes" ? [own.least, own.most] : [own.low, own.high];
    if (state.band !== "none" && low.some((v, j) => v !== high[j])) {
      traces.push({ ...clone(outline), ...same, ...band(own.step, low.map(drawn), high.map(drawn)), uid: `b${i}`, fillcolor: faint(color, crowded) });
    }
    traces.push({
      ...clone(line), ...same, uid: `l${i}`, name: brief(plot.data.names[i], 56) || "all", x: own.step, y: own.mean,
      customdata: own.step.map(() => i), line: { ...line.line, color, dash: dashed === undefined ? "solid" : dashes[points[i].at[dashed]] },
      text: own.step.map((step, j) => `<b>${shown(points[i].label)}</b><br>step ${step}: ${text(own.mean[j])}` +
        (own.count[j] > 1 ? ` [${text(low[j])}, ${text(high[j])}]` : "") + `<br>${own.count[j]} of ${points[i].n} seeds`),
    });
  }
  function drawn(value) {
    return within(value, state.outcome === "accuracy");
  }
  function text(value) {
    return state.outcome === "accuracy" ? `${(100 * value).toFixed(2)}%` : String(Number(value.toPrecision(4)));
  }
  const layout = clone(plot.figure.layout);
  layout.yaxis.title = { ...layout.yaxis.title, text: `${state.split} ${state.outcome}${state.outcome === "loss" ? " (nats)" : ""}` };
  if (state.outcome === "accuracy") {
    layout.yaxis.tickformat = ",.3~%";
    layout.yaxis.range = climb(traces.filter((t) => t.uid[0] === "l" && t.visible === true).flatMap((t) => t.y));
  } else if (logs.includes(state.outcome)) {
    Object.assign(layout.yaxis, { type: "log", dtick: "D2" });
  }
  layout.legend.uirevision = "kept";
  legend(layout, narrow, entries.length);
  const change = (key) => (value) => { state[key] = key === "color" ? Number(value) : value; redraw(); };
  const choices = [
    ...(splits.length > 1 ? [choice("part:", splits.map((s) => [s, s]), state.split, change("split"))] : []),
    ...(outcomes.length > 1 ? [choice("outcome:", outcomes.map((s) => [s, s]), state.outcome, change("outcome"))] : []),
    choice("band:", [["interval", `${100 * study.confidence}% interval`], ["extremes", "least to most"], ["none", "none"]], state.band, change("band")),
    ...(colored.length > 1 ? [choice("color:", axisOptions(colored), state.color, change("color"))] : []),
  ];
  return { data: traces, layout, choices };
};

// The climb from chance must not flatten the rest: begins below the lowest tenth of the values.
function climb(values) {
  if (!values.length) return null;
  const ordered = values.slice().sort((a, b) => a - b);
  const [low, high] = [ordered[Math.floor(ordered.length / 10)], ordered[ordered.length - 1]];
  const room = Math.max(high - low, 0.01);
  return [Math.max(low - 0.6 * room, ordered[0] - 0.05 * room), high + 0.08 * room];
}
