"use strict";
// Draws the benchmark that is in the page as JSON. Texts go in as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const ALL = "all tasks";
const byId = (id) => document.getElementById(id);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const lineColour = (method) => data.methods[method].colour || colour("--grey");
const phone = () => window.innerWidth <= 640;

const shown = {
  backbone: Object.keys(data.backbones)[0],
  task: null,
  rule: "selected",
  hidden: new Set(),
};
const backbone = () => data.backbones[shown.backbone] || { tasks: [], methods: {} };
const visible = () => Object.keys(backbone().methods).filter((name) => !shown.hidden.has(name));

function element(tag, text, attributes = {}, children = []) {
  const made = document.createElement(tag);
  if (text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function translucent(hex, alpha) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return `rgba(${r},${g},${b},${alpha})`;
}

function layout(changes) {
  const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--line"), automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("--ink"), family: getComputedStyle(document.body).fontFamily, size: phone() ? 11 : 13 },
    margin: { l: phone() ? 8 : 60, r: 14, t: 8, b: 46 },
    showlegend: false,
    hovermode: "closest",
    hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
    dragmode: phone() ? false : "zoom",
    ...changes,
    xaxis: { ...axis, ...changes.xaxis },
    ...(changes.xaxis2 ? { xaxis2: { ...axis, ...changes.xaxis2 } } : {}),
    yaxis: { ...axis, ...changes.yaxis },
  };
}

function draw(id, traces, changes, nothing) {
  const place = byId(id);
  if (!traces.length) {
    Plotly.purge(place);
    place.textContent = nothing;
    place.classList.add("empty");
    return;
  }
  if (place.classList.contains("empty")) {
    place.textContent = "";
    place.classList.remove("empty");
  }
  Plotly.react(place, traces, layout(changes), { responsive: true, displayModeBar: false });
}

// A line, and its interval as a band below it that hovering ignores; one run has no interval.
function lineWithBand(name, x, [middle, low, high], unit) {
  const line = lineColour(name);
  const none = low[0] === null;
  const band = { x: none ? [] : [...x, ...[...x].reverse()], y: none ? [] : [...high, ...[...low].reverse()], fill: "toself", mode: "lines",
    fillcolor: translucent(line, visible().length > 5 ? 0.07 : 0.16), line: { width: 0 }, hoverinfo: "skip", name: `${name} band` };
  const text = low.map((value, at) => none ? "no interval" : `${format(value)} to ${format(high[at])}`);
  const curve = { x, y: middle, text, name, mode: "lines", line: { color: line, width: 2.2, dash: data.methods[name].dash },
    hovertemplate: `<b>${name}</b><br>%{x:,}${unit}<br>%{y:,.4~g}  (%{text})<extra></extra>` };
  return [band, curve];
}

const format = (value) => Number(value.toPrecision(3)).toLocaleString("en");
const bandsFirst = (pairs) => [...pairs.map((pair) => pair[0]), ...pairs.map((pair) => pair[1])];

// Which methods a figure over all tasks leaves out.
function leftOut() {
  const names = visible().filter((name) => !backbone().methods[name].aggregate);
  return names.length ? ` Not shown, as they have not run on every task: ${names.join(", ")}.` : "";
}

function drawCurves() {
  const whole = shown.task === ALL;
  const pairs = visible().flatMap((name) => {
    const method = backbone().methods[name];
    const curve = whole ? method.curve : method.tasks[shown.task]?.curve;
    return curve ? [lineWithBand(name, data.steps, curve, " steps")] : [];
  });
  byId("curves-note").textContent = whole
    ? "Interquartile mean, over seeds and tasks, of the normalised return; the mean of a group's peers. Bands are 95 % intervals."
      + leftOut()
    : "Interquartile mean over seeds of the return; the mean of a group's peers. Bands are 95 % intervals.";
  const y = whole ? "normalised score" : "return";
  draw("curves", bandsFirst(pairs), {
    xaxis: { title: { text: "environment steps of all learners of a group" }, rangemode: "tozero" },
    yaxis: { title: phone() ? null : { text: y } },
  }, "No method has results for this yet.");
}

// One row per method: seeds as dots, the estimate with its interval on top. A row may go into a second panel.
function drawRows(id, rows, changes, nothing = "No method has results for this yet.") {
  const traces = rows.filter((row) => row.points).map((row) => ({
    x: row.points, y: row.points.map(() => row.name), mode: "markers", type: "scatter", name: `${row.name} seeds`,
    marker: { color: translucent(lineColour(row.name), 0.45), size: 7 },
    hovertemplate: `${row.name}: %{x:,.4~g}<extra>one seed</extra>`,
  }));
  for (const row of rows) {
    const [value, low, high] = row.estimate.at, line = lineColour(row.name);
    traces.push({ x: [value], y: [row.name], xaxis: row.panel || "x", mode: "markers", type: "scatter", name: row.name,
      marker: { color: line, size: 11, symbol: "diamond", line: { color: colour("--card"), width: 1.5 } },
      error_x: low === null ? {} : { type: "data", symmetric: false, array: [high - value], arrayminus: [value - low], thickness: 2.2, width: 5,
        color: line },
      text: [row.estimate.text], hovertemplate: `<b>${row.name}</b>${row.over || ""}<br>%{text}<extra></extra>` });
  }
  const names = [...new Set(rows.map((row) => row.name))].reverse();
  byId(id).style.height = `${Math.max(180, 90 + 30 * names.length)}px`;
  draw(id, traces, { margin: { l: 8, r: 14, t: 8, b: 46 }, ...changes,
    yaxis: { categoryorder: "array", categoryarray: names, range: [-0.6, names.length - 0.4] } }, nothing);
}

function drawFinal() {
  const whole = shown.task === ALL;
  const rows = visible().flatMap((name) => {
    const method = backbone().methods[name];
    if (whole) return method.aggregate ? [{ name, estimate: method.aggregate[shown.rule].IQM }] : [];
    const task = method.tasks[shown.task];
    return task ? [{ name, estimate: task.iqm[shown.rule], points: task.points[shown.rule] }] : [];
  });
  const rule = data.rules[shown.rule];
  byId("final-note").textContent = whole
    ? `Interquartile mean of the normalised score (${rule}) with its 95 % interval.${leftOut()}`
    : `Return of the final evaluation from new initial states (${rule}): interquartile mean with its 95 % interval; dots are seeds.`;
  drawRows("final", rows, { xaxis: { title: { text: whole ? "normalised score" : "return" } } });
}

function drawBetter() {
  const panels = ["x", "x2"];
  const rows = visible().flatMap((name) =>
    data.references.flatMap((other, at) => {
      const estimate = backbone().methods[name].better[shown.rule][other];
      return estimate ? [{ name, estimate, panel: panels[at], over: ` better than ${other} ${backbone().methods[name].partly}` }] : [];
    }));
  const shapes = panels.map((xref) => ({ type: "line", xref, x0: 0.5, x1: 0.5, yref: "paper", y0: 0, y1: 1,
    line: { color: colour("--soft"), dash: "dot", width: 1.5 } }));
  const axis = (other, domain) => ({ title: { text: `over ${other}` }, range: [-0.04, 1.04], domain,
    tickvals: [0, 0.25, 0.5, 0.75, 1], ticktext: ["0", "", "0.5", "", "1"] });
  const [first, second] = data.references;
  drawRows("better", rows, { shapes, xaxis: axis(first, [0, 0.47]), xaxis2: axis(second, [0.53, 1]) },
    "Neither reference method has results yet.");
}

function drawProfiles() {
  const pairs = visible().flatMap((name) => {
    const profile = backbone().methods[name].profile;
    return profile ? [lineWithBand(name, data.taus, profile[shown.rule], "")] : [];
  });
  byId("profiles-note").textContent = "The share of runs whose normalised score is above the threshold, over all tasks of"
    + ` the backbone. Higher is better.${leftOut()}`;
  draw("profiles", bandsFirst(pairs), {
    xaxis: { title: { text: "normalised score" } },
    yaxis: { title: phone() ? null : { text: "share of runs above it" }, range: [-0.02, 1.02] },
  }, "No method has run on every task of this backbone yet.");
}

function estimateCell(text) {
  const [value, ...range] = text.split(" ");
  return element("td", null, {}, [value, element("span", range.length ? ` ${range.join(" ")}` : "", { class: "range" })]);
}

function table(head, rows, kind = "") {
  const cells = (row) => row.map((cell) => cell instanceof Node ? cell : element("td", cell));
  return element("div", null, { class: "scroll" }, [element("table", null, { class: kind }, [
    element("thead", null, {}, [element("tr", null, {}, head.map((name) => element("th", name)))]),
    element("tbody", null, {}, rows.map((row) => element("tr", null, {}, cells(row)))),
  ])]);
}

function writeNumbers() {
  const place = byId("numbers"), methods = Object.entries(backbone().methods);
  place.replaceChildren();
  const upper = shown.backbone.toUpperCase();
  for (const task of backbone().tasks) {
    const rows = methods.filter(([, method]) => method.tasks[task]).map(([name, method]) => {
      const found = method.tasks[task], [seeds, ...cost] = found.cost;
      const mean = found.peers > 1 ? estimateCell(found.iqm.mean.text) : "-";
      return [name, seeds, estimateCell(found.iqm.selected.text), mean, ...cost];
    });
    if (rows.length) place.append(element("h3", `${task}, ${upper}`), table(["method", "seeds", "selected peer",
      "mean of peers", "environment steps", "gradient updates", "seconds per group"], rows));
  }
  const rows = methods.map(([name, method]) => [`${name} ${method.partly}`,
    ...data.metrics.map((metric) => method.aggregate ? estimateCell(method.aggregate.selected[metric].text) : "-"),
    ...data.references.map((other) => method.better.selected[other] ? estimateCell(method.better.selected[other].text) : "-")]);
  place.append(element("h3", `${upper}, all its tasks, selected peer, normalised`),
    table(["method", ...data.metrics, ...data.references.map((other) => `P(better than ${other})`)], rows));
}

function writeSources() {
  byId("normalised").replaceChildren(table(["task", "counts as 0", "counts as 1", "source"], data.normalised, "text"));
  const rows = Object.entries(data.backbones).flatMap(([name, { tasks, methods }]) => tasks.flatMap((task) =>
    Object.entries(methods).filter(([, method]) => method.tasks[task]).map(([method, { tasks: found }]) => {
      const links = element("td", null, {}, [element("a", "rows", { href: found[task].raw }), " ",
        element("a", "provenance", { href: found[task].made })]);
      return [`${task}, ${name.toUpperCase()}, ${method}`, links, found[task].commit,
        element("td", null, {}, [element("code", found[task].command)])];
    })));
  byId("sources").replaceChildren(element("details", null, {}, [element("summary", `Files and commands of ${rows.length} cells`),
    table(["cell", "files", "commit", "command"], rows, "text")]));
}

function writeOnce() {
  byId("name").textContent = data.name;
  byId("summary").textContent = data.summary;
  byId("facts").replaceChildren(...data.facts.map((fact) => element("li", fact)));
  const failures = Object.entries(data.failures);
  byId("failures-section").hidden = !failures.length;
  byId("failures").replaceChildren(...failures.map(([name, text]) => element("details", null, {}, [
    element("summary", `${name}: ${text.split("\n")[0]}`), element("pre", text)])));
  byId("missing-section").hidden = !data.missing.length;
  byId("missing").textContent = data.missing.join(", ");
  byId("videos-section").hidden = !data.videos.length;
  byId("videos").replaceChildren(...data.videos.map(({ name, source }) => element("figure", null, {}, [
    element("video", null, { src: source, controls: "", loop: "", muted: "", playsinline: "", preload: "metadata" }),
    element("figcaption", name)])));
  writeSources();
}

function chips(id, names, pressed, choose, decorate = () => []) {
  byId(id).replaceChildren(...names.map(([value, label, title]) => {
    const chip = element("button", null, { type: "button", "aria-pressed": String(pressed(value)), "data-value": value,
      ...(title ? { title } : {}) }, [...decorate(value), label]);
    chip.addEventListener("click", () => { choose(value); show(); });
    return chip;
  }));
}

function swatch(method) {
  const dashes = { dash: "5 3", dot: "2 2", dashdot: "5 2 1 2", longdash: "8 3", solid: "" };
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  for (const [name, value] of Object.entries({ x1: 0, x2: 20, y1: 3, y2: 3, "stroke-width": 3, stroke: lineColour(method),
    "stroke-dasharray": dashes[data.methods[method].dash] })) line.setAttribute(name, value);
  svg.append(line);
  return [svg];
}

function toggle(name) {
  if (!shown.hidden.delete(name)) shown.hidden.add(name);
}

function show() {
  const tasks = backbone().tasks.length > 1 ? [...backbone().tasks, ALL] : backbone().tasks;
  if (!tasks.includes(shown.task)) shown.task = tasks[0];
  const names = Object.keys(data.backbones);
  byId("backbone-control").hidden = names.length < 2;
  chips("backbones", names.map((name) => [name, name.toUpperCase()]), (name) => name === shown.backbone,
    (name) => { shown.backbone = name; });
  chips("tasks", tasks.map((name) => [name, name]), (name) => name === shown.task, (name) => { shown.task = name; });
  chips("rules", Object.entries(data.rules), (rule) => rule === shown.rule, (rule) => { shown.rule = rule; });
  chips("methods", Object.keys(backbone().methods).map((name) => [name, name, data.methods[name].about]),
    (name) => !shown.hidden.has(name), toggle, swatch);
  drawCurves();
  drawFinal();
  drawBetter();
  drawProfiles();
  writeNumbers();
}

function useTheme(name) {
  document.documentElement.dataset.theme = name;
  show();
}

const dark = window.matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener("change", (event) => useTheme(event.matches ? "dark" : "light"));
byId("theme").addEventListener("click", () => useTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
writeOnce();
useTheme(dark.matches ? "dark" : "light");
