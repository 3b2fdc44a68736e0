// The share of the height between two rows of crosses.
const STEP = 0.032;

charts.sensitivity = (plot, state, narrow, redraw) => {
  const { against } = plot.data;
  state.against ??= against[0];
  const candidates = plot.data.lines.filter((i) => i !== state.against);
  if (state.line === undefined || (state.line !== null && !candidates.includes(state.line))) state.line = candidates[0] ?? null;
  const used = [state.against, ...(state.line === null ? [] : [state.line])];
  const others = fixed(state, used);
  const own = range(points.length).filter((i) => matches(state, others)(points[i]));
  const [line, outline, cross] = plot.figure.data;
  const x = (i) => axes[state.against].values[points[i].at[state.against]];
  const lines = state.line === null ? [["", "#0072B2", own]]
    : axes[state.line].texts.map((text, k) => [text, axes[state.line].colors[k], own.filter((i) => points[i].at[state.line] === k)]);
  const traces = [];
  let row = 0;
  lines.forEach(([name, color, members], k) => {
    const sorted = members.slice().sort((a, b) => x(a) - x(b));
    const known = sorted.filter((i) => points[i].mean !== null);
    const banded = known.filter((i) => points[i].low !== null);
    const same = { legendgroup: `g${k}` };
    // Where more than x changes from mark to mark, as in a search, no line leads from one to the next.
    const joined = range(axes.length).every((i) => used.includes(i) || distinct(members.map((m) => points[m].at[i])).length === 1);
    if (joined && banded.length > 1) {
      traces.push({ ...clone(outline), ...same, ...band(banded.map(x), banded.map((i) => within(points[i].low)), banded.map((i) => within(points[i].high))), fillcolor: faint(color) });
    }
    if (known.length) {
      traces.push({
        ...clone(line), ...same, name: brief(name, 24), x: known.map(x), y: known.map((i) => points[i].mean), customdata: known,
        text: known.map((i) => points[i].hover), mode: joined ? line.mode : "markers", error_y: joined ? undefined : whiskers(known, color), line: { ...line.line, color },
        marker: { ...line.marker, color, symbol: known.map((i) => points[i].diverged ? "circle-open" : "circle") },
      });
    }
    const lost = sorted.filter((i) => points[i].diverged > 0);
    if (lost.length) {
      // One row of crosses a line, so that none hides another's.
      traces.push({
        ...clone(cross), ...same, x: lost.map(x), y: lost.map(() => 0.02 + STEP * row), customdata: lost, text: lost.map((i) => points[i].hover),
        marker: { ...cross.marker, color, opacity: lost.map((i) => points[i].mean === null ? 1 : 0.5) },
      });
      row += 1;
    }
  });
  const layout = clone(plot.figure.layout);
  numberAxis(layout, state.against, narrow);
  layout.yaxis.range = reach(own, row);
  if (state.line !== null) layout.legend.title = { text: shown(axes[state.line].name) };
  legend(layout, narrow, lines.length);
  nameSlice(layout, state, others);
  const choices = [
    ...(against.length > 1 ? [choice("x:", axisOptions(against), state.against, (v) => { state.against = Number(v); redraw(); })] : []),
    ...(candidates.length > 0 && axes.length > 2 ? [choice("lines:", [...axisOptions(candidates), ["", "none"]], state.line ?? "", (v) => { state.line = v === "" ? null : Number(v); redraw(); })] : []),
  ];
  return { data: traces, layout, choices: [...choices, ...fixedControls(state, others, redraw)] };
};

function whiskers(known, color) {
  const reach = (key) => known.map((i) => points[i][key] === null ? 0 : Math.abs(within(points[i][key]) - points[i].mean));
  return { type: "data", symmetric: false, thickness: 1, width: 2, color: `${color}90`, array: reach("high"), arrayminus: reach("low") };
}

// From the means: one wide interval must not flatten the rest. Below is room for the crosses.
function reach(own, rows) {
  const means = own.map((i) => points[i].mean).filter((v) => v !== null);
  if (!means.length) return null;
  const [low, high] = [Math.min(...means), Math.max(...means)];
  const room = Math.max(0.12 * (high - low), Math.abs(high) * 0.005, 1e-9);
  const share = STEP * rows + 0.01;
  return [low - room - (rows ? share * (high - low + 2 * room) / (1 - share) : 0), high + room];
}
