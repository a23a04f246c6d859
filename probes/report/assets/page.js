"use strict";
// A failure must be seen: the banner and the attribute say that a chart is missing, and why.
window.onerror = (message) => {
  document.body.setAttribute("data-error", String(message));
  const banner = document.getElementById("problem");
  banner.textContent = "A chart could not be drawn (" + message + "). The tables hold the same numbers.";
  banner.hidden = false;
};

const DATA = JSON.parse(document.getElementById("data").textContent);
const ARMS = new Map(DATA.arms.map((arm) => [arm.label, arm]));
// Where there are several axes, a switch says over which of them the curves are drawn.
const AXES = DATA.axes || [];
const MOST_LETTERS = 26; // of a name inside a chart
const called = (label) => { const { name } = ARMS.get(label); return name.length > MOST_LETTERS ? name.slice(0, MOST_LETTERS - 1) + "…" : name; };
const view = { hidden: new Set(), scale: DATA.scale || "log", axis: AXES.length ? AXES[0].key : "", heldout: (DATA.heldouts || [])[0] || "" };
const MOST_DOTS = 40, MOST_NAMES = 12; // beyond which a curve has no dots, a chart no names

// ---- numbers, as in words.py

function significant(value, digits = 3) {
  if (!value) return "0";
  const places = Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value)) + 1e-12));
  const rounded = Number(value.toPrecision(digits));
  return rounded.toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places });
}
function unitOf(value, unit) {
  const steps = unit === "s" ? [["µs", 1e-6], ["ms", 1e-3], ["s", 1]]
    : [["B", 1], ["KiB", 1024], ["MiB", 1024 ** 2], ["GiB", 1024 ** 3]];
  return steps.find(([, size], place) => value < 999.5 * size || place === steps.length - 1);
}
function quantity(value, unit, digits = 3) {
  if (!unit) return plain(value);
  const [name, size] = unitOf(value, unit);
  return significant(value / size, digits) + " " + name;
}
const short = (value, unit) => quantity(value, unit).replace(/(\.\d*?)0+ /, "$1 ").replace(". ", " ");
// A number without a unit: `0.0028`, `4.85`, `1.2e12`.
function plain(value) {
  const size = Math.abs(value);
  return size && (size >= 1e7 || size < 1e-4) ? value.toExponential(2).replace("e+", "e").replace(/\.?0+e/, "e")
    : Number(value.toPrecision(4)).toLocaleString("en-US", { maximumFractionDigits: 7 });
}
const whole = (value) => Math.round(value).toLocaleString("en-US");
const escape = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

// ---- scales: value -> pixel, and the ticks to label

function linearTicks(top, count) {
  const rough = top / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough) * power;
  return Array.from({ length: Math.floor(top / step + 1e-9) + 1 }, (_, place) => place * step);
}
function within(low, high, count) {
  const step = linearTicks((high - low) || Math.abs(high) || 1, count)[1] || 1;
  const ticks = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + 1e-9 * step; at++) ticks.push(Number((at * step).toPrecision(12)));
  return ticks;
}
function powers(low, high, base, every) {
  const ticks = [];
  for (let p = Math.ceil(Math.log(low) / Math.log(base) - 1e-9); base ** p <= high * (1 + 1e-9); p++)
    if (p % every === 0) ticks.push(base ** p);
  return ticks;
}
function logTicks(low, high, unit, count) {
  if (unit === "B") {
    for (let every = 1; ; every++) {
      const ticks = powers(low, high, 2, every);
      if (ticks.length <= count) return ticks;
    }
  }
  const decades = powers(low, high, 10, 1);
  if (decades.length > 3) return decades;
  const steps = (digits) => powers(low / 10, high, 10, 1).flatMap((p) => digits.map((d) => d * p)).filter((tick) => tick >= low && tick <= high);
  const few = steps([1, 2, 5]);
  return few.length > 2 ? few : steps([1, 1.5, 2, 3, 4, 5, 6, 8]);
}
function scale(low, high, from, to, log) {
  const f = log ? Math.log : (x) => x;
  return (value) => from + ((f(value) - f(low)) / (f(high) - f(low) || 1)) * (to - from);
}
function thin(ticks, at, gap) {
  const kept = [];
  for (const tick of ticks)
    if (!kept.length || Math.abs(at(tick) - at(kept[kept.length - 1])) >= gap) kept.push(tick);
  return kept;
}

// ---- one chart

// What a chart's horizontal axis shows: context lengths, a searched key, or what the switch says.
function across(chart) {
  if (chart.key) return { label: chart.key, unit: "", labels: chart.labels, log: false, wide: !chart.labels.length };
  const axis = AXES.find((one) => one.key === view.axis);
  return axis ? { ...axis, labels: [], log: true } : { label: "context length, tokens", unit: "tokens", labels: [], lengths: true, log: true };
}
// The chart over the chosen axis; points that have no place on it are left out.
function placed(chart) {
  const key = chart.key ? "key" : view.axis;
  if (!key) return chart;
  const on = (one) => ({ ...one, points: one.points.filter((p) => key in p.at).map((p) => ({ ...p, length: p.at[key] })) });
  return { ...chart, series: chart.series.map(on) };
}
function shown(chart) { return chart.series.filter((one) => !view.hidden.has(one.arm)); }
const good = (one) => one.points.filter((point) => point.status === "ok");
// Disturbed by other work: shown hollow, and no part of the curve.
const valued = (one) => one.points.filter((point) => point.value !== null);

function layout(chart, width) {
  const series = shown(chart), log = view.scale === "log", axis = across(chart);
  const lengths = [...new Set(chart.series.flatMap((one) => one.points.map((p) => p.length)))].sort((a, b) => a - b);
  // A key that was searched over a wide range was searched by factors.
  const logX = lengths[0] > 0 && (axis.wide ? lengths[lengths.length - 1] >= 8 * lengths[0] : log && axis.log), first = lengths[0], farthest = lengths[lengths.length - 1];
  const values = series.flatMap((one) => valued(one).flatMap((p) => p.status === "ok" ? [...p.middle_half, p.value] : [p.value]));
  const height = Math.round(Math.max(290, Math.min(440, width * 0.56)));
  const longest = series.length > MOST_NAMES ? 0 : Math.max(4, ...series.map((one) => called(one.arm).length));
  const box = { left: 62, right: width - 16 - Math.min(150, longest * 7.6), top: 52, bottom: height - 46 };
  const peak = Math.max(...values), least = Math.min(...values);
  const room = Math.max(peak / least, 1.6) ** 0.08;
  const slack = 0.06 * (peak - least || Math.abs(peak) || 1);
  const [lo, hi] = log ? [least / room, peak * room] : chart.unit ? [0, peak * 1.06] : [least - slack, peak + slack];
  const start = axis.labels.length ? 0.5 : axis.lengths && !logX ? 0 : first;
  const x = scale(start, axis.labels.length ? axis.labels.length + 0.5 : farthest, box.left + 6, box.right - 6, logX);
  const y = scale(lo, hi, box.bottom, box.top, log);
  const size = chart.unit === "s" ? unitOf(peak, "s")[1] : unitOf(peak, "B")[1];
  const yTicks = !chart.unit ? within(lo, hi, 5) : log ? logTicks(lo, hi, chart.unit, 6) : linearTicks(hi / size, 5).map((tick) => tick * size);
  const few = axis.lengths ? log : lengths.length <= 12 && chart.key;
  const xTicks = thin(few ? lengths : axis.lengths ? linearTicks(farthest, 5) : logX ? logTicks(first, farthest, "", 6) : within(first, farthest, 5), x, 46);
  return { series, lengths, axis, width, height, box, x, y, xTicks, yTicks: thin(yTicks, y, 24), empty: !values.length };
}

function axes(chart, at) {
  const { box, x, y, xTicks, yTicks } = at;
  const rows = yTicks.map((tick) => `<line class="grid" x1="${box.left}" x2="${box.right}" y1="${y(tick)}" y2="${y(tick)}"/>` +
    `<text x="${box.left - 9}" y="${y(tick) + 4}" text-anchor="end">${tick ? short(tick, chart.unit) : 0}</text>`);
  const columns = xTicks.map((tick) => `<line class="grid" x1="${x(tick)}" x2="${x(tick)}" y1="${box.bottom}" y2="${box.bottom + 5}"/>` +
    `<text x="${x(tick)}" y="${box.bottom + 20}" text-anchor="middle">${escape(at.axis.labels[tick - 1] || (at.axis.lengths ? whole(tick) : plain(tick)))}</text>`);
  const middle = (box.left + box.right) / 2;
  return rows.join("") + columns.join("") +
    `<text x="${middle}" y="${at.height - 6}" text-anchor="middle">${escape(at.axis.label)}</text>` +
    `<text x="0" y="13">${escape(chart.axis)}</text>`;
}

function marker(arm, px, py, size, status = "ok") {
  const css = status === "ok" ? "dot" : "dot " + status;
  return ARMS.get(arm).recurrent ? `<circle class="${css}" cx="${px}" cy="${py}" r="${size}"/>`
    : `<rect class="${css}" x="${px - size}" y="${py - size}" width="${2 * size}" height="${2 * size}" rx="1"/>`;
}

function drawSeries(one, at) {
  const points = good(one), { x, y, box } = at;
  const place = (p) => `${x(p.length).toFixed(1)},${y(p.value).toFixed(1)}`;
  const floor = (value) => Math.min(box.bottom, y(value));
  const band = points.map((p) => `${x(p.length)},${y(p.middle_half[1])}`)
    .concat([...points].reverse().map((p) => `${x(p.length)},${floor(p.middle_half[0])}`));
  const drawn = valued(one);
  const dots = (drawn.length > MOST_DOTS ? drawn.slice(-1) : drawn).map((p) => marker(one.arm, x(p.length), y(p.value), 4.2, p.status));
  const failed = one.points.filter((p) => p.value === null).map((p) => {
    const px = x(p.length), py = box.top - 4 + 13 * failureRow(one, p, at);
    const tried = !p.status.startsWith("predicted");
    return `<path class="cross${tried ? "" : " predicted"}" d="M${px - 4},${py - 4}l8,8m0,-8l-8,8"/>` +
      `<text class="failure" x="${px - 9}" y="${py + 4}" text-anchor="end">${escape(p.status.replace("_", " "))}</text>`;
  });
  return `<g style="--c:var(--${ARMS.get(one.arm).colour})">` +
    (points.length ? `<polygon class="band" points="${band.join(" ")}"/><path class="curve" d="M${points.map(place).join("L")}"/>` : "") +
    dots.join("") + failed.join("") + "</g>";
}
// Two arms that fail at one length are drawn one under the other.
function failureRow(one, point, at) {
  const before = at.series.slice(0, at.series.indexOf(one));
  return before.filter((other) => other.points.some((p) => p.length === point.length && p.value === null)).length;
}

function names(at) {
  const ends = (at.series.length > MOST_NAMES ? [] : at.series).filter((one) => good(one).length).map((one) => {
    const last = good(one).at(-1);
    return { arm: ARMS.get(one.arm), x: at.x(last.length), y: at.y(last.value) };
  }).sort((a, b) => a.y - b.y);
  // Pushed down until none touches, then up again where the last would leave the chart.
  ends.forEach((end, place) => { if (place) end.y = Math.max(end.y, ends[place - 1].y + 16); });
  ends.reduceRight((limit, end) => { end.y = Math.min(end.y, limit); return end.y - 16; }, at.box.bottom);
  return ends.map((end) => `<text class="name" style="--c:var(--${end.arm.colour})" x="${end.x + 10}" y="${end.y + 4}">${escape(called(end.arm.label))}</text>`).join("");
}

function crossings(chart, at) {
  const visible = chart.crossings.filter((one) => one.arms.every((arm) => !view.hidden.has(arm)));
  const { x, box } = at;
  let taken = -Infinity;
  return [...visible].sort((one, other) => one.length - other.length).map((one) => {
    const low = one.low ?? (one.high && at.lengths[0]), high = one.high ?? (one.low && at.lengths.at(-1));
    const px = x(one.length), text = (visible.length > 1 ? "" : "crosses at ") + one.text, half = text.length * 3.5;
    const middle = Math.max(box.left + half, Math.min(at.width - half, px));
    const band = low && high ? `<rect class="interval" x="${x(low)}" width="${Math.max(1, x(high) - x(low))}" y="${box.top}" height="${box.bottom - box.top}"/>` : "";
    const fits = middle - half > taken;
    if (fits) taken = middle + half;
    return `${band}<line class="crossing" x1="${px}" x2="${px}" y1="${box.top - 16}" y2="${box.bottom}"/>` +
      (fits ? `<text class="where" x="${middle}" y="${box.top - 21}" text-anchor="middle">${text}</text>` : "");
  }).join("");
}

function undecided(chart, at) {
  const shows = (one) => one.arms.every((arm) => !view.hidden.has(arm));
  const visible = chart.undecided.filter(shows);
  if (visible.length !== 1) return "";
  const { runs, text } = visible[0], { x, box } = at;
  const middle = (x(runs[0][0]) + x(runs[0][1])) / 2, half = text.length * 3.5;
  const centre = Math.max(box.left + half, Math.min(at.width - half, middle));
  // Beside a crossing, whose place stands there, the caption names the lengths.
  const label = chart.crossings.some(shows) ? ""
    : `<text class="where" x="${centre}" y="${box.top - 21}" text-anchor="middle">${escape(text)}</text>`;
  return runs.map(([low, high]) => hatched(x(low) - 4, x(high) + 4, box.top, box.bottom)).join("") + label;
}
function hatched(left, right, top, bottom) {
  const lines = [];
  for (let from = left - (bottom - top); from < right; from += 9) {
    const start = Math.max(from, left), end = Math.min(from + bottom - top, right);
    lines.push(`M${start},${bottom - (start - from)}L${end},${bottom - (end - from)}`);
  }
  return `<path class="hatch" d="${lines.join("")}"/><rect class="open" x="${left}" width="${right - left}" y="${top}" height="${bottom - top}"/>`;
}

function draw(figure, unplaced) {
  const plot = figure.querySelector(".plot"), chart = placed(unplaced);
  const at = layout(chart, plot.clientWidth || Math.min(640, document.body.clientWidth || 640));
  const body = at.empty ? `<text x="20" y="60">No finished point to draw for the models shown.</text>`
    : axes(chart, at) + undecided(chart, at) + crossings(chart, at) + at.series.map((one) => drawSeries(one, at)).join("") + names(at);
  plot.querySelector(".canvas").innerHTML =
    `<svg viewBox="0 0 ${at.width} ${at.height}" role="img" aria-label="${escape(chart.alt)}">${body}<g class="hover"></g></svg>`;
  figure.at = at;
}

// ---- the tooltip: raw repeats and their middle half at one length

function tip(figure, chart, place) {
  const { at } = figure, box = figure.querySelector(".tip"), hover = figure.querySelector(".hover");
  if (place === null || at.empty) { box.hidden = true; if (hover) hover.innerHTML = ""; figure.place = null; return; }
  figure.place = place;
  const length = at.lengths[place], px = at.x(length);
  let marks = `<line class="guide" x1="${px}" x2="${px}" y1="${at.box.top}" y2="${at.box.bottom}"/>`, text = `<b>${at.axis.lengths ? whole(length) + " tokens" : escape(at.axis.labels[length - 1] || (plain(length) + " " + at.axis.unit).trim())}</b>`;
  const small = (line) => line ? `<small>${escape(line).replace(/(\d) (?=[µm]?s|min|[KMG]?i?B)/g, "$1\u00a0")}</small>` : "";
  for (const one of at.series) {
    const point = one.points.find((p) => p.length === length), arm = ARMS.get(one.arm);
    if (!point) continue;
    const colour = `style="--c:var(--${arm.colour})"`, said = point.tip;
    if (point.value !== null) marks += `<g ${colour}>${marker(one.arm, px, at.y(point.value), 6, point.status)}</g>`;
    text += `<div ${colour}>${escape(arm.name)}: ${escape(said.text)}${small(said.half)}${small(said.repeats)}${small(said.error)}</div>`;
  }
  const visible = chart.ratios.filter((one) => one.arms.every((arm) => !view.hidden.has(arm)));
  for (const one of visible.slice(0, 3)) text += small(one.texts[length]);
  hover.innerHTML = marks;
  box.innerHTML = text;
  box.hidden = false;
  const side = px > at.width / 2;
  box.style.left = side ? "auto" : px + 14 + "px";
  box.style.right = side ? at.width - px + 14 + "px" : "auto";
}

function nearest(figure, event) {
  const { at } = figure, frame = figure.querySelector("svg").getBoundingClientRect();
  const px = ((event.clientX - frame.left) / frame.width) * at.width;
  return at.lengths.reduce((best, length, place) => Math.abs(at.x(length) - px) < Math.abs(at.x(at.lengths[best]) - px) ? place : best, 0);
}

// ---- wiring

const figures = [...document.querySelectorAll("figure[data-chart]")].map((figure) => [figure, DATA.charts[figure.dataset.chart]]);
// Of the charts of several texts that validate, those of one are shown.
const isShown = (chart) => !chart.heldout || chart.heldout === view.heldout;
function drawAll() {
  for (const [figure, chart] of figures) {
    figure.hidden = !isShown(chart);
    if (figure.hidden) continue;
    draw(figure, chart);
    tip(figure, chart, null);
  }
}

for (const [figure, chart] of figures) {
  const plot = figure.querySelector(".plot");
  plot.addEventListener("pointermove", (event) => tip(figure, chart, nearest(figure, event)));
  plot.addEventListener("pointerdown", (event) => tip(figure, chart, nearest(figure, event)));
  plot.addEventListener("pointerleave", () => tip(figure, chart, null));
  plot.addEventListener("blur", () => tip(figure, chart, null));
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], last = figure.at.lengths.length - 1;
    if (event.key === "Escape") tip(figure, chart, null);
    if (!step) return;
    event.preventDefault();
    tip(figure, chart, Math.max(0, Math.min(last, (figure.place ?? (step > 0 ? -1 : last + 1)) + step)));
  });
}
for (const button of document.querySelectorAll("[data-arm]"))
  button.addEventListener("click", () => {
    const hide = !view.hidden.has(button.dataset.arm);
    view.hidden[hide ? "add" : "delete"](button.dataset.arm);
    button.setAttribute("aria-pressed", String(!hide));
    drawAll();
  });
for (const what of ["scale", "axis", "heldout"]) {
  const buttons = [...document.querySelectorAll(`[data-${what}]`)];
  for (const button of buttons)
    button.addEventListener("click", () => {
      view[what] = button.dataset[what];
      buttons.forEach((one) => one.setAttribute("aria-pressed", String(one === button)));
      drawAll();
    });
}

// As the CSV file beside this page: a text that a spreadsheet would compute gets an apostrophe in front.
const safe = (value) => typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? "'" + value : String(value ?? "");
const cell = (value) => { const text = safe(value); return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text; };
document.getElementById("copy").addEventListener("click", async () => {
  const text = [DATA.columns, ...DATA.rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";
  const done = document.getElementById("copied");
  try {
    await navigator.clipboard.writeText(text);
    done.textContent = `Copied ${DATA.rows.length} rows.`;
  } catch {
    done.textContent = "The browser refused; use the CSV file beside this page.";
  }
});

// The table of all points: one list of choices over each of three columns.
const filters = document.getElementById("filters"), lines = [...document.querySelectorAll("#points tbody tr")];
if (filters && lines.length) {
  const said = (line, column) => line.cells[column].textContent.trim();
  const chosen = [...filters.querySelectorAll("select")];
  for (const choice of chosen)
    for (const text of new Set(lines.map((line) => said(line, choice.dataset.column)))) choice.add(new Option(text, text));
  const keep = () => {
    for (const line of lines) line.hidden = chosen.some((choice) => choice.value && choice.value !== said(line, choice.dataset.column));
    document.getElementById("kept").textContent = `${lines.filter((line) => !line.hidden).length} of ${lines.length} points`;
  };
  filters.addEventListener("change", keep);
  filters.hidden = false;
  keep();
}

let drawnAt = document.body.clientWidth;
drawAll();
function redraw() {
  if (document.body.clientWidth !== drawnAt) { drawnAt = document.body.clientWidth; drawAll(); }
}
// In the next frame: drawing changes sizes, and a browser calls that a loop if an observer does it.
new ResizeObserver(() => requestAnimationFrame(redraw)).observe(document.body);
// What was folded away has no width until it is opened.
for (const chapter of document.querySelectorAll("details.chapter"))
  chapter.addEventListener("toggle", () => { if (chapter.open && chapter.querySelector("figure[data-chart]")) drawAll(); });
let opened = [];
window.addEventListener("beforeprint", () => { opened = [...document.querySelectorAll("details:not([open])")]; opened.forEach((one) => { one.open = true; }); drawAll(); });
window.addEventListener("afterprint", () => opened.forEach((one) => { one.open = false; }));
document.body.setAttribute("data-charts", String(figures.length));
