"use strict";
// Line charts on a canvas: several runs over each other, raw values pale behind their running mean.

const MARGIN = { left: 56, right: 12, top: 10, bottom: 26 };

/** The value below which a share of the values lies. */
function quantile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.round(share * (sorted.length - 1))))];
}

/** Exponential running mean without bias at its start; weight 0 leaves the values as they are. */
function smooth(points, weight) {
  let sum = 0, norm = 0;
  return points.map(([x, y]) => {
    sum = sum * weight + y * (1 - weight);
    norm = norm * weight + (1 - weight);
    return [x, sum / norm];
  });
}

/** At most about two points for each column: the lowest and the highest of those that fall in it. */
function thin(points, columns) {
  if (points.length <= 2 * columns) return points;
  const size = Math.ceil(points.length / columns), kept = [];
  for (let i = 0; i < points.length; i += size) {
    let low = i, high = i;
    for (let j = i; j < Math.min(i + size, points.length); j++) {
      if (points[j][1] < points[low][1]) low = j;
      if (points[j][1] > points[high][1]) high = j;
    }
    for (const at of low < high ? [low, high] : low > high ? [high, low] : [low]) kept.push(points[at]);
  }
  return kept;
}

/** Round steps between low and high, at most `count` of them. */
function ticks(low, high, count) {
  const span = high - low || 1;
  const unit = 10 ** Math.floor(Math.log10(span / count));
  const step = [1, 2, 5, 10].map(n => n * unit).find(n => span / n <= count) || 10 * unit;
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(at);
  return found;
}

/** Round values between two powers of ten: 1, 2 and 5 of each decade, or even steps within one. */
function logTicks(low, high, count) {
  if (high - low < 1) return ticks(10 ** low, 10 ** high, count).map(Math.log10);
  const found = [];
  for (let decade = Math.floor(low); decade <= high; decade++) {
    for (const digit of high - low < 3 ? [1, 2, 5] : [1]) found.push(decade + Math.log10(digit));
  }
  return found.filter(at => at >= low && at <= high);
}

function format(value) {
  const size = Math.abs(value);
  if (size >= 1e9) return +(value / 1e9).toPrecision(3) + "G";
  if (size >= 1e6) return +(value / 1e6).toPrecision(3) + "M";
  if (size >= 1e4) return +(value / 1e3).toPrecision(3) + "k";
  if (size > 0 && size < 1e-3) return value.toExponential(1).replace(".0e", "e");
  return String(+value.toPrecision(4));
}

/** A chart in a figure of its own, with a caption that reads the values under the pointer. */
class Chart {
  constructor(title) {
    this.figure = document.createElement("figure");
    this.figure.innerHTML = "<figcaption><span></span><output></output></figcaption><canvas></canvas>";
    this.figure.querySelector("span").textContent = title;
    this.output = this.figure.querySelector("output");
    this.canvas = this.figure.querySelector("canvas");
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", title);
    this.curves = [];
    this.canvas.addEventListener("pointermove", event => this.read(event));
    this.canvas.addEventListener("pointerleave", () => { this.pointer = null; this.output.textContent = ""; this.draw(); });
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  /** curves: {name, colour, points, dashed}; marks: {x, colour, text}. */
  show(curves, marks, options) {
    Object.assign(this, { curves, marks, options });
    this.draw();
  }

  draw() {
    const { width, height } = this.canvas.getBoundingClientRect();
    const scale = window.devicePixelRatio || 1;
    if (!width || !this.curves.length) return;
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    const c = this.canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    const ink = name => style.getPropertyValue(name).trim();
    c.scale(scale, scale);
    c.font = "11px system-ui, sans-serif";
    const inner = { w: width - MARGIN.left - MARGIN.right, h: height - MARGIN.top - MARGIN.bottom };
    const log = this.options.log && this.curves.every(one => one.points.every(([, y]) => y > 0));
    const value = y => log ? Math.log10(y) : y;
    const drawn = this.curves.map(one => {
      // Evaluations are few, and a schedule is exact: neither is smoothed.
      const plain = one.dashed || one.exact, line = plain ? one.points : smooth(one.points, this.options.smoothing);
      return { ...one, line: thin(line, inner.w), raw: plain ? [] : thin(one.points, inner.w) };
    });
    const xs = drawn.flatMap(one => [one.points[0][0], one.points.at(-1)[0]]);
    const all = drawn.flatMap(one => [...one.line, ...one.raw].map(([, y]) => value(y))).sort((a, b) => a - b);
    let [low, high] = this.options.outliers && all.length > 50 ? [quantile(all, 0.01), quantile(all, 0.99)] : [all[0], all.at(-1)];
    // Where a curve has come to is no outlier, and a validation loss is often the lowest of all.
    const last = drawn.map(one => value(one.line.at(-1)[1]));
    [low, high] = [Math.min(low, ...last), Math.max(high, ...last)];
    if (!(high > low)) [low, high] = [low - Math.abs(low || 1) * 0.05, high + Math.abs(high || 1) * 0.05];
    const room = (high - low) * 0.04;
    [low, high] = [low - room, high + room];
    const x0 = Math.min(...xs), x1 = Math.max(...xs) > x0 ? Math.max(...xs) : x0 + 1;
    const px = x => MARGIN.left + (x - x0) / (x1 - x0) * inner.w;
    const py = y => MARGIN.top + (high - value(y)) / (high - low) * inner.h;
    this.place = { px, py, x0, x1, inner };

    c.strokeStyle = ink("--grid");
    c.fillStyle = ink("--quiet");
    c.textBaseline = "middle";
    c.textAlign = "right";
    for (const at of (log ? logTicks : ticks)(low, high, 5)) {
      const y = MARGIN.top + (high - at) / (high - low) * inner.h;
      c.beginPath(); c.moveTo(MARGIN.left, y); c.lineTo(width - MARGIN.right, y); c.stroke();
      c.fillText(format(log ? 10 ** at : at), MARGIN.left - 6, y);
    }
    c.textBaseline = "top";
    c.textAlign = "center";
    for (const at of ticks(x0, x1, Math.max(2, inner.w / 70))) c.fillText(format(at), px(at), height - MARGIN.bottom + 8);

    c.save();
    c.beginPath(); c.rect(MARGIN.left, 0, inner.w + MARGIN.right, height - MARGIN.bottom); c.clip();
    for (const mark of this.marks.filter(({ x }) => x >= x0 && x <= x1)) {
      const at = px(mark.x), fits = at + 4 + c.measureText(mark.text).width <= width;
      c.strokeStyle = mark.colour; c.setLineDash([2, 3]);
      c.beginPath(); c.moveTo(at, MARGIN.top); c.lineTo(at, height - MARGIN.bottom); c.stroke();
      c.setLineDash([]);
      c.fillStyle = mark.colour; c.textAlign = fits ? "left" : "right"; c.fillText(mark.text, fits ? at + 4 : at - 4, MARGIN.top);
    }
    const path = (points, colour, width, alpha) => {
      c.strokeStyle = colour; c.lineWidth = width; c.globalAlpha = alpha;
      c.beginPath();
      points.forEach(([x, y], i) => i ? c.lineTo(px(x), py(y)) : c.moveTo(px(x), py(y)));
      c.stroke();
      c.globalAlpha = 1;
    };
    for (const one of drawn) {
      if (this.options.smoothing > 0) path(one.raw, one.colour, 1, 0.25);
      c.setLineDash(one.dashed ? [5, 3] : []);
      path(one.line, one.colour, 1.8, 1);
      c.setLineDash([]);
      if (one.dashed || one.points.length === 1) {
        c.fillStyle = one.colour;
        for (const [x, y] of one.line) { c.beginPath(); c.arc(px(x), py(y), 2.5, 0, 2 * Math.PI); c.fill(); }
      }
    }
    if (this.pointer != null) {
      c.strokeStyle = ink("--quiet"); c.lineWidth = 1;
      c.beginPath(); c.moveTo(px(this.pointer), MARGIN.top); c.lineTo(px(this.pointer), height - MARGIN.bottom); c.stroke();
    }
    c.restore();
  }

  /** Show the values nearest to the pointer. */
  read(event) {
    if (!this.place) return;
    const { x0, x1, inner } = this.place, box = this.canvas.getBoundingClientRect();
    const wanted = x0 + (event.clientX - box.left - MARGIN.left) / inner.w * (x1 - x0);
    const nearest = points => points.reduce((best, one) => Math.abs(one[0] - wanted) < Math.abs(best[0] - wanted) ? one : best);
    const found = this.curves.map(one => [one, nearest(one.points)]);
    this.pointer = found[0][1][0];
    const several = this.curves.length > 1;
    this.output.textContent = `${format(this.pointer)}: ` + found.map(([one, [, y]]) => (several ? `${one.name} ` : "") + format(y)).join(", ");
    this.draw();
  }
}
