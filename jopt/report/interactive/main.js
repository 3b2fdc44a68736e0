// The width of a plot on paper, in pixels; null on a screen.
let paper = null;

function mount(plot) {
  const section = document.getElementById(plot.kind);
  const [controls, chart] = [section.querySelector(".controls"), section.querySelector(".chart")];
  const state = {};
  let bound = false;
  let drawn = 0;
  const redraw = () => {
    drawn = paper ?? chart.clientWidth;
    const focused = document.activeElement?.name;
    const { data, layout, choices } = charts[plot.kind](plot, state, drawn < 560, redraw);
    controls.replaceChildren(...choices);
    if (focused) controls.querySelector(`select[name="${CSS.escape(focused)}"]`)?.focus();
    // Zoom is kept until another choice is made.
    Object.assign(layout, { autosize: false, width: drawn });
    layout.uirevision = JSON.stringify(state);
    Plotly.react(chart, data, layout, { displaylogo: false, responsive: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] });
    if (!bound) {
      bound = true;
      chart.on("plotly_click", (event) => {
        const index = event.points[0]?.customdata;
        if (typeof index === "number") location.hash = `point=${index}`;
      });
    }
  };
  redraw();
  new ResizeObserver(() => { if (chart.clientWidth !== drawn && paper === null) redraw(); }).observe(chart);
  return redraw;
}

function sortable(table) {
  const body = table.tBodies[0];
  const key = (row, column) => row.cells[column].dataset.key ?? row.cells[column].textContent;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = element("button", { type: "button", title: "Sort by this column" }, head.textContent);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      [...head.parentNode.cells].forEach((cell) => cell.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => [key(row, column), row]);
      const numbers = rows.every(([value]) => value === "" || !Number.isNaN(Number(value)));
      rows.sort(([a], [b]) => {
        if (a === "" || b === "") return (a === "") - (b === "");
        const order = numbers ? Number(a) - Number(b) : a.localeCompare(b);
        return up ? order : -order;
      });
      body.append(...rows.map(([, row]) => row));
    });
    head.replaceChildren(button);
  });
}

document.querySelectorAll("table.sortable").forEach(sortable);
// A click anywhere in a row shows its point; the link in its first cell does so for the keyboard.
document.addEventListener("click", (event) => {
  const row = event.target.closest("tr[data-target]");
  if (row && !event.target.closest("a, button") && !String(getSelection())) location.hash = row.dataset.target;
});
window.addEventListener("hashchange", follow);
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && panel.classList.contains("open")) hidePoint(); });
follow();
const redraws = study.plots.map(mount);
for (const [event, width] of [["beforeprint", 680], ["afterprint", null]]) {
  window.addEventListener(event, () => {
    paper = width;
    redraws.forEach((redraw) => redraw());
  });
}
document.documentElement.dataset.ready = "true";
