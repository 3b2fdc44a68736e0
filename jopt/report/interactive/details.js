const panel = document.getElementById("details");

function copy(text, button) {
  const said = () => { button.textContent = "copied"; setTimeout(() => { button.textContent = "copy"; }, 1500); };
  const byHand = () => {
    const area = element("textarea", {}, text);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    said();
  };
  if (navigator.clipboard) navigator.clipboard.writeText(text).then(said, byHand);
  else byHand();
}

function trialBlock(trial, chosen) {
  const button = element("button", { type: "button", click: () => copy(trial.command, button) }, "copy");
  return element("div", { class: chosen ? "trial chosen" : "trial", "data-trial": trial.id },
    element("p", {}, element("b", {}, `seed ${trial.seed}`), ` · ${trial.status}${trial.result ? ` · ${trial.result}` : ""} · `, element("a", { href: `#trial=${trial.id}` }, trial.id)),
    element("div", { class: "run" }, element("code", {}, trial.command), button));
}

function showPoint(index, trial) {
  const point = points[index];
  const facts = [[study.outcome, point.outcome], ["difference to the control, adjusted interval", point.change], ["verdict", point.verdict], ...point.notes.map((note) => ["note", note])];
  const rows = (pairs) => pairs.filter(([, value]) => value !== "").map(([name, value]) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, value)));
  panel.replaceChildren(
    element("button", { type: "button", class: "close", "aria-label": "Close the details", click: hidePoint }, "×"),
    element("h2", {}, point.label || "all trials"),
    element("table", {}, element("tbody", {}, ...rows(facts))),
    element("h3", {}, "Settings"),
    element("table", { class: "settings" }, element("tbody", {}, ...rows(point.settings))),
    element("h3", {}, point.trials.length === 1 ? "Its trial" : `Its ${point.trials.length} trials`),
    ...point.trials.map((own) => trialBlock(own, own.id === trial)),
  );
  panel.classList.add("open");
  panel.scrollTop = 0;
  panel.querySelector(".chosen")?.scrollIntoView({ block: "nearest" });
  document.querySelectorAll("tr.chosen").forEach((row) => row.classList.remove("chosen"));
  document.querySelectorAll(`tr[data-target="point=${index}"], tr[data-target="trial=${trial}"]`).forEach((row) => row.classList.add("chosen"));
}

function hidePoint() {
  panel.classList.remove("open");
  document.querySelectorAll("tr.chosen").forEach((row) => row.classList.remove("chosen"));
  history.replaceState(null, "", location.pathname + location.search);
}

// The address names what is shown: `#point=3`, `#trial=0123456789ab`.
function follow() {
  const [kind, value] = decodeURIComponent(location.hash.slice(1)).split("=");
  if (kind === "point" && points[Number(value)]) showPoint(Number(value), null);
  if (kind === "trial") {
    const index = points.findIndex((point) => point.trials.some((trial) => trial.id === value));
    if (index >= 0) showPoint(index, value);
  }
}
