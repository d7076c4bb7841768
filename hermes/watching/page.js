"use strict";
// Follows the runs: asks for what is new every two seconds, and draws it.

const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C"];
// The same hues, for a dark page.
const LIGHTER = ["#3F9FDB", "#F08030", "#22BF92", "#E29BC2", "#F0B73A", "#9AD5F7", "#B4B4B4"];
const isDark = matchMedia("(prefers-color-scheme: dark)");
const EVERY = 2000; // milliseconds
// What has a chart of its own, in this order; other numbers follow by their names.
const CHARTS = [
  ["loss", "Loss (nats per token, or per pair)", ["loss", "val_loss"]],
  ["val_bits_per_byte", "Validation, bits per byte", ["val_bits_per_byte"]],
  ["lr", "Learning rate", ["lr"]],
  ["grad_norm", "Gradient norm before clipping", ["grad_norm"]],
  ["grad_noise_scale", "Gradient noise scale (tokens, or pairs)", ["grad_noise_scale"]],
  ["tokens_per_second", "Tokens per second", ["tokens_per_second"]],
  ["peak_memory", "Peak memory (bytes)", ["peak_memory"]],
];
const EXACT = new Set(["lr", "peak_memory"]); // what is drawn as it is
const NO_CHART = new Set(["step", "epoch", "tokens", "slowest_rank", ...CHARTS.flatMap(([, , keys]) => keys)]);

const find = id => document.getElementById(id);
const runs = []; // {info, lines, next, samples, shown}
const charts = new Map();

async function ask(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

async function readRuns() {
  (await ask("/runs")).forEach((info, number) => {
    if (!runs[number]) runs[number] = { lines: [], next: 0, samples: [], shown: true };
    // A resumed run has cut its file after the checkpoint: it is read anew.
    const before = runs[number].info;
    if (before && before.sessions.length !== info.sessions.length) Object.assign(runs[number], { lines: [], next: 0 });
    runs[number].info = info;
  });
}

async function readMetrics(run, number) {
  for (let more = true; more;) {
    const part = await ask(`/metrics?run=${number}&start=${run.next}`);
    if (part.restarted) run.lines = [];
    run.lines.push(...part.lines);
    more = part.lines.length > 0 && part.next > run.next;
    run.next = part.next;
  }
}

const colour = number => (isDark.matches ? LIGHTER : COLOURS)[number % COLOURS.length];
const shown = () => runs.map((run, number) => ({ run, number })).filter(({ run }) => run.shown);

function element(kind, text = "", name = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

function describe(run) {
  const last = run.lines.findLast(line => "loss" in line), total = run.info.total_steps;
  const facts = [run.info.state];
  if (last) facts.push(`step ${last.step.toLocaleString("en")}${total ? ` of ${total.toLocaleString("en")}` : ""}`, `loss ${last.loss.toFixed(4)}`);
  const checked = run.lines.findLast(line => "val_loss" in line);
  if (checked) facts.push(`validation ${checked.val_loss.toFixed(4)}`);
  return { last, total, text: facts.join(", ") };
}

function drawRuns() {
  const list = find("runs");
  runs.forEach((run, number) => {
    let item = list.children[number];
    if (!item) {
      item = document.createElement("li");
      item.innerHTML = '<label><input type="checkbox" checked><span class="swatch"></span><span class="name"></span></label><div class="facts"></div><progress></progress>';
      item.querySelector("input").addEventListener("change", event => { run.shown = event.target.checked; draw(); });
      list.append(item);
    }
    item.querySelector(".swatch").style.background = colour(number);
    const { last, total, text } = describe(run);
    item.querySelector(".name").textContent = run.info.name;
    item.querySelector(".name").title = run.info.folder;
    item.querySelector(".facts").textContent = text;
    const bar = item.querySelector("progress");
    bar.hidden = !total;
    bar.max = total || 1;
    bar.value = last ? last.step : 0;
    bar.setAttribute("aria-label", `${run.info.name}, steps done`);
  });
}

// Lines of tasks' scores may lie far behind each other, so these are looked for everywhere.
function listMeasures(run) {
  const names = run.lines.slice(-200).flatMap(Object.keys);
  return [...names, ...run.lines.flatMap(line => Object.keys(line).filter(key => key.startsWith("task/")))];
}

function nameMeasure(key) {
  return key.includes("/") ? key : key[0].toUpperCase() + key.slice(1).replaceAll("_", " ");
}

function drawCharts() {
  const others = new Set(shown().flatMap(({ run }) => listMeasures(run)).filter(key => !NO_CHART.has(key)));
  const plan = [...CHARTS, ...[...others].sort().map(key => [key, nameMeasure(key), [key]])];
  const axis = find("axis").value, options = { smoothing: +find("smoothing").value, log: find("log").checked, outliers: find("outliers").checked };
  for (const [id, title, keys] of plan) {
    const curves = shown().flatMap(({ run, number }) => {
      const places = new Map(run.lines.filter(line => axis in line).map(line => [line.step, line[axis]]));
      return keys.map(key => ({
        name: key.startsWith("val_") ? `${run.info.name}, validation` : run.info.name,
        colour: colour(number),
        dashed: key.startsWith("val_"),
        exact: EXACT.has(key),
        points: run.lines.filter(line => typeof line[key] === "number" && places.has(line.step)).map(line => [places.get(line.step), line[key]]),
      })).filter(one => one.points.length);
    });
    if (!curves.length && !charts.has(id)) continue;
    if (!charts.has(id)) {
      charts.set(id, new Chart(title));
      find("charts").append(charts.get(id).figure);
    }
    const marks = axis !== "step" ? [] : shown().flatMap(({ run, number }) => run.info.handovers.map(one => ({ x: one.step, text: one.text, colour: colour(number) })));
    charts.get(id).figure.hidden = !curves.length;
    charts.get(id).show(curves, marks, options);
  }
}

function drawSamples() {
  const made = shown().filter(({ run }) => run.samples.length).map(({ run }) => {
    const newest = run.samples.at(-1).step;
    const box = element("div", "", "sample");
    box.append(element("p", `${run.info.name}, step ${newest.toLocaleString("en")}`, "quiet"));
    for (const sample of run.samples.filter(one => one.step === newest)) {
      const text = element("p");
      text.append(element("span", sample.prompt, "prompt"), sample.text);
      box.append(text);
    }
    return box;
  });
  if (made.length) find("samples").replaceChildren(...made);
}

function drawSettings() {
  const columns = shown(), only = find("differences").checked && columns.length > 1;
  const keys = [...new Set(columns.flatMap(({ run }) => Object.keys(run.info.settings)))].sort();
  const head = element("tr");
  head.append(element("th", "setting"), ...columns.map(({ run }) => element("th", run.info.name)));
  const rows = keys.map(key => {
    const values = columns.map(({ run }) => JSON.stringify(run.info.settings[key]) ?? "");
    const differs = new Set(values).size > 1;
    if (only && !differs) return null;
    const row = element("tr");
    row.append(element("th", key), ...values.map(value => element("td", value, differs ? "differs" : "")));
    return row;
  }).filter(Boolean);
  find("settings").replaceChildren(head, ...rows);
  find("differences").parentElement.hidden = columns.length < 2;
}

function draw() {
  drawRuns();
  drawCharts();
  drawSamples();
  drawSettings();
}

async function follow() {
  try {
    await readRuns();
    await Promise.all(runs.map(async (run, number) => {
      await readMetrics(run, number);
      run.samples = await ask(`/samples?run=${number}`);
    }));
    const training = runs.filter(run => run.info.state === "training").length;
    find("status").textContent = runs.length ? `${runs.length} ${runs.length === 1 ? "run" : "runs"}, ${training} in training` : "no runs yet";
    draw();
    document.body.dataset.drawn = "yes";
  } catch (error) {
    find("status").textContent = `hermes watch does not answer: ${error.message}`;
  }
  setTimeout(follow, EVERY);
}

for (const id of ["smoothing", "axis", "log", "outliers", "differences"]) find(id).addEventListener("input", draw);
isDark.addEventListener("change", draw);
follow();
