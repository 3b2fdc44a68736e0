charts.heat = (plot, state, narrow, redraw) => {
  state.rows ??= plot.data.rows;
  state.columns ??= plot.data.columns;
  const others = fixed(state, [state.rows, state.columns]);
  const [rows, columns] = [axes[state.rows], axes[state.columns]];
  const shape = (value) => rows.texts.map(() => columns.texts.map(() => value));
  const [cells, gone] = clone(plot.figure.data);
  const [z, text, label, index] = [shape(null), shape(""), shape(""), shape(null)];
  const [x, y, words, hovers, indices] = [[], [], [], [], []];
  range(points.length).filter((i) => matches(state, others)(points[i])).forEach((i) => {
    const point = points[i];
    const [r, c] = [point.at[state.rows], point.at[state.columns]];
    if (point.mean === null) {
      x.push(c); y.push(r); words.push(narrow ? "×" : "diverged"); hovers.push(point.hover); indices.push(i);
      return;
    }
    z[r][c] = point.mean;
    index[r][c] = i;
    label[r][c] = point.hover;
    const [amount, half] = point.cell;
    text[r][c] = amount + (point.diverged ? "*" : "") + (half ? `<br>${half}` : "");
  });
  Object.assign(cells, { z, text, hovertext: label, customdata: index, x: range(columns.texts.length), y: range(rows.texts.length), hoverongaps: false });
  if (narrow) cells.colorbar = { ...cells.colorbar, thickness: 8, title: { text: "" }, tickfont: { size: 9 } };
  Object.assign(gone, { x, y, text: words, hovertext: hovers, customdata: indices });
  const layout = clone(plot.figure.layout);
  const ticks = (axis, own) => ({
    ...axis, title: { ...axis.title, text: shown(own.name) }, tickmode: "array", tickvals: range(own.texts.length), ticktext: own.texts.map((text) => brief(text, 24)),
    showgrid: false, showline: false, ticks: "", // Numbers rise to the top, names are read from there.
    range: own === rows && !own.values ? [own.texts.length - 0.5, -0.5] : [-0.5, own.texts.length - 0.5],
  });
  layout.xaxis = ticks(layout.xaxis, columns);
  layout.yaxis = ticks(layout.yaxis, rows);
  layout.height = Math.max(260, 110 + 46 * rows.texts.length);
  nameSlice(layout, state, others);
  const change = (key, other) => (value) => {
    if (Number(value) === state[other]) state[other] = state[key];
    state[key] = Number(value);
    redraw();
  };
  const choices = plot.data.axes.length > 2
    ? [choice("rows:", axisOptions(plot.data.axes), state.rows, change("rows", "columns")),
       choice("columns:", axisOptions(plot.data.axes), state.columns, change("columns", "rows"))]
    : [];
  return { data: [cells, gone], layout, choices: [...choices, ...fixedControls(state, others, redraw)] };
};
