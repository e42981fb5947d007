"use strict";
// Beside the stage: the episodes, the current one's events, the search, and a line's lineage.
class Sidebar {
  // app: open(id), goto(t), lane (the one in front), tell(words), searchedFor(query, scope).
  constructor(app, element) {
    this.app = app;
    this.rows = [];
    this.kinds = new Set(["failures", "progress"]);
    const names = [["episodes", "Episodes"], ["events", "Events"], ["search", "Search"], ["line", "Line"]];
    this.buttons = new Map(names.map(([name, title]) => [name, dom.h("button", {
      type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `view-${name}`, "aria-selected": "false",
      tabindex: "-1", onclick: () => this.tab(name) }, title)]));
    this.views = new Map(names.map(([name]) => [name, dom.h("div", {
      role: "tabpanel", id: `view-${name}`, class: "view", "aria-labelledby": `tab-${name}`, hidden: true })]));
    dom.append(element, [
      dom.h("div", { class: "side-tabs", role: "tablist", "aria-label": "Beside the episode",
        onkeydown: (event) => this.tabKey(event) }, [...this.buttons.values()]),
      ...this.views.values()]);
    this.makeEpisodes();
    this.makeEvents();
    this.makeSearch();
    this.showLine(null);
    this.tab("episodes");
  }

  tab(name) {
    this.current = name;
    for (const [other, button] of this.buttons) {
      button.setAttribute("aria-selected", String(other === name));
      button.tabIndex = other === name ? 0 : -1;
      this.views.get(other).hidden = other !== name;
    }
    if (name === "events") this.drawEvents();
  }

  tabKey(event) {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move) return;
    const names = [...this.buttons.keys()];
    this.tab(names[(names.indexOf(this.current) + move + names.length) % names.length]);
    this.buttons.get(this.current).focus();
    event.preventDefault();
    event.stopPropagation();
  }

  // --- episodes ---------------------------------------------------------------------------------

  makeEpisodes() {
    this.filter = dom.h("input", { type: "search", placeholder: "run, task, seed…", "aria-label": "Filter episodes",
      oninput: () => this.drawEpisodes() });
    this.onlyFailed = dom.h("input", { type: "checkbox", onchange: () => this.drawEpisodes() });
    this.counted = dom.h("p", { class: "quiet counted", role: "status" });
    this.list = new VirtualList({ label: "Episodes", rowHeight: 34,
      selectable: (index) => Boolean(this.shown[index] && this.shown[index].row),
      render: (index, element) => this.episode(this.shown[index], element),
      activate: (index) => this.app.open(this.shown[index].row.id) });
    dom.append(this.views.get("episodes"), [dom.h("div", { class: "filters" }, this.filter,
      dom.h("label", {}, this.onlyFailed, "failed")), this.counted, this.list.element]);
  }

  setRows(rows, of) {
    this.rows = rows;
    this.of = of;
    this.drawEpisodes();
  }

  drawEpisodes() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = this.rows.filter((row) => {
      if (this.onlyFailed.checked && !row.failed) return false;
      const text = `${row.run} ${row.name} ${row.task} ${row.template} ${row.arm} ${row.end_reason}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    this.shown = [];
    const runs = new Map();
    for (const row of chosen) {
      if (!runs.has(row.run)) runs.set(row.run, []);
      runs.get(row.run).push(row);
    }
    for (const [run, rows] of runs) {
      const done = rows.filter((row) => !row.running);
      const mean = done.length ? done.reduce((sum, row) => sum + (row.progression || 0), 0) / done.length : null;
      this.shown.push({ run, count: rows.length, mean });
      rows.forEach((row) => this.shown.push({ row }));
    }
    dom.fill(this.counted, `${dom.plural(chosen.length, "episode")} in ${dom.plural(runs.size, "run")}`,
      this.of > this.rows.length ? ` (of ${dom.count(this.of)} in the work directory)` : "");
    this.list.set(this.shown.length);
    this.markEpisode();
  }

  markEpisode(reveal = false) {
    const id = this.app.lane && this.app.lane.row.id;
    this.list.select(this.shown.findIndex((item) => item.row && item.row.id === id), reveal);
  }

  episode(item, element) {
    if (!item.row) {
      element.classList.add("group");
      dom.append(element, [dom.text("b", "", item.run), dom.h("span", { class: "quiet" },
        `${dom.count(item.count)} · mean ${dom.percent(item.mean)}`)]);
      return;
    }
    const { row } = item;
    const tone = row.running ? "live" : row.failed ? "bad" : row.progression > 0 ? "good" : "none";
    const state = row.running ? "running" : row.failed ? "failed" : dom.percent(row.progression);
    const name = row.seed === null || row.seed === undefined ? row.name : `seed ${row.seed}`;
    dom.append(element, [
      dom.h("span", { class: `dot ${tone}` }),
      dom.h("span", { class: "what" }, dom.text("span", "", name), dom.text("span", "quiet", ` ${row.task || row.env}`)),
      dom.h("span", { class: `result ${tone}` }, state),
      dom.h("span", { class: "quiet steps" }, row.steps === null ? "" : dom.count(row.steps))]);
    element.title = dom.visible(`${row.run}/${row.name} ${row.end_reason || ""}`);
  }

  // --- events -----------------------------------------------------------------------------------

  makeEvents() {
    const kinds = [["failures", "failures"], ["progress", "progress"], ["reward", "rewards"], ["guards", "guards"],
      ["writes", "writes"], ["reads", "reads"]];
    this.chips = new Map(kinds.map(([kind, title]) => [kind, dom.h("button", { type: "button", class: "chip",
      "aria-pressed": String(this.kinds.has(kind)), onclick: () => this.toggle(kind) }, title)]));
    this.eventList = new VirtualList({ label: "Events", rowHeight: 28,
      render: (index, element) => this.event(this.events[index], element),
      activate: (index) => this.app.goto(this.events[index].t) });
    this.noEvents = dom.h("p", { class: "quiet counted" });
    dom.append(this.views.get("events"), [dom.h("div", { class: "chips", role: "group", "aria-label": "Kinds of events" },
      [...this.chips.values()]), this.noEvents, this.eventList.element]);
    this.events = [];
  }

  toggle(kind) {
    this.kinds[this.kinds.has(kind) ? "delete" : "add"](kind);
    this.chips.get(kind).setAttribute("aria-pressed", String(this.kinds.has(kind)));
    this.drawEvents();
  }

  // Whether something of a kind happened at a place in time.
  static happened(data, kind, t) {
    if (t >= data.steps) {
      if (kind === "failures") return Boolean(data.end && data.end.failed);
      if (kind === "progress") return t > 0 && data.progressionAt(t) > data.progressionAt(t - 1);
      return kind === "reward" && data.rewardAt(t) !== 0;
    }
    const { flags, writes, reads, progression, reward } = data.columns;
    if (kind === "failures") return (flags[t] & FAILURE) !== 0;
    if (kind === "guards") return (flags[t] & (FLAGS.rejected | FLAGS.repaired)) !== 0;
    if (kind === "writes") return writes[t] > 0;
    if (kind === "reads") return reads[t] > 0;
    if (kind === "progress") return t > 0 && progression[t] > progression[t - 1];
    return reward[t] !== 0;
  }

  drawEvents() {
    const { lane } = this.app;
    this.events = [];
    if (lane) {
      for (let t = 0; t < lane.data.length; t += 1) {
        const kinds = [...this.kinds].filter((kind) => Sidebar.happened(lane.data, kind, t));
        if (kinds.length) this.events.push({ t, kinds });
      }
    }
    dom.fill(this.noEvents, this.events.length ? dom.plural(this.events.length, "step") : "None of these happened.");
    this.eventList.set(this.events.length);
    this.markEvent();
  }

  markEvent() {
    if (this.current !== "events") return;
    this.eventList.select(this.events.findIndex((event) => event.t === this.app.t));
  }

  event({ t, kinds }, element) {
    const { data } = this.app.lane;
    const words = [];
    const flags = data.columns.flags[t] || 0;
    for (const [flag, name, tone] of FLAG_WORDS) {
      const kind = flag & FAILURE ? "failures" : "guards";
      if (flags & flag && kinds.includes(kind) && tone !== "quiet") words.push([name, tone]);
    }
    if (t >= data.steps && kinds.includes("failures")) words.push(["episode failed", "bad"]);
    if (kinds.includes("progress")) {
      const names = data.unlockedAt(t).join(", ");
      words.push([dom.visible(names || `progress ${dom.percent(data.progressionAt(t))}`), "good"]);
    }
    if (kinds.includes("reward")) words.push([`reward ${dom.signed(data.rewardAt(t))}`, data.rewardAt(t) > 0 ? "good" : "bad"]);
    if (kinds.includes("writes")) words.push([dom.plural(data.columns.writes[t], "write"), "write"]);
    if (kinds.includes("reads")) words.push([dom.plural(data.columns.reads[t], "read"), "read"]);
    dom.append(element, [dom.h("span", { class: "number" }, t < data.steps ? t : "end"),
      dom.h("span", { class: "what" }, words.map(([word, tone]) => dom.h("span", { class: `word ${tone}` }, word))),
      dom.text("span", "quiet steps", t < data.steps ? data.actionAt(t) : "")]);
  }

  // --- search -----------------------------------------------------------------------------------

  makeSearch() {
    const scopes = [["all", "everywhere"], ["seen", "observations"], ["said", "replies"],
      ["operations", "operations"], ["memory", "lines added to memory"]];
    this.query = dom.h("input", { type: "search", "aria-label": "Search this episode", placeholder: "text in this episode",
      oninput: () => this.searchSoon(), onkeydown: (event) => { if (event.key === "Enter") this.search(); } });
    this.scope = dom.h("select", { "aria-label": "Search in", onchange: () => this.search() },
      scopes.map(([name, title]) => dom.h("option", { value: name }, title)));
    this.found = dom.h("p", { class: "quiet counted", role: "status" }, "Words in observations, replies, operations and memory.");
    this.hits = [];
    this.hitList = new VirtualList({ label: "Found", rowHeight: 66,
      render: (index, element) => this.hit(this.hits[index], element),
      activate: (index) => this.app.goto(this.hits[index][0]) });
    dom.append(this.views.get("search"), [dom.h("div", { class: "filters column" }, this.query, this.scope), this.found,
      this.hitList.element]);
    this.hitList.set(0);
  }

  searchSoon() {
    clearTimeout(this.soon);
    this.soon = setTimeout(() => this.search(), 200);
  }

  async search() {
    clearTimeout(this.soon);
    const { lane } = this.app;
    const [query, scope] = [this.query.value, this.scope.value];
    this.app.searchedFor(query, scope);
    const asked = this.asked = `${query}\n${scope}\n${lane && lane.row.id}`;
    if (!lane || !query) {
      this.hits = [];
      this.hitList.set(0);
      dom.fill(this.found, "Words in observations, replies, operations and memory.");
      return;
    }
    dom.fill(this.found, "Searching…");
    try {
      const { hits, more } = await lane.data.source.search(lane.data, query, scope);
      if (this.asked !== asked) return;
      this.hits = hits;
      dom.fill(this.found, hits.length ? `${dom.count(hits.length)}${more ? " and more" : ""} found` : "Nothing found.");
    } catch (error) {
      this.hits = [];
      dom.fill(this.found, dom.visible(error.message));
    }
    this.hitList.set(this.hits.length);
  }

  hit([t, place, before, found, after], element) {
    const flat = (text) => dom.visible(text.replace(/\s+/g, " "));
    const names = { seen: "observation", said: "reply", operations: "operation", memory: "memory" };
    element.classList.add("hit");
    dom.append(element, [
      dom.h("span", { class: "quiet" }, dom.h("b", {}, `step ${t}`), ` ${names[place]}`),
      dom.h("span", { class: "excerpt" }, flat(before.slice(-28)), dom.h("mark", {}, flat(found)), flat(after))]);
  }

  // --- lineage ----------------------------------------------------------------------------------

  showLine(line, data) {
    const view = this.views.get("line");
    if (!line) {
      dom.fill(view, dom.h("p", { class: "hint" }, "Choose a line of memory: who wrote it, who read it, and what followed."));
      return;
    }
    const jump = (t, words) => dom.h("button", { type: "button", class: "jump", onclick: () => this.app.goto(t) }, dom.visible(words ?? `step ${t}`));
    const phase = (name) => String(name).toUpperCase();
    const written = line.writer
      ? [jump(line.writer[0]), dom.visible(`, ${phase(line.writer[1])} turn ${line.writer[2] + 1}, by ${line.writer[3]}`)]
      : [jump(line.born), ", by the system"];
    const read = line.reads.length
      ? dom.h("ol", { class: "reads" }, line.reads.slice(0, 200).map(([t, name, turn]) => dom.h("li", {}, jump(t),
        dom.visible(`, ${phase(name)} turn ${turn + 1}`), this.followed(data, t))))
      : dom.h("p", { class: "quiet" }, "No operation returned it.");
    const spans = line.shown.slice(0, 100).map(([first, last]) => dom.h("li", {}, jump(first),
      last > first ? [" to ", jump(last)] : null));
    dom.fill(view, dom.h("div", { class: "lineage", tabindex: "0", role: "region", "aria-label": "Lineage of a line" },
      dom.text("code", "file-name", line.file), dom.text("pre", "", line.text || " "),
      dom.h("h4", {}, "Written"), dom.h("p", {}, written),
      dom.h("h4", {}, "Left memory"), dom.h("p", {}, line.died === null ? "never" : jump(line.died)),
      dom.h("h4", {}, "What followed"), dom.h("p", {}, this.afterwards(line, data)),
      dom.h("h4", {}, `Read by operations, ${dom.plural(line.reads.length, "time")}`), read,
      line.reads.length > 200 ? dom.h("p", { class: "quiet" }, "The first 200 are listed.") : null,
      dom.h("h4", {}, "Shown in the PLAN prompt"),
      spans.length ? dom.h("ol", { class: "reads" }, spans) : dom.h("p", { class: "quiet" }, "never")));
  }

  // What was done right after a read, and what came of it.
  followed(data, t) {
    if (t >= data.steps) return null;
    const reward = data.rewardAt(t + 1);
    const gained = data.progressionAt(t + 1) - data.progressionAt(t);
    return dom.h("div", { class: "quiet" }, dom.visible(`then ${data.actionAt(t)}`),
      reward ? `, reward ${dom.signed(reward)}` : "", gained > 1e-9 ? `, progression +${dom.percent(gained)}` : "");
  }

  afterwards(line, data) {
    const uses = [line.reads.length ? line.reads[0][0] : Infinity, line.shown.length ? line.shown[0][0] : Infinity];
    const first = Math.min(...uses);
    if (first === Infinity) return "It never came back to the agent.";
    const last = data.length - 1;
    const gained = data.progressionAt(last) - data.progressionAt(Math.min(first, last));
    const seen = uses[1] <= uses[0] ? "It first came back in a prompt" : "It was first read";
    return `${seen} ${dom.plural(first - line.born, "step")} after it was written; progression rose by ${dom.percent(Math.max(0, gained))} from there to the end.`;
  }
}
