// Line charts of runs: one SVG a metric, the same colour for a run everywhere, new points as they come.

const SVG = "http://www.w3.org/2000/svg";
const H = 230, LEFT = 56, RIGHT = 22, TOP = 10, BOTTOM = 24;
const PAUSE = 2000, MOST = 1500;
const FIRST = ["loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_s", "share_of_ceiling", "memory_bytes"];
const NAMES = {
  loss: "Training loss", eval_loss: "Evaluation loss", learning_rate: "Learning rate",
  grad_norm: "Gradient norm", tokens_per_s: "Tokens per second",
  share_of_ceiling: "Share of ceiling (%)", memory_bytes: "Peak memory (GB)",
};
const UNITS = { share_of_ceiling: [100, " %"], memory_bytes: [1e-9, " GB"] };

export function begin() {
  for (const place of document.querySelectorAll("[data-curves]")) new Board(place).start();
}

function element(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function html(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function figure(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return size >= 10000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
}

// The figure of a metric, with its unit where it has one.
export function worded(key, value) {
  const [factor, unit] = UNITS[key] ?? [1, ""];
  return Number.isFinite(value) ? `${figure(value * factor)}${unit}` : figure(value);
}

// Exponential smoothing whose beginning is not drawn to zero (Kingma and Ba 2015, section 3).
export function smooth(values, weight) {
  if (!weight) return values;
  let mean = 0, power = 1;
  return values.map((value) => {
    mean = weight * mean + (1 - weight) * value;
    power *= weight;
    return mean / (1 - power);
  });
}

// Labels of an axis: as many digits as tell its marks apart.
export function labels(values) {
  const largest = Math.max(...values.map(Math.abs));
  if (largest && (largest < 1e-3 || largest >= 1e6)) {
    const power = Math.floor(Math.log10(largest) + 1e-9);
    return values.map((v) => (v ? `${Number((v / 10 ** power).toPrecision(4))}e${power}` : "0"));
  }
  return values.map((v) => (Math.abs(v) >= 10000 ? Math.round(v).toLocaleString("en") : String(Number(v.toPrecision(5)))));
}

export function ticks(low, high, count = 5) {
  const span = high - low || Math.abs(high) || 1;
  const rough = span / count, unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * unit).find((n) => n >= rough);
  const found = [];
  for (let n = Math.ceil(low / step); n * step <= high + step * 1e-9; n++) found.push(n * step);
  return found;
}

// Marks at whole minutes or hours; the values are seconds since 1970.
export function times(low, high, count = 5) {
  const step = [5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400].find((n) => n * count >= high - low) ?? 86400 * Math.ceil((high - low) / count / 86400);
  const found = [];
  for (let n = Math.ceil(low / step); n * step <= high; n++) found.push(n * step);
  return found;
}

const clock = (seconds, style) => new Date(1000 * seconds).toLocaleTimeString("en-GB", style);

export function powers(low, high) {
  const found = [];
  for (let n = Math.floor(Math.log10(low)); 10 ** n <= high; n++) {
    for (const m of high / low > 300 ? [1] : [1, 2, 5]) {
      if (m * 10 ** n >= low && m * 10 ** n <= high) found.push(m * 10 ** n);
    }
  }
  return found;
}

class Board {
  constructor(place) {
    this.place = place;
    this.isCompare = "compare" in place.dataset;
    this.kind = { isTime: place.dataset.x === "time", words: place.dataset.words ?? "runs" };
    const hidden = [...place.querySelectorAll("[data-run]")].map((one) => one.dataset.run);
    this.sources = (this.isCompare ? hidden : [place.dataset.curves]).map((address) => ({ address, cursor: "" }));
    this.runs = new Map();
    this.off = new Set();
    this.charts = new Map();
    this.weight = 0;
    this.log = false;
  }

  async start() {
    this.tools = this.makeTools();
    this.legend = html("div", { class: "legend", role: "group", "aria-label": this.kind.words });
    this.holder = html("div", { class: "charts" });
    this.place.append(this.tools, ...(this.isCompare ? [this.legend] : []), this.holder);
    this.tools.hidden = true;
    const waiting = [...this.sources];
    const worker = async () => { while (waiting.length) await this.load(waiting.shift()); };
    await Promise.all([worker(), worker(), worker(), worker()]);
    this.later();
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.round(); });
    let settled;
    window.addEventListener("resize", () => { clearTimeout(settled); settled = setTimeout(() => this.draw(), 150); });
  }

  later() {
    clearTimeout(this.timer);
    if (this.sources.some((source) => !source.ended)) this.timer = setTimeout(() => this.round(), PAUSE);
  }

  async round() {
    if (!document.hidden) for (const source of this.sources) if (!source.ended) await this.load(source);
    this.later();
  }

  async load(source) {
    let told;
    try {
      const query = source.cursor ? `?cursor=${encodeURIComponent(source.cursor)}` : "";
      const answer = await fetch(source.address + query, { headers: { accept: "application/json" } });
      if (answer.status === 404 || answer.status === 401) source.ended = true;
      if (!answer.ok) return;
      told = await answer.json();
    } catch {
      return; // the service is away: asked again in the next round
    }
    source.cursor = told.cursor;
    // What was written after the last answer is fetched once more after the end.
    source.ended = told.ended && !told.whole && !Object.keys(told.series).length;
    const run = this.runs.get(told.run) ?? { name: told.run, series: {} };
    Object.assign(run, { label: told.label, colour: told.colour });
    if (told.whole) run.series = {};
    let isLong = false;
    for (const [key, one] of Object.entries(told.series)) {
      const there = run.series[key];
      if (!there) { run.series[key] = one; continue; }
      there.x.push(...one.x);
      there.y.push(...one.y);
      there.last = one.last;
      if (one.direction) there.best = one.direction < 0 ? Math.min(there.best, one.best) : Math.max(there.best, one.best);
      isLong ||= there.x.length > MOST;
    }
    if (isLong) source.cursor = ""; // have the server thin it out again
    this.runs.set(told.run, run);
    if (told.whole || Object.keys(told.series).length) this.show();
  }

  makeTools() {
    const slider = html("input", { type: "range", min: "0", max: "0.99", step: "0.01", value: "0" });
    const box = html("input", { type: "checkbox" });
    slider.addEventListener("input", () => { this.weight = Number(slider.value); this.draw(); });
    box.addEventListener("change", () => { this.log = box.checked; this.draw(); });
    return html("div", { class: "tools" }, html("label", {}, "Smoothing", slider), html("label", {}, box, "Logarithmic"));
  }

  show() {
    const keys = new Set([...this.runs.values()].flatMap((run) => Object.keys(run.series)));
    this.place.querySelector("[data-none]").hidden = keys.size > 0;
    this.tools.hidden = keys.size === 0;
    const rank = (key) => (FIRST.includes(key) ? FIRST.indexOf(key) : FIRST.length);
    const ordered = [...keys].sort((a, b) => rank(a) - rank(b) || (this.kind.isTime ? 0 : a.localeCompare(b)));
    for (const key of ordered) {
      if (!this.charts.has(key)) {
        this.charts.set(key, new Chart(key, this.kind));
        this.holder.replaceChildren(...ordered.filter((k) => this.charts.has(k)).map((k) => this.charts.get(k).figure));
      }
    }
    if (this.isCompare) { this.showLegend(); this.showTable(ordered); }
    this.draw();
  }

  showLegend() {
    for (const run of this.runs.values()) {
      if (run.button) continue;
      const line = element("svg", { class: `swatch c${run.colour % 16} d${Math.floor(run.colour / 16)}`, viewBox: "0 0 18 8", "aria-hidden": "true" }, element("path", { d: "M0 4H18" }));
      run.button = html("button", { type: "button", "aria-pressed": "true", title: run.name }, line, html("span", {}, run.label));
      run.button.addEventListener("click", () => {
        if (!this.off.delete(run.name)) this.off.add(run.name);
        run.button.setAttribute("aria-pressed", String(!this.off.has(run.name)));
        this.draw();
      });
      this.legend.append(run.button);
    }
  }

  showTable(keys) {
    const table = document.querySelector("[data-best]");
    if (!table) return;
    const judged = keys.filter((key) => [...this.runs.values()].some((run) => run.series[key]?.direction));
    const head = table.tHead.rows[0];
    head.querySelectorAll("[data-key]").forEach((cell) => cell.remove());
    table.querySelectorAll("td[data-key]").forEach((cell) => cell.remove());
    for (const key of judged) {
      head.insertBefore(html("th", { class: "num", "data-key": key }, NAMES[key] ?? key), head.querySelector("[data-setting]"));
      const found = [...this.runs.values()].map((run) => run.series[key]).filter((one) => one && one.best !== null);
      const values = found.map((one) => one.best);
      const best = found[0]?.direction < 0 ? Math.min(...values) : Math.max(...values);
      for (const row of table.tBodies[0].rows) {
        const value = this.runs.get(row.dataset.name)?.series[key]?.best;
        const kind = values.length > 1 && value === best ? "num best" : "num";
        row.insertBefore(html("td", { class: kind, "data-key": key }, worded(key, value)), row.querySelector(".differs"));
      }
    }
  }

  draw() {
    const shown = [...this.runs.values()].filter((run) => !this.off.has(run.name));
    for (const chart of this.charts.values()) chart.draw(shown, this.weight, this.log, this.isCompare);
  }
}

class Chart {
  constructor(key, { isTime, words }) {
    this.key = key;
    this.isTime = isTime;
    this.words = words;
    this.title = NAMES[key] ?? key;
    this.value = html("span");
    this.readout = html("div", { class: "readout", "aria-live": "polite" });
    this.svg = element("svg", { tabindex: "0", role: "img" });
    this.figure = html("figure", { class: "chart" }, html("figcaption", {}, this.title, this.value), this.svg, this.readout);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.mark(null));
    this.svg.addEventListener("blur", () => this.mark(null));
    this.svg.addEventListener("keydown", (event) => this.press(event));
  }

  draw(runs, weight, wantsLog, isCompare) {
    this.width = Math.max(260, Math.round(this.svg.getBoundingClientRect().width) || 520);
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${H}`);
    this.lines = runs.filter((run) => run.series[this.key]?.x.length).map((run) => {
      const { x, y } = run.series[this.key];
      return { run, x, raw: y, y: smooth(y, weight), colour: isCompare ? run.colour : FIRST.indexOf(this.key) + 1 };
    });
    const every = this.lines.flatMap((line) => (weight ? [...line.y, ...line.raw] : line.y));
    this.isLog = wantsLog && every.some((v) => v > 0);
    const usable = this.isLog ? every.filter((v) => v > 0) : every;
    const xs = this.lines.flatMap((line) => [line.x[0], line.x.at(-1)]);
    this.x = this.isTime && xs.length && xs.every((x) => x === xs[0]) ? [xs[0] - 30, xs[0] + 30] : extent(xs, false);
    this.y = extent(usable, !this.isLog);
    this.svg.replaceChildren(...this.axes(), ...this.lines.flatMap((line) => this.paths(line, weight)));
    const one = this.lines.length === 1 ? this.lines[0].run.series[this.key] : null;
    const best = one?.direction ? `, best ${worded(this.key, one.best)}` : "";
    this.value.textContent = one ? `${worded(this.key, one.last)}${best}` : `${this.lines.length} ${this.words}`;
    const ends = this.lines.length ? `from ${this.where(this.x[0])} to ${this.isTime ? this.where(this.x[1]) : this.x[1]}, between ${worded(this.key, this.y[0])} and ${worded(this.key, this.y[1])}` : "empty";
    this.svg.setAttribute("aria-label", `${this.title}, ${ends}. Arrow keys read single ${this.isTime ? "points" : "steps"}.`);
    if (this.at !== undefined && this.at !== null) this.mark(this.at);
  }

  axes() {
    const made = [];
    const tens = this.isLog ? powers(...this.y) : [];
    const marks = tens.length > 2 ? tens : ticks(...this.y);
    const [factor] = UNITS[this.key] ?? [1];
    const shown = marks.map((v) => v * factor);
    const words = tens.length > 2 ? shown.map(figure) : labels(shown);
    for (const [i, value] of marks.entries()) {
      const y = this.py(value);
      made.push(element("line", { class: "grid-line", x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y }));
      made.push(element("text", { class: "tick-text", x: LEFT - 6, y: y + 4, "text-anchor": "end" }, words[i]));
    }
    for (const value of (this.isTime ? times : ticks)(...this.x, this.width < 360 ? 3 : 5)) {
      if (!Number.isInteger(value)) continue;
      const text = this.isTime ? clock(value, { hour: "2-digit", minute: "2-digit", second: value % 60 ? "2-digit" : undefined }) : value.toLocaleString("en");
      made.push(element("text", { class: "tick-text", x: this.px(value), y: H - 6, "text-anchor": "middle" }, text));
    }
    return made;
  }

  paths(line, weight) {
    const kind = `c${line.colour % 16} d${Math.floor(line.colour / 16)}`;
    if (line.x.length === 1) return [element("circle", { class: `spot ${kind}`, cx: this.px(line.x[0]), cy: this.py(line.y[0]), r: 3 })];
    const path = (values) => values.map((v, i) => (this.isLog && v <= 0 ? "" : `${i ? "L" : "M"}${this.px(line.x[i])} ${this.py(v)}`)).join("").replace(/^L/, "M");
    const raw = weight ? [element("path", { class: `curve raw ${kind}`, d: path(line.raw) })] : [];
    return [...raw, element("path", { class: `curve ${kind}`, d: path(line.y) })];
  }

  where(x, grouped) {
    if (this.isTime) return clock(x);
    return `step ${grouped ? x.toLocaleString("en") : x}`;
  }

  px(x) {
    return Number((LEFT + ((x - this.x[0]) / (this.x[1] - this.x[0])) * (this.width - LEFT - RIGHT)).toFixed(2));
  }

  py(y) {
    const of = this.isLog ? Math.log10 : (v) => v;
    const share = (of(y) - of(this.y[0])) / (of(this.y[1]) - of(this.y[0]));
    return Number((H - BOTTOM - share * (H - TOP - BOTTOM)).toFixed(2));
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const share = ((event.clientX - box.left) / box.width * this.width - LEFT) / (this.width - LEFT - RIGHT);
    this.mark(this.x[0] + Math.min(1, Math.max(0, share)) * (this.x[1] - this.x[0]));
  }

  press(event) {
    const steps = this.lines?.[0]?.x;
    if (!steps) return;
    const now = nearest(steps, this.at ?? steps.at(-1));
    const moves = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: steps.length - 1, PageUp: now - 25, PageDown: now + 25 };
    if (event.key === "Escape") this.mark(null);
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.mark(steps[Math.min(steps.length - 1, Math.max(0, moves[event.key]))]);
  }

  mark(at) {
    this.at = at;
    this.svg.querySelector(".reading")?.remove();
    this.readout.replaceChildren();
    if (at === null || !this.lines?.length) return;
    const group = element("g", { class: "reading" });
    const near = this.lines.map((line) => ({ line, i: nearest(line.x, at) }));
    const step = near[0].line.x[near[0].i];
    group.append(element("line", { class: "cross", x1: this.px(step), x2: this.px(step), y1: TOP, y2: H - BOTTOM }));
    this.readout.append(html("span", {}, this.where(step, true)));
    for (const { line, i } of near.slice(0, 20)) {
      const kind = `c${line.colour % 16}`;
      if (!this.isLog || line.y[i] > 0) group.append(element("circle", { class: `spot ${kind}`, cx: this.px(line.x[i]), cy: this.py(line.y[i]), r: 3.5 }));
      const name = this.lines.length > 1 ? `${line.run.label}: ` : "";
      this.readout.append(html("span", { class: kind }, html("i"), name + worded(this.key, line.raw[i])));
    }
    this.svg.append(group);
  }
}

function extent(values, padded) {
  let low = Infinity, high = -Infinity;
  for (const v of values) { if (v < low) low = v; if (v > high) high = v; }
  if (low > high || (low === 0 && high === 0)) return [0, 1];
  if (low === high) { const by = Math.abs(low) * 0.1 || 1; return [low - (low > 0 && by >= low ? low / 2 : by), high + by]; }
  const pad = padded ? (high - low) * 0.04 : 0;
  return [low - pad, high + pad];
}

function nearest(steps, at) {
  let low = 0, high = steps.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < at) low = middle + 1; else high = middle;
  }
  return low > 0 && at - steps[low - 1] < steps[low] - at ? low - 1 : low;
}
