charts.forest = (plot, state, narrow) => {
  const { data, layout } = clone(plot.figure);
  if (narrow) {
    // Long names would leave no room for what they name.
    layout.yaxis.ticktext = layout.yaxis.ticktext.map((text) => text.replace(/[^ =,]+=/g, "").slice(0, 22));
    layout.margin.t += 30;
    layout.height += 30;
    layout.yaxis.tickfont = { size: 10 };
  }
  layout.showlegend = true;
  return { data, layout, choices: [] };
};
