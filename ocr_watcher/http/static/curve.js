// The daemon's memory over time, against its two limits, with a mark at each start of the process.
import { draw, make, byId, mib, moment, put } from "./text.js";

const LEAST_S = 60;
const HEIGHT_PX = 170;
const [LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX] = [8, 8, 14, 20];

export class Curve {
  constructor() {
    this.box = byId("curve");
    this.span_s = 3600;
    this.step_s = 5;
    this.points = [];
    this.starts = [];
    this.limits = [null, null];
    this.now_s = Date.now() / 1000;
    this.width = 0;
    new ResizeObserver(([entry]) => {
      const width = Math.round(entry.contentRect.width);
      if (width === this.width || !width) return;
      this.width = width;
      this.show();
    }).observe(this.box);
  }

  /** All there is of a span, as `v1/memory` tells it. */
  set({ span_s, step_s, points, starts, now }) {
    Object.assign(this, { span_s, step_s, points, starts, now_s: now });
    this.show();
  }

  /** A figure more, MiB at a moment (s since 1970). */
  add(at_s, rss_mb) {
    const step = Math.floor(at_s / this.step_s) * this.step_s;
    const last = this.points.at(-1);
    if (last && step < last[0]) return;
    if (last && last[0] === step) last[1] = Math.max(last[1], rss_mb);
    else this.points.push([step, rss_mb]);
    this.pass(at_s);
  }

  /** It is that late. */
  pass(now_s) {
    this.now_s = Math.max(this.now_s, now_s);
    const since = this.now_s - this.span_s;
    while (this.points.length && this.points[0][0] < since) this.points.shift();
    this.starts = this.starts.filter(([at_s]) => at_s >= since);
    this.show();
  }

  limit(soft_mb, rss_mb) {
    this.limits = [soft_mb, rss_mb];
  }

  show() {
    if (!this.width || document.hidden) return;
    const [soft_mb, rss_mb] = this.limits;
    const highest = this.points.reduce((most, [, value]) => Math.max(most, value), 0);
    const top = Math.max(highest, rss_mb || 0, 100) * 1.08;
    const right = this.width - RIGHT_PX;
    const bottom = HEIGHT_PX - BOTTOM_PX;
    // What is shown begins with the first figure, so that the curve of a daemon that just started is to be seen.
    const known_s = this.now_s - (this.points[0]?.[0] ?? this.now_s);
    const span_s = Math.min(this.span_s, Math.max(LEAST_S, known_s * 1.03));
    const x = (at_s) => LEFT_PX + (1 - (this.now_s - at_s) / span_s) * (right - LEFT_PX);
    const y = (mb) => bottom - (mb / top) * (bottom - TOP_PX);
    const parts = [draw("line", { class: "axis", x1: LEFT_PX, x2: right, y1: bottom, y2: bottom })];
    for (const [kind, value, word] of [["warns", soft_mb, "warns at"], ["ends", rss_mb, "restarts at"]]) {
      if (!value) continue;
      const at = y(value);
      parts.push(
        draw("line", { class: `limit ${kind}`, x1: LEFT_PX, x2: right, y1: at, y2: at }),
        draw("text", { class: "label", x: LEFT_PX + 2, y: at - 4 }, `${word} ${mib(value)}`),
      );
    }
    const pieces = this.pieces();
    for (const piece of pieces) {
      const line = piece.map(([at_s, mb]) => `${x(Math.min(this.now_s, at_s + this.step_s)).toFixed(1)},${y(mb).toFixed(1)}`);
      const [from, to] = [line[0], line.at(-1)].map((point) => point.split(",")[0]);
      parts.push(
        draw("polygon", { class: "area", points: `${from},${bottom} ${line.join(" ")} ${to},${bottom}` }),
        draw("polyline", { class: "line", points: line.join(" ") }),
      );
    }
    const last = this.points.at(-1);
    if (last) parts.push(draw("circle", { class: "last", cx: x(Math.min(this.now_s, last[0] + this.step_s)), cy: y(last[1]), r: 3 }));
    for (const [at_s, reason] of this.starts) {
      const at = x(at_s);
      if (at < LEFT_PX) continue;
      parts.push(
        draw("g", { class: reason ? "start recycle" : "start" },
          draw("title", {}, startInWords(at_s, reason)),
          draw("line", { x1: at, x2: at, y1: TOP_PX, y2: bottom }),
          draw("path", { d: `M${at - 5},${bottom + 9} L${at + 5},${bottom + 9} L${at},${bottom + 1} Z` })),
      );
    }
    const began = new Date((this.now_s - span_s) * 1000);
    parts.push(
      draw("text", { class: "label", x: LEFT_PX, y: HEIGHT_PX - 5 }, moment(began)),
      draw("text", { class: "label end", x: right, y: HEIGHT_PX - 5 }, "now"),
    );
    const words = this.inWords(last?.[1], highest);
    this.box.replaceChildren(
      draw("svg", { role: "img", "aria-label": words, width: this.width, height: HEIGHT_PX,
        viewBox: `0 0 ${this.width} ${HEIGHT_PX}`, "data-points": this.points.length }, ...parts),
    );
    put(byId("curve-said"), words);
    byId("starts").replaceChildren(
      ...this.starts.filter(([, reason]) => reason).slice(-5).reverse().map(
        ([at_s, reason]) => put(make("li"), startInWords(at_s, reason)),
      ),
    );
  }

  /** The points in pieces: without a figure for a while, there is no line. */
  pieces() {
    const apart_s = Math.max(90, 2 * this.step_s);
    const pieces = [];
    let before = -Infinity;
    for (const point of this.points) {
      if (point[0] - before > apart_s) pieces.push([]);
      pieces.at(-1).push(point);
      [before] = point;
    }
    return pieces;
  }

  inWords(last, highest) {
    if (last === undefined) return "No memory figures yet";
    const recycles = this.starts.filter(([, reason]) => reason).length;
    const times = recycles === 1 ? "1 recycle" : `${recycles} recycles`;
    return `${mib(last)} of memory, ${mib(highest)} at its highest, ${times} in ${this.span_s === 3600 ? "the last hour" : "the last day"}`;
  }
}

function startInWords(at_s, reason) {
  const when = moment(at_s * 1000);
  return reason ? `${when}: started afresh on purpose: ${reason}` : `${when}: started`;
}
