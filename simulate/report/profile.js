"use strict";
(() => {
const data = JSON.parse(document.getElementById("timeline").textContent);
const canvas = document.getElementById("canvas");
const tip = document.getElementById("tip");
const chosen = document.getElementById("chosen");
const pen = canvas.getContext("2d");
const FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif';
const AXIS = 26, STRIP = 22, SPACE = 7, END = 10, MAX_GUTTER = 140;  // CSS pixels
const MIN_SPAN = 50;                        // ticks: 5 ns, a few cycles
const total = Math.max(data.end, MIN_SPAN);

// Times from the gaps and durations; sums[i] is the busy time of the first i events.
const lanes = [];
for (const raw of data.rows) {
  const count = raw.kinds.length;
  const row = {
    count, kinds: Uint32Array.from(raw.kinds), starts: new Float64Array(count),
    ends: new Float64Array(count), sums: new Float64Array(count + 1),
  };
  row.several = new Map();                  // pieces of several events: how many, ticks at work
  for (let i = 0; raw.several && i < raw.several.length; i += 3)
    row.several.set(raw.several[i], [raw.several[i + 1], raw.several[i + 2]]);
  let time = 0;
  for (let i = 0; i < count; i++) {
    row.starts[i] = time += raw.gaps[i];
    row.ends[i] = time += raw.ticks[i];
    const merged = row.several.get(i);
    row.sums[i + 1] = row.sums[i] + (merged ? Math.min(merged[1], raw.ticks[i]) : raw.ticks[i]);
  }
  const engine = data.strings[raw.engine];
  if (!lanes.length || lanes[lanes.length - 1].engine !== engine) lanes.push({ engine, rows: [] });
  lanes[lanes.length - 1].rows.push(row);
}
data.rows = null;

// A lane with a few rows grows with them; one with many keeps its height and draws thin rows.
let y = AXIS + STRIP + SPACE;
for (const lane of lanes) {
  lane.y = y;
  lane.height = Math.max(26, Math.min(96, 13 * lane.rows.length));
  y += lane.height + SPACE;
}
// Below the engines: what memory holds and what HBM moves.
for (const curve of data.curves) {
  let time = 0;
  curve.times = Float64Array.from(curve.gaps, (gap) => (time += gap));
  curve.most = Math.max(...curve.values, 0);
  curve.scale = Math.max(curve.most, curve.limit * 0.05, 1e-9);
  curve.y = y;
  curve.height = 44;
  y += curve.height + SPACE;
}
const height = y;
let width = 0, gutter = 0, ratio = 1, colours = {};
let from = 0, to = total;                   // what is in view, in ticks
let hovered = null, queued = false;

function first(list, count, value, strict) { // first index with list[i] >= value (> if strict)
  let low = 0, high = count;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] < value || (strict && list[middle] === value)) low = middle + 1;
    else high = middle;
  }
  return low;
}
function us(ticks, digits) {
  return (ticks / data.ticksPerUs).toLocaleString("en-GB", {
    minimumFractionDigits: digits, maximumFractionDigits: digits }) + " µs";
}
const perPixel = () => (to - from) / (width - gutter - END);
const xOf = (ticks) => gutter + (ticks - from) / perPixel();
const ticksAt = (x) => from + (x - gutter) * perPixel();

function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["ink", "soft", "line", "track", "panel", "accent", "bar"])
    colours[name] = style.getPropertyValue("--" + name).trim();
  colours.kinds = data.colours;
}
function fitText(text, room) {
  if (room < 16) return "";
  if (pen.measureText(text).width <= room) return text;
  let letters = Math.floor(room / pen.measureText(text).width * text.length);
  while (letters > 4 && pen.measureText(text.slice(0, letters) + "…").width > room) letters--;
  return letters < 5 ? "" : text.slice(0, letters) + "…";
}
function drawAxis() {
  const wanted = (to - from) / Math.max(2, (width - gutter) / 110);
  const power = 10 ** Math.floor(Math.log10(wanted));
  const step = power * [1, 2, 5, 10].find((n) => n * power >= wanted);
  const digits = Math.max(0, Math.min(4, -Math.floor(Math.log10(step / data.ticksPerUs) + 1e-9)));
  pen.textAlign = "center";
  pen.lineWidth = 1;
  for (let t = Math.ceil(from / step) * step; t <= to; t += step) {
    const x = Math.round(xOf(t)) + 0.5;
    pen.strokeStyle = colours.line;
    pen.beginPath(); pen.moveTo(x, AXIS - 4); pen.lineTo(x, height - SPACE); pen.stroke();
    pen.fillStyle = colours.soft;
    const text = us(t, digits), half = pen.measureText(text).width / 2;
    if (x - half >= 0) pen.fillText(text, Math.min(x, width - half), AXIS / 2 - 1);
  }
  pen.textAlign = "left";
}
function drawStrip() {
  for (let i = 0; i < data.launches.length; i++) {
    const [name, start, end] = data.launches[i];
    if (end < from || start > to) continue;
    const x0 = Math.max(gutter, xOf(start)), x1 = Math.min(width - END, xOf(end));
    pen.fillStyle = colours.track;
    pen.fillRect(x0, AXIS, Math.max(1, x1 - x0 - 1), STRIP);
    pen.fillStyle = colours.ink;
    pen.fillText(fitText(data.strings[name], x1 - x0 - 12), x0 + 6, AXIS + STRIP / 2);
  }
}
function drawMeetings() {
  const times = data.meetings;
  let low = 0;
  while (low < times.length && times[low + 1] < from) low += 2;
  let high = low;
  while (high < times.length && times[high] <= to) high += 2;
  if ((high - low) / 2 > width / 8) return;   // too dense to mean anything
  pen.fillStyle = colours.soft;
  pen.globalAlpha = 0.22;
  for (let i = low; i < high; i += 2) {
    const x0 = Math.max(gutter, xOf(times[i])), x1 = Math.min(width - END, xOf(times[i + 1]));
    pen.fillRect(x0, AXIS + STRIP, Math.max(1, x1 - x0), height - AXIS - STRIP - SPACE);
  }
  pen.globalAlpha = 1;
}
function drawCurve(curve) {
  const base = curve.y + curve.height;
  pen.fillStyle = colours.soft;
  pen.fillText(fitText(curve.name, MAX_GUTTER), 0, curve.y + 12);
  pen.fillText(fitText(`max ${curve.most.toLocaleString("en-GB")}`, gutter - 4), 0, curve.y + 30);
  pen.globalAlpha = 0.6;
  pen.fillStyle = colours.track;
  pen.fillRect(gutter, curve.y, width - END - gutter, curve.height);
  pen.globalAlpha = 0.75;
  pen.fillStyle = colours.bar;
  const { times, values } = curve, count = times.length;
  let i = Math.max(0, first(times, count, from, true) - 1);
  const whole = (x) => Math.round(x * ratio) / ratio;   // no seams between neighbours
  while (i < count && times[i] <= to) {
    // The highest of all steps within one pixel.
    const x0 = Math.max(gutter, whole(xOf(times[i])));
    let value = values[i], next = i + 1;
    while (next < count && xOf(times[next]) < x0 + 1 / ratio) value = Math.max(value, values[next++]);
    const x1 = next < count ? Math.min(width - END, whole(xOf(times[next]))) : width - END;
    const tall = value / curve.scale * (curve.height - 2);
    if (tall > 0) pen.fillRect(x0, base - tall, Math.max(1 / ratio, x1 - x0), tall);
    i = next;
  }
  pen.globalAlpha = 1;
}
function drawRow(row, y0, size) {
  const step = perPixel() / ratio;           // ticks per device pixel
  const gap = size >= 6 ? 1 : 0;
  let i = first(row.ends, row.count, from, true);
  while (i < row.count && row.starts[i] <= to) {
    const begin = row.starts[i], end = row.ends[i];
    if (end - begin >= step) {
      const x0 = Math.max(gutter, xOf(begin)), x1 = Math.min(width - END, xOf(end));
      const kind = data.kinds[row.kinds[i]];
      pen.fillStyle = colours.kinds[kind[4]];
      const merged = row.several.get(i);
      if (merged) pen.globalAlpha = 0.3 + 0.7 * Math.min(1, merged[1] / (end - begin));
      pen.fillRect(x0, y0, x1 - x0 > 3 ? x1 - x0 - 0.75 : x1 - x0, size - gap);
      if (x1 - x0 > 34 && size >= 12) {
        pen.fillStyle = "#0b0e13";
        pen.fillText(fitText(data.strings[kind[2]] || data.strings[kind[0]], x1 - x0 - 8), x0 + 4, y0 + (size - gap) / 2 + 0.5);
      }
      pen.globalAlpha = 1;
      i++;
      continue;
    }
    // Merge all that begins within this device pixel, but for a last event that is wide itself.
    const pixel = Math.floor((begin - from) / step), edge = from + (pixel + 1) * step;
    let next = Math.max(i + 1, first(row.starts, row.count, edge, false));
    if (next - 1 > i && row.ends[next - 1] - row.starts[next - 1] >= step) next--;
    const busy = Math.min(1, (row.sums[next] - row.sums[i]) / step);
    pen.fillStyle = colours.kinds[data.kinds[row.kinds[(i + next - 1) >> 1]][4]];
    pen.globalAlpha = 0.3 + 0.7 * busy;
    pen.fillRect(gutter + Math.max(0, pixel) / ratio, y0, 1 / ratio, size - gap);
    pen.globalAlpha = 1;
    i = next;
  }
}
function draw() {
  queued = false;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = FONT;
  pen.textBaseline = "middle";
  drawAxis();
  pen.fillStyle = colours.soft;
  pen.fillText("kernel", 0, AXIS + STRIP / 2);
  drawStrip();
  pen.globalAlpha = 0.6;
  pen.fillStyle = colours.track;
  for (const lane of lanes) pen.fillRect(gutter, lane.y, width - END - gutter, lane.height);
  pen.globalAlpha = 1;
  drawMeetings();
  for (const lane of lanes) {
    pen.fillStyle = colours.soft;
    pen.fillText(fitText(lane.engine, MAX_GUTTER), 0, lane.y + lane.height / 2);
    const size = lane.height / lane.rows.length;
    lane.rows.forEach((row, i) => drawRow(row, lane.y + i * size, size));
  }
  data.curves.forEach(drawCurve);
  canvas.dataset.from = from / data.ticksPerUs;
  canvas.dataset.to = to / data.ticksPerUs;
  if (hovered) {
    const { lane, index, row } = hovered;
    const size = lane.height / lane.rows.length;
    const x0 = Math.max(gutter, xOf(row.starts[index])), x1 = Math.min(width - END, xOf(row.ends[index]));
    pen.strokeStyle = colours.ink;
    pen.lineWidth = 1.5;
    pen.strokeRect(x0 - 0.5, lane.y + lane.rows.indexOf(row) * size - 0.5, Math.max(1.5, x1 - x0), size);
  }
}
function redraw() { if (!queued) { queued = true; requestAnimationFrame(draw); } }
function resize() {
  ratio = window.devicePixelRatio || 1;
  width = canvas.clientWidth;
  pen.font = FONT;
  const names = [...lanes.map((lane) => lane.engine), ...data.curves.map((curve) => curve.name)];
  const widest = Math.max(...names.map((name) => pen.measureText(name).width), 40);
  gutter = Math.ceil(Math.min(widest, MAX_GUTTER)) + 10;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.height = height + "px";
  redraw();
}
function show(start, span) {
  span = Math.max(MIN_SPAN, Math.min(total, span));
  from = Math.max(0, Math.min(total - span, start));
  to = from + span;
  redraw();
}
function zoom(factor, x) {
  const middle = ticksAt(x === undefined ? (gutter + width) / 2 : Math.max(gutter, x));
  const span = Math.max(MIN_SPAN, Math.min(total, (to - from) * factor));
  show(middle - (middle - from) / (to - from) * span, span);
}
const pan = (pixels) => show(from + pixels * perPixel(), to - from);

function eventAt(x, y0) {
  if (x < gutter || x > width - END + 2) return null;
  const lane = lanes.find((l) => y0 >= l.y && y0 < l.y + l.height);
  if (!lane) return null;
  const row = lane.rows[Math.min(lane.rows.length - 1, Math.floor((y0 - lane.y) / lane.height * lane.rows.length))];
  const time = ticksAt(x), reach = 2 * perPixel();   // thin events are caught two pixels away
  const index = first(row.ends, row.count, time, false);
  let best = null, distance = reach;
  for (const i of [index - 1, index]) {
    if (i < 0 || i >= row.count) continue;
    const away = Math.max(0, row.starts[i] - time, time - row.ends[i]);
    if (away <= distance) { best = i; distance = away; }
  }
  return best === null ? null : { lane, row, index: best };
}
function describe(found) {
  const [opcode, source, label, launch] = data.kinds[found.row.kinds[found.index]];
  const start = found.row.starts[found.index], end = found.row.ends[found.index];
  const merged = found.row.several.get(found.index);
  const kernel = launch < 0 ? "" : `, ${data.strings[data.launches[launch][0]]}`;
  return {
    opcode: merged ? `${merged[0].toLocaleString("en-GB")} events, most of it ${data.strings[opcode]}` : data.strings[opcode],
    source: data.strings[source],
    rest: [
      data.strings[label],
      data.strings[source],
      `${found.lane.engine}${kernel}`,
      `${us(start, 4)} to ${us(end, 4)}`,
      `${us(end - start, 4)} modelled`,
    ].filter(Boolean),
  };
}
function curveAt(x, y0) {
  if (x < gutter || x > width - END + 2) return null;
  const curve = data.curves.find((c) => y0 >= c.y && y0 < c.y + c.height);
  if (!curve) return null;
  const at = Math.max(0, first(curve.times, curve.times.length, ticksAt(x), true) - 1);
  const said = (value) => value.toLocaleString("en-GB", { maximumFractionDigits: 1 });
  const value = curve.values.length ? curve.values[at] : 0;
  return `${said(value)} ${curve.unit}\nat ${us(ticksAt(x), 2)}, modelled\nmost ${said(curve.most)}, limit ${said(curve.limit)}`;
}
function place(x, y0) {
  const left = x + 16 + tip.offsetWidth > width ? Math.max(0, x - 16 - tip.offsetWidth) : x + 16;
  tip.style.transform = `translate(${left}px, ${y0 + 14}px)`;
}
function point(x, y0) {
  const level = curveAt(x, y0);
  if (level) {
    if (hovered) { hovered = null; redraw(); }
    tip.textContent = level;
    tip.hidden = false;
    place(x, y0);
    return;
  }
  const found = eventAt(x, y0);
  const same = found && hovered && found.row === hovered.row && found.index === hovered.index;
  if (!same && (found || hovered)) { hovered = found; redraw(); }
  tip.hidden = !found;
  if (!found) return;
  if (!same) {
    const text = describe(found);
    const name = document.createElement("b");
    name.textContent = text.opcode;
    tip.replaceChildren(name, "\n" + text.rest.join("\n"));
  }
  place(x, y0);
}
function choose(x, y0) {
  const found = eventAt(x, y0);
  if (!found) return;
  const text = describe(found);
  chosen.textContent = [text.opcode, ...text.rest].join(" · ");
  for (const row of document.querySelectorAll(".listing .timed"))
    row.classList.toggle("marked", row.dataset.place === text.source);
}

const held = new Map();                     // pointers that are down, by id
let moved = 0;
const at = (event) => {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};
canvas.addEventListener("wheel", (event) => {
  const unit = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1;
  const sideways = event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY);
  const amount = unit * (sideways ? event.deltaX || event.deltaY : event.deltaY);
  if (!sideways && amount > 0 && to - from >= total) return;  // nothing left to show: scroll the page
  event.preventDefault();
  if (sideways) pan(amount);
  else zoom(Math.exp(Math.max(-400, Math.min(400, amount)) * 0.002), at(event)[0]);
  point(...at(event));
}, { passive: false });
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  held.set(event.pointerId, at(event));
  moved = held.size > 1 ? 99 : 0;
  canvas.classList.add("held");
});
canvas.addEventListener("pointermove", (event) => {
  const now = at(event), before = held.get(event.pointerId);
  if (!before) { point(...now); return; }
  const other = [...held].find(([id]) => id !== event.pointerId);
  if (other) {
    const gapBefore = Math.abs(before[0] - other[1][0]), gapNow = Math.abs(now[0] - other[1][0]);
    const middle = (now[0] + other[1][0]) / 2;
    pan((before[0] - now[0]) / 2);
    if (gapBefore > 8 && gapNow > 8) zoom(gapBefore / gapNow, middle);
  } else {
    pan(before[0] - now[0]);
  }
  moved += Math.abs(now[0] - before[0]);
  held.set(event.pointerId, now);
  tip.hidden = true;
});
for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, (event) => {
    held.delete(event.pointerId);
    if (!held.size) canvas.classList.remove("held");
    if (name === "pointerup" && moved < 4) { point(...at(event)); choose(...at(event)); }
  });
}
canvas.addEventListener("pointerleave", () => { tip.hidden = true; hovered = null; redraw(); });
canvas.addEventListener("dblclick", (event) => zoom(0.25, at(event)[0]));
canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = {
    "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), Home: () => show(0, total),
    ArrowLeft: () => pan(-width / 8), ArrowRight: () => pan(width / 8),
  };
  if (actions[event.key]) { event.preventDefault(); actions[event.key](); }
});
document.getElementById("in").addEventListener("click", () => zoom(0.5));
document.getElementById("out").addEventListener("click", () => zoom(2));
document.getElementById("all").addEventListener("click", () => show(0, total));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); redraw(); });
new ResizeObserver(resize).observe(canvas.parentElement);
readColours();
resize();
})();
