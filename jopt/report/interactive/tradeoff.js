charts.tradeoff = (plot, state, narrow, redraw) => {
  const { views } = plot.data;
  state.view ??= 0;
  state.color ??= "front";
  const view = views[state.view];
  const [line, marks] = plot.figure.data;
  const onFront = new Set(view.front);
  const drawn = range(points.length).filter((i) => view.x[i] !== null && points[i].mean !== null);
  const groups = state.color === "front"
    ? [["on the front", "#0072B2", (i) => onFront.has(i)], ["beaten", "#8a8a8a", (i) => !onFront.has(i)]]
    : axes[state.color].texts.map((text, k) => [text, axes[state.color].colors[k], (i) => points[i].at[state.color] === k]);
  const controls = new Set(drawn.filter((i) => points[i].verdict === "control"));

  const trace = (name, color, own, symbol) => {
    const made = clone(marks);
    Object.assign(made, {
      name: brief(name, 24), x: own.map((i) => view.x[i]), y: own.map((i) => points[i].mean), customdata: own,
      text: own.map((i) => `${points[i].hover}<br>${view.texts[i]}`),
    });
    made.marker = { ...made.marker, color, symbol: own.map((i) => symbol + (points[i].diverged ? "-open" : "")),
      line: { width: own.map((i) => onFront.has(i) || points[i].diverged ? 1.5 : 0), color: own.map((i) => points[i].diverged ? color : "#222222") } };
    Object.assign(made.error_y, { color: `${color}90`,
      array: own.map((i) => points[i].high === null ? 0 : within(points[i].high) - points[i].mean),
      arrayminus: own.map((i) => points[i].low === null ? 0 : points[i].mean - within(points[i].low)) });
    return made;
  };

  const front = Object.assign(clone(line), { name: "Pareto front of the means", x: view.front.map((i) => view.x[i]), y: view.front.map((i) => points[i].mean) });
  const traces = [front];
  for (const [name, color, belongs] of groups) {
    const own = drawn.filter((i) => belongs(i) && !(state.color === "front" && controls.has(i)));
    if (own.length) traces.push(trace(name, color, own, "circle"));
  }
  if (state.color === "front" && controls.size) traces.push(trace("control", "#D55E00", [...controls], "diamond"));
  const layout = clone(plot.figure.layout);
  Object.assign(layout.xaxis, { type: "log", tickmode: "array", tickvals: view.tickvals, ticktext: view.ticktext });
  layout.xaxis.title = { ...layout.xaxis.title, text: view.name };
  legend(layout, narrow, traces.length);
  const colors = [["front", "the front"], ...axisOptions(range(axes.length).filter((i) => axes[i].texts.length > 1 && axes[i].texts.length <= 12))];
  const choices = [
    ...(views.length > 1 ? [choice("x:", views.map((v, i) => [i, v.name]), state.view, (v) => { state.view = Number(v); redraw(); })] : []),
    choice("color:", colors, state.color, (v) => { state.color = v === "front" ? v : Number(v); redraw(); }),
  ];
  return { data: traces, layout, choices };
};
