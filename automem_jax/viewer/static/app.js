"use strict";
// Puts the parts together: what is open, where in time it is, keys, links, and playing.
class App {
  constructor(source) {
    this.source = source;
    this.lanes = [];
    this.t = 0;
    this.speed = 4;
    this.stage = document.getElementById("stage");
    this.makeBar();
    this.makeTransport();
    this.side = new Sidebar(this, document.getElementById("side"));
    this.help = this.makeHelp();
    document.body.append(this.help);
    document.addEventListener("keydown", (event) => this.key(event));
    window.addEventListener("hashchange", () => { if (location.hash !== this.written) this.fromHash(); });
  }

  // The episode in front: the one that events, search and lineage speak of.
  get lane() {
    return this.lanes[0] || null;
  }

  get length() {
    return Math.max(1, ...this.lanes.map((lane) => lane.data.total));
  }

  async start() {
    let runs;
    try {
      runs = await this.source.runs();
    } catch (error) {
      dom.fill(this.stage, dom.text("p", "hint bad", `No episodes: ${error.message}`));
      return;
    }
    this.rows = runs.episodes;
    dom.fill(this.title, dom.visible(runs.title));
    document.title = dom.visible(`${runs.title} · automem view`);
    this.side.setRows(runs.episodes, runs.of || 0);
    if (!this.rows.length) {
      dom.fill(this.stage, dom.h("p", { class: "hint" }, "There are no traces here yet. They appear as soon as a rollout begins; reload then."));
      return;
    }
    if (!this.fromHash()) this.open(this.rows[0].id);
  }

  // --- what is open -----------------------------------------------------------------------------

  open(id) {
    this.show([id], 0);
    document.body.classList.remove("side-open");
  }

  // Shows these episodes side by side, at place t.
  show(ids, t) {
    const wanted = ids.map((id) => this.rows.find((row) => row.id === id)).filter(Boolean).slice(0, 3);
    if (!wanted.length) return false;
    this.pause();
    const kept = new Map(this.lanes.map((lane) => [lane.row.id, lane]));
    this.lanes = wanted.map((row) => kept.get(row.id) || new Lane(this, this.source, row));
    for (const [, lane] of kept) if (!this.lanes.includes(lane)) lane.close();
    dom.fill(this.stage, this.lanes.map((lane) => lane.element));
    this.stage.dataset.lanes = this.lanes.length;
    this.wanted = t;
    for (const lane of this.lanes) {
      lane.closer.hidden = this.lanes.length === 1;
      if (!kept.has(lane.row.id)) lane.open().then(() => { if (this.lanes.includes(lane)) lane.show(this.t, true); });
    }
    this.side.markEpisode(true);
    this.side.showLine(null);
    this.move(t);
    if (this.side.current === "events") this.side.drawEvents();
    if (this.side.query.value) this.side.search();
    return true;
  }

  close(lane) {
    this.show(this.lanes.filter((other) => other !== lane).map((other) => other.row.id), this.t);
  }

  // A lane learnt more of its episode.
  changed(lane) {
    const total = this.length;
    this.lanes.forEach((other) => other.timeline.set(other.data, total));
    this.slider.max = String(Math.max(total - 1, this.wanted || 0));
    if (lane.data.complete) {
      if (this.lanes.every((other) => other.data.complete)) this.wanted = 0;
      if (this.t > this.length - 1) this.move(this.length - 1);
      else if (lane.at >= lane.data.steps) lane.show(this.t, true);
      this.slider.max = String(total - 1);
    }
    if (lane === this.lane && this.side.current === "events") this.side.drawEvents();
    this.drawTransport();
  }

  // --- time -------------------------------------------------------------------------------------

  goto(t) {
    this.wanted = 0;
    return this.move(t);
  }

  move(t) {
    const last = Math.max(this.length - 1, this.wanted || 0);
    this.t = Math.max(0, Math.min(last, t));
    this.drawTransport();
    const shown = Promise.all(this.lanes.map((lane) => (lane.data.header ? lane.show(this.t) : null)));
    this.side.markEvent();
    this.writeHash();
    return shown;
  }

  // To the next step, or the one before, where something of a kind happened.
  seek(kind, direction) {
    const { lane } = this;
    if (!lane) return;
    for (let t = this.t + direction; t >= 0 && t < lane.data.length; t += direction) {
      if (Sidebar.happened(lane.data, kind, t)) {
        this.goto(t);
        return;
      }
    }
    this.tell(`No ${direction > 0 ? "later" : "earlier"} step with ${kind}`);
  }

  play() {
    if (this.playing) return;
    if (this.t >= this.length - 1) this.goto(0);
    this.playing = true;
    this.drawTransport();
    const tick = async () => {
      if (!this.playing) return;
      const begun = performance.now();
      await this.goto(this.t + 1);
      if (this.t >= this.length - 1) {
        this.pause();
        return;
      }
      this.timer = setTimeout(tick, Math.max(0, 1000 / this.speed - (performance.now() - begun)));
    };
    this.timer = setTimeout(tick, 1000 / this.speed);
  }

  pause() {
    this.playing = false;
    clearTimeout(this.timer);
    this.drawTransport();
  }

  // The first step at which the episodes on the stage acted differently; -1 if there is none.
  difference() {
    if (this.lanes.length < 2) return -1;
    const steps = this.lanes.map((lane) => lane.data.steps);
    const most = Math.max(...steps);
    for (let t = 0; t < most; t += 1) {
      const actions = new Set(this.lanes.map((lane) => (t < lane.data.steps ? lane.data.actionAt(t) : null)));
      if (actions.size > 1) return t;
    }
    return -1;
  }

  // --- bar, transport, help -----------------------------------------------------------------------

  makeBar() {
    this.title = dom.h("span", { class: "workdir" });
    this.compareMenu = dom.h("div", { class: "menu", id: "compare-menu", popover: "auto", role: "dialog",
      "aria-label": "Compare with" });
    const compare = dom.button("Compare with another run (c)", { id: "compare", class: "labelled", onclick: () => this.compare() },
      dom.icon("compare"), dom.h("span", {}, "Compare"));
    dom.append(document.getElementById("bar"), [
      dom.button("Episodes, events, search", { id: "menu", class: "icon-button",
        onclick: () => document.body.classList.toggle("side-open") }, dom.icon("menu")),
      dom.h("h1", {}, dom.h("span", { class: "brand" }, "automem"), this.title),
      dom.h("span", { class: "space" }), compare,
      dom.button("Copy a link to this place (l)", { id: "link", class: "labelled", onclick: () => this.copyLink() },
        dom.icon("link"), dom.h("span", {}, "Copy link")),
      dom.button("Light or dark (t)", { id: "theme", class: "icon-button", onclick: () => App.switchTheme(this) }, dom.icon("theme")),
      dom.button("Keys (?)", { id: "keys", class: "icon-button", onclick: () => this.help.showModal() }, dom.icon("help")),
      this.compareMenu]);
  }

  makeTransport() {
    const step = (label, icon, move) => dom.button(label, { class: "icon-button", onclick: () => { this.pause(); move(); } }, dom.icon(icon));
    this.slider = dom.h("input", { type: "range", id: "slider", min: "0", max: "0", value: "0", "aria-label": "Step",
      oninput: () => {
        const t = Number(this.slider.value);
        this.pause();
        this.goto(t);
      } });
    this.player = dom.button("Play (space)", { id: "play", class: "icon-button primary", onclick: () => (this.playing ? this.pause() : this.play()) });
    this.place = dom.h("input", { id: "place", type: "text", inputmode: "numeric", "aria-label": "Go to step", value: "0",
      onchange: () => { this.goto(parseInt(this.place.value, 10) || 0); this.place.blur(); } });
    this.total = dom.h("span", { class: "quiet total" });
    this.pace = dom.h("select", { id: "speed", "aria-label": "Steps a second", onchange: () => { this.speed = Number(this.pace.value); } },
      [1, 4, 12, 40].map((speed) => dom.h("option", { value: speed, selected: speed === 4 }, `${speed}/s`)));
    this.divergence = dom.h("button", { type: "button", class: "small", hidden: true, onclick: () => this.goto(this.difference()) });
    dom.append(document.getElementById("transport"), [
      dom.h("div", { class: "buttons" },
        step("First step (Home)", "first", () => this.goto(0)), step("Step back (←)", "back", () => this.goto(this.t - 1)),
        this.player, step("Step on (→)", "next", () => this.goto(this.t + 1)),
        step("End (End)", "last", () => this.goto(this.length - 1))),
      this.slider,
      dom.h("div", { class: "where" }, this.place, this.total, this.pace),
      dom.h("div", { class: "finders" },
        dom.h("button", { type: "button", class: "small", id: "previous-failure", onclick: () => this.seek("failures", -1) }, "‹ failure"),
        dom.h("button", { type: "button", class: "small", id: "next-failure", onclick: () => this.seek("failures", 1) }, "failure ›"),
        dom.h("button", { type: "button", class: "small", onclick: () => this.seek("writes", 1) }, "write ›"),
        dom.h("button", { type: "button", class: "small", onclick: () => this.seek("progress", 1) }, "progress ›"),
        this.divergence)]);
    this.drawTransport();
  }

  drawTransport() {
    this.slider.max = String(Math.max(this.length - 1, this.wanted || 0));
    this.slider.value = String(this.t);
    const { lane } = this;
    const ended = lane && lane.data.end && this.t >= lane.data.steps;
    this.slider.setAttribute("aria-valuetext", ended ? "end" : `step ${this.t}`);
    if (document.activeElement !== this.place) this.place.value = String(this.t);
    dom.fill(this.total, `/ ${dom.count(this.length - 1)}`);
    dom.fill(this.player, dom.icon(this.playing ? "pause" : "play"));
    this.player.setAttribute("aria-label", this.playing ? "Pause (space)" : "Play (space)");
    const key = this.lanes.map((each) => `${each.row.id} ${each.data.steps}`).join();
    if (key !== this.compared) {
      this.compared = key;
      const t = this.difference();
      this.divergence.hidden = this.lanes.length < 2;
      this.divergence.disabled = t < 0;
      dom.fill(this.divergence, t < 0 ? "same actions" : `first difference: step ${t}`);
    }
  }

  makeHelp() {
    const keys = [["← →", "a step back, on"], ["Shift ← →", "ten steps"], ["Page Up, Page Down", "a hundred steps"],
      ["Home, End", "first step, end"], ["Space", "play, pause"], ["f, F", "next, previous failure"],
      ["w, W", "next, previous write to memory"], ["r, R", "next, previous read"], ["p, P", "next, previous progress"],
      ["/", "search"], ["e", "events"], ["c", "compare with another run"], ["1 2 3", "panel, where one shows at a time"],
      ["l", "copy a link to this place"], ["t", "light or dark"], ["?", "these keys"]];
    const dialog = dom.h("dialog", { id: "help", "aria-label": "Keys" }, dom.h("h2", {}, "Keys"),
      dom.h("dl", {}, keys.map(([key, what]) => [dom.h("dt", {}, key), dom.h("dd", {}, what)])),
      dom.h("button", { type: "button", onclick: () => dialog.close() }, "Close"));
    return dialog;
  }

  // --- comparing --------------------------------------------------------------------------------

  compare() {
    if (!this.lane) return;
    const own = this.lane.row;
    const open = new Set(this.lanes.map((lane) => lane.row.id));
    const others = this.rows.filter((row) => !open.has(row.id) && row.task === own.task && row.seed === own.seed);
    const items = others.slice(0, 200).map((row) => dom.h("button", { type: "button", class: "item", onclick: () => {
      this.compareMenu.hidePopover();
      this.show([...this.lanes.slice(0, 2).map((lane) => lane.row.id), row.id], this.t);
    } }, dom.text("b", "", row.run), dom.text("span", "quiet", `${row.template || row.name}`),
    dom.h("span", {}, row.running ? "running" : dom.percent(row.progression))));
    dom.fill(this.compareMenu, dom.h("h2", {}, `Same task and seed ${own.seed ?? ""}`),
      items.length ? items : dom.h("p", { class: "quiet" }, "No other run has played this seed."));
    this.compareMenu.showPopover();
    const first = this.compareMenu.querySelector("button");
    if (first) first.focus();
  }

  // --- lineage ----------------------------------------------------------------------------------

  async showLine(lane, id) {
    if (lane !== this.lane) {
      this.lanes = [lane, ...this.lanes.filter((other) => other !== lane)];
      this.side.markEpisode();
      dom.fill(this.stage, this.lanes.map((each) => each.element));
    }
    try {
      const line = (await lane.data.lines()).get(id);
      if (!line) throw new Error(`there is no line ${id}`);
      this.line = id;
      this.side.showLine(line, lane.data);
      this.side.tab("line");
      if (window.innerWidth < 760) document.body.classList.add("side-open");
      lane.memory.choose(id);
      lane.timeline.mark(line);
      this.writeHash();
    } catch (error) {
      this.tell(error.message);
    }
  }

  searchedFor(query, scope) {
    this.query = query;
    this.scope = scope;
    this.writeHash();
  }

  // --- links ------------------------------------------------------------------------------------

  hash() {
    const words = new URLSearchParams({ e: this.lanes.map((lane) => lane.row.id).join(","), t: String(this.t) });
    if (this.line !== undefined && this.line !== null) words.set("line", String(this.line));
    if (this.query) words.set("q", this.query);
    if (this.query && this.scope !== "all") words.set("in", this.scope);
    if (this.side && this.side.current !== "episodes") words.set("side", this.side.current);
    return `#${words}`;
  }

  writeHash() {
    clearTimeout(this.writing);
    this.writing = setTimeout(() => {
      this.written = this.hash();
      history.replaceState(null, "", this.written);
    }, 200); // browsers allow only so many a second
  }

  fromHash() {
    const words = new URLSearchParams(location.hash.slice(1));
    const ids = (words.get("e") || "").split(",").filter(Boolean);
    if (!ids.length) return false;
    const t = Math.max(0, parseInt(words.get("t"), 10) || 0);
    this.line = null;
    if (!this.show(ids, t)) {
      this.tell("The link's episode is not here");
      return false;
    }
    const query = words.get("q");
    if (query) {
      this.side.query.value = query;
      this.side.scope.value = words.get("in") || "all";
      this.side.search();
    }
    const side = words.get("side");
    if (this.side.buttons.has(side)) this.side.tab(side);
    const line = parseInt(words.get("line"), 10);
    if (line >= 0) this.showLine(this.lane, line);
    return true;
  }

  async copyLink() {
    this.written = this.hash();
    history.replaceState(null, "", this.written);
    try {
      await navigator.clipboard.writeText(location.href);
      this.tell("Link copied");
    } catch {
      this.tell("The link is in the address bar");
    }
  }

  // --- keys, theme, messages -----------------------------------------------------------------------

  key(event) {
    const field = event.target.closest("input:not([type=range], [type=checkbox]), select, textarea");
    if (event.altKey || event.ctrlKey || event.metaKey || field || this.help.open) return;
    const button = event.target.closest("button, summary, [role=listbox]");
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -100, PageDown: 100 };
    if (event.key in steps) {
      this.pause();
      this.goto(this.t + steps[event.key] * (event.shiftKey && event.key.startsWith("Arrow") ? 10 : 1));
    } else if (event.key === " " && !button) {
      if (this.playing) this.pause();
      else this.play();
    } else {
      const action = {
        Home: () => this.goto(0), End: () => this.goto(this.length - 1),
        f: () => this.seek("failures", 1), F: () => this.seek("failures", -1),
        w: () => this.seek("writes", 1), W: () => this.seek("writes", -1),
        r: () => this.seek("reads", 1), R: () => this.seek("reads", -1),
        p: () => this.seek("progress", 1), P: () => this.seek("progress", -1),
        "/": () => this.openSide("search", this.side.query), e: () => this.openSide("events", this.side.eventList.element),
        c: () => this.compare(), l: () => this.copyLink(), t: () => App.switchTheme(this), "?": () => this.help.showModal(),
        1: () => this.lanes.forEach((lane) => lane.tab("seen")), 2: () => this.lanes.forEach((lane) => lane.tab("talk")),
        3: () => this.lanes.forEach((lane) => lane.tab("memory")),
        Escape: () => document.body.classList.remove("side-open"),
      }[event.key];
      if (!action) return;
      action();
    }
    event.preventDefault();
  }

  openSide(name, focus) {
    document.body.classList.add("side-open");
    this.side.tab(name);
    focus.focus();
  }

  static switchTheme(app) {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try {
      localStorage.setItem("automem-theme", root.dataset.theme);
    } catch { /* a file may have no storage */ }
    if (app) app.lanes.forEach((lane) => lane.timeline.draw());
  }

  tell(words) {
    const toast = document.getElementById("toast");
    dom.fill(toast, dom.visible(words));
    toast.classList.add("shown");
    clearTimeout(this.telling);
    this.telling = setTimeout(() => toast.classList.remove("shown"), 2500);
  }
}

try {
  const theme = localStorage.getItem("automem-theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch { /* a file may have no storage */ }
const app = new App(PageSource.here() ? new PageSource() : new ServerSource());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => app.lanes.forEach((lane) => lane.timeline.draw()));
app.start();
