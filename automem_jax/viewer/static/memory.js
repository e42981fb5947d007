"use strict";
// The memory files after a step: what was added and taken away, what was read, what the prompt showed.
class MemoryPanel {
  constructor(showLine) {
    this.showLine = showLine;
    this.folded = new Map(); // file -> whether it is folded, once it was touched
    this.whole = new Set(); // files that are shown to their last line
    this.drawn = new Map(); // file -> [what it was drawn from, its element], to draw only what changed
    this.body = dom.h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Memory files" });
    this.total = dom.h("span", { class: "quiet" });
    this.element = dom.h("section", { class: "panel memory", "aria-label": "Memory" },
      dom.h("h3", {}, "Memory", this.total), this.body);
    this.chosen = null;
  }

  show(states, step, texts) {
    this.last = [states, step, texts];
    const { before, after } = states;
    const wrote = new Set();
    const read = new Set();
    const shown = new Map();
    for (const phase of step ? step.phases : []) {
      if (phase.phase === "plan") {
        for (const [file, ranges] of Object.entries(phase.shown)) shown.set(file, ranges);
      }
      for (const turn of phase.turns) {
        for (const operation of turn.operations) {
          operation.wrote.forEach((id) => wrote.add(id));
          operation.read.forEach((id) => read.add(id));
        }
      }
    }
    const touched = new Set((step ? step.memory : []).map((change) => change.file));
    const names = [...after.keys(), ...[...before.keys()].filter((name) => !after.has(name))];
    const kept = new Map();
    let lines = 0;
    let changed = 0;
    const parts = names.map((name) => {
      const now = after.get(name);
      const rows = MemoryPanel.rows(touched.has(name) ? before.get(name) : now, now);
      const file = { name, rows, deleted: !now, lines: now ? now.size : 0,
        added: rows.filter((row) => row.state === "added").length,
        removed: rows.filter((row) => row.state === "removed").length };
      lines += file.lines;
      changed += file.added + file.removed;
      const marks = { wrote, read, ranges: shown.get(name) || [] };
      const key = this.key(file, marks);
      const drawn = this.drawn.get(name);
      const element = drawn && drawn[0] === key ? drawn[1] : this.file(file, texts, marks);
      kept.set(name, [key, element]);
      return element;
    });
    this.drawn = kept;
    if (!names.length) parts.push(dom.h("p", { class: "quiet" }, "No memory files."));
    dom.fill(this.total, `${dom.plural(names.length, "file")} · ${dom.plural(lines, "line")}`, changed ? ` · ${changed} changed` : "");
    const top = this.body.scrollTop;
    dom.fill(this.body, parts);
    this.body.scrollTop = top;
    this.reveal();
  }

  // Brings the first change into sight.
  reveal() {
    const first = this.body.querySelector(".added, .removed");
    if (first && first.offsetParent && !this.inSight(first)) first.scrollIntoView({ block: "center" });
  }

  // All that a file's element depends on; a line's text never changes.
  key(file, { wrote, read, ranges }) {
    const rows = file.rows.map((row) => `${row.id}${row.state[0]}${read.has(row.id) ? "r" : ""}${wrote.has(row.id) ? "w" : ""}`);
    const fold = `${this.folded.get(file.name)} ${this.whole.has(file.name)} ${file.deleted}`;
    const chosen = file.rows.some((row) => row.id === this.chosen) ? this.chosen : "";
    return `${fold} ${chosen} ${ranges} ${rows}`;
  }

  inSight(element) {
    const [outer, inner] = [this.body.getBoundingClientRect(), element.getBoundingClientRect()];
    return inner.top >= outer.top && inner.bottom <= outer.bottom;
  }

  // A file's lines with those taken away where they stood.
  static rows(before, after) {
    if (before === after || !before || !after) {
      const state = before === after ? "kept" : before ? "removed" : "added";
      return [...(after || before)].map(([id, text]) => ({ id, text, state }));
    }
    const rows = [];
    const old = [...before];
    let next = 0;
    const takeAway = () => {
      while (next < old.length && !after.has(old[next][0])) {
        rows.push({ id: old[next][0], text: old[next][1], state: "removed" });
        next += 1;
      }
    };
    for (const [id, text] of after) {
      takeAway();
      if (before.has(id)) {
        next += 1;
        rows.push({ id, text, state: "kept" });
      } else {
        rows.push({ id, text, state: "added" });
      }
    }
    takeAway();
    return rows;
  }

  file(file, texts, { wrote, read, ranges }) {
    const changed = file.added + file.removed > 0;
    const body = dom.h("ol", {});
    const details = dom.h("details", { class: "file" },
      dom.h("summary", {},
        dom.text("code", "", file.name), dom.h("span", { class: "quiet" }, file.deleted ? "deleted" : dom.count(file.lines)),
        file.added ? dom.h("span", { class: "delta good" }, `+${file.added}`) : null,
        file.removed ? dom.h("span", { class: "delta bad" }, `\u2212${file.removed}`) : null,
        file.rows.some((row) => read.has(row.id)) ? dom.h("span", { class: "delta read" }, "read") : null),
      body);
    const unfold = () => {
      if (body.firstChild) return;
      const limit = this.whole.has(file.name) ? Infinity : 150;
      const skip = Math.max(0, file.rows.length - limit);
      file.rows.forEach((row, place) => {
        if (place < skip && row.state === "kept" && !read.has(row.id)) return;
        body.append(this.row(row, texts, {
          by: row.state !== "added" ? "" : wrote.has(row.id) ? "agent" : "system",
          read: read.has(row.id),
          shown: ranges.some(([first, last]) => row.id >= first && row.id <= last),
        }));
      });
      if (skip) {
        body.prepend(dom.h("li", { class: "more" }, dom.h("button", { type: "button", class: "small",
          onclick: () => { this.whole.add(file.name); this.show(...this.last); } },
        `all ${dom.count(file.rows.length)} lines`)));
      }
      if (!file.rows.length) body.append(dom.h("li", { class: "quiet" }, "empty"));
    };
    const folded = this.folded.get(file.name);
    const open = changed || (folded === undefined ? file.lines <= 40 : !folded);
    if (open) {
      unfold();
      details.open = true;
    }
    details.firstChild.addEventListener("click", () => {
      this.folded.set(file.name, details.open);
      this.drawn.set(file.name, [this.key(file, { wrote, read, ranges }), details]);
    });
    details.addEventListener("toggle", () => { if (details.open) unfold(); });
    return details;
  }

  row(row, texts, { by, read, shown }) {
    const marks = [by && `by the ${by}`, row.state === "removed" && "removed", read && "read"].filter(Boolean);
    const chosen = this.chosen === row.id;
    const tag = { added: "ins", removed: "del", kept: "span" }[row.state];
    return dom.h("li", { class: `${row.state}${read ? " read" : ""}${shown ? " shown" : ""}${chosen ? " chosen" : ""}` },
      dom.h("button", { type: "button", class: "line", title: shown ? "in the PLAN prompt; show its lineage" : "show its lineage",
        onclick: () => this.showLine(row.id) },
      dom.text(tag, "", texts[row.text] || " ")),
      marks.length ? dom.h("span", { class: "marks" }, marks.join(" · ")) : null);
  }

  choose(id) {
    this.chosen = id;
    if (this.last) this.show(...this.last);
  }
}
