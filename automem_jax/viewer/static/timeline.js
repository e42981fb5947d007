"use strict";
// An episode at a glance: progression, reward, memory operations and failures over its steps. The slider
// and the list of events say the same to those who do not see it.
class Timeline {
  // go(t) is called where it is clicked or dragged.
  constructor(go) {
    this.go = go;
    this.canvas = dom.h("canvas", { "aria-hidden": "true" });
    this.cursor = dom.h("div", { class: "cursor" });
    this.tip = dom.h("div", { class: "tip", hidden: true });
    this.plot = dom.h("div", {
      class: "plot", "aria-hidden": "true",
      onpointerdown: (event) => this.drag(event),
      onpointermove: (event) => this.move(event),
      onpointerup: () => { this.dragging = false; },
      onpointerleave: () => { this.tip.hidden = true; },
    }, this.canvas, this.cursor, this.tip);
    const names = ["progress", "reward", "writes", "reads", "failures"];
    this.element = dom.h("div", { class: "timeline", "aria-hidden": "true" },
      dom.h("div", { class: "tracks" }, names.map((name) => dom.h("span", { class: `track ${name}` }, name))),
      this.plot);
    this.at = 0;
    this.line = null;
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  set(data, total) {
    this.data = data;
    this.total = Math.max(1, total);
    this.draw();
  }

  // Shows where a line of memory lived and was read; null takes it away.
  mark(line) {
    this.line = line;
    this.draw();
  }

  place(t) {
    this.at = t;
    this.cursor.style.left = `${this.x(t + 0.5)}px`;
  }

  x(t) {
    return (t / this.total) * this.width;
  }

  step(event) {
    const box = this.plot.getBoundingClientRect();
    const t = Math.floor(((event.clientX - box.left) / box.width) * this.total);
    return Math.max(0, Math.min(this.total - 1, t));
  }

  drag(event) {
    this.dragging = true;
    this.plot.setPointerCapture(event.pointerId);
    this.go(this.step(event));
  }

  move(event) {
    if (!this.data) return;
    const t = this.step(event);
    if (this.dragging) this.go(t);
    const shown = t < this.data.steps ? `step ${t} · ${this.data.actionAt(t)}` : "end";
    dom.fill(this.tip, dom.visible(`${shown} · ${dom.percent(this.data.progressionAt(t))}`));
    this.tip.hidden = false;
    const left = Math.min(event.clientX - this.plot.getBoundingClientRect().left + 10, this.width - 150);
    this.tip.style.left = `${Math.max(0, left)}px`;
  }

  draw() {
    this.width = this.plot.clientWidth;
    const height = this.plot.clientHeight;
    if (!this.data || !this.width) return;
    const scale = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(this.width * scale);
    this.canvas.height = Math.round(height * scale);
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    const style = getComputedStyle(this.plot);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const rows = { progress: [0, 22], reward: [25, 39], writes: [43, 55], reads: [55, 67], failures: [71, 81] };
    pen.fillStyle = colour("rule");
    for (const y of [22, 40, 55, 69]) pen.fillRect(0, y, this.width, 1);
    const buckets = this.buckets();
    const most = Math.max(1, ...buckets.map((b) => Math.max(b.writes, b.reads)));
    const best = Math.max(1e-9, ...buckets.map((b) => Math.abs(b.reward)));
    const bar = (b, x0, x1, track, share, up) => {
      const [top, bottom] = rows[track];
      const size = Math.max(1.5, (bottom - top) * share);
      const wide = track === "progress" ? x1 - x0 : Math.max(1, Math.min(12, x1 - x0 - (x1 - x0 > 4 ? 1 : 0)));
      pen.fillRect((x0 + x1 - wide) / 2, up ? bottom - size : top, wide, size);
    };
    for (const b of buckets) {
      const [x0, x1] = [this.x(b.first), this.x(b.last)];
      if (b.progression > 0) {
        pen.fillStyle = colour("good");
        bar(b, x0, x1 + 1, "progress", b.progression, true);
      }
      if (b.reward) {
        pen.fillStyle = colour(b.reward > 0 ? "good" : "bad");
        bar(b, x0, x1, "reward", Math.abs(b.reward) / best, true);
      }
      if (b.writes) {
        pen.fillStyle = colour("write");
        bar(b, x0, x1, "writes", b.writes / most, true);
      }
      if (b.reads) {
        pen.fillStyle = colour("read");
        bar(b, x0, x1, "reads", b.reads / most, false);
      }
      if (b.failures) {
        pen.fillStyle = colour("bad");
        bar(b, x0, x1, "failures", 0.35 + 0.65 * (b.failures / (b.last - b.first)), true);
      } else if (b.flags & FLAGS.rejected) {
        pen.fillStyle = colour("warn");
        bar(b, x0, x1, "failures", 0.2, true);
      }
    }
    if (this.line) this.drawLine(pen, colour("accent"));
    this.place(this.at);
  }

  drawLine(pen, colour) {
    const line = this.line;
    const last = line.died === null ? this.data.steps : line.died;
    pen.fillStyle = colour;
    pen.fillRect(this.x(line.born), 67, Math.max(2, this.x(last) - this.x(line.born)), 3);
    for (const [t] of line.reads) pen.fillRect(this.x(t), 64, 2, 9);
  }

  // What happened, by columns of the plot that hold at least one step each.
  buckets() {
    const { data, total } = this;
    const { reward, progression, flags, writes, reads } = data.columns;
    const count = Math.min(total, Math.max(1, Math.floor(this.width / 2)));
    const found = [];
    for (let i = 0; i < count; i += 1) {
      const first = Math.floor((i * total) / count);
      const last = Math.floor(((i + 1) * total) / count);
      if (first >= data.length) break; // the rest is not read yet
      const b = { first, last, progression: 0, reward: 0, writes: 0, reads: 0, flags: 0, failures: 0 };
      for (let t = first; t < last && t < data.length; t += 1) {
        b.progression = Math.max(b.progression, data.progressionAt(t));
        b.reward += t < data.steps ? reward[t] : data.rewardAt(t);
        if (t >= data.steps) {
          if (data.end.failed) b.failures += 1;
          continue;
        }
        b.writes += writes[t];
        b.reads += reads[t];
        b.flags |= flags[t];
        if (flags[t] & FAILURE) b.failures += 1;
      }
      found.push(b);
    }
    return found;
  }
}
