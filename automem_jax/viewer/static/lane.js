"use strict";
// One episode on the stage: who played, its timeline, and the panels of the step that is shown.
class Lane {
  // app: goto(t), showLine(lane, id), close(lane), changed(lane).
  constructor(app, source, row) {
    this.app = app;
    this.row = row;
    this.data = new EpisodeData(source, row, () => this.grown());
    const showLine = (id) => app.showLine(this, id);
    this.timeline = new Timeline((t) => app.goto(t));
    this.screen = new ScreenPanel(this.data, source, () => this.drawFacts());
    this.screen.again = () => this.show(this.at, true);
    this.talk = new ConversationPanel(showLine);
    this.memory = new MemoryPanel(showLine);
    this.facts = dom.h("div", { class: "facts" });
    this.outcome = dom.h("span", { class: "outcome" });
    this.closer = dom.button("Close this episode", { class: "icon-button", onclick: () => app.close(this) }, dom.icon("close"));
    const names = [["seen", "Seen"], ["talk", "Said"], ["memory", "Memory"]];
    this.tabs = dom.h("div", { class: "tabs", role: "group", "aria-label": "Panel" }, names.map(([name, title]) =>
      dom.h("button", { type: "button", "aria-pressed": "false", data: { panel: name }, onclick: () => this.tab(name) }, title)));
    this.panels = dom.h("div", { class: "panels" }, this.screen.element, this.talk.element, this.memory.element);
    this.element = dom.h("article", { class: "lane", "aria-label": dom.visible(row.name) },
      dom.h("header", {}, dom.h("h2", {}, dom.text("span", "run", row.run), dom.text("span", "name", Lane.title(row))),
        this.outcome, this.closer),
      this.timeline.element, this.facts, this.tabs, this.panels);
    this.at = -1;
    this.tab("seen");
    this.drawOutcome();
  }

  static title(row) {
    const task = row.task || row.env || row.name;
    return row.seed === undefined || row.seed === null ? task : `${task} · seed ${row.seed}`;
  }

  tab(name) {
    this.panels.dataset.panel = name;
    for (const button of this.tabs.children) {
      button.setAttribute("aria-pressed", String(button.dataset.panel === name));
    }
    if (name === "memory") this.memory.reveal();
  }

  async open() {
    try {
      await this.data.open();
    } catch (error) {
      this.fail(error);
    }
  }

  fail(error) {
    dom.fill(this.facts, dom.text("span", "notice bad", `This episode cannot be read: ${error.message}`));
  }

  grown() {
    this.drawOutcome();
    this.app.changed(this);
  }

  drawOutcome() {
    const end = this.data.end;
    const parts = [];
    if (end) {
      const tone = end.failed ? "bad" : end.progression > 0 ? "good" : "quiet";
      parts.push(dom.h("b", { class: tone }, dom.percent(end.progression)),
        dom.text("span", "", end.end_reason || "ended"), dom.plural(this.data.steps, "step"));
      if (end.error) parts.push(dom.text("span", "bad", end.error));
    } else if (this.data.complete) {
      parts.push(dom.h("b", { class: "live" }, "running"), `${dom.plural(this.data.steps, "step")} so far`);
    } else {
      parts.push(`reading… ${dom.count(this.data.steps)} steps`);
    }
    if (this.row.template) parts.push(dom.text("span", "quiet", this.row.template));
    if (this.data.problem) parts.push(dom.text("span", "bad", this.data.problem));
    dom.fill(this.outcome, parts.map((part) => (part instanceof Node ? part : dom.h("span", {}, part))));
  }

  // Shows place t: a step, or the end. Draws at once if the step is here, else when it has come.
  show(t, again = false) {
    if (t === this.at && !again) return Promise.resolve();
    this.at = t;
    this.timeline.place(t);
    if (this.data.complete && t >= this.data.steps) {
      this.showEnd();
      return Promise.resolve();
    }
    const ready = this.data.ready(t);
    if (ready) {
      this.draw(t, ready);
      this.prefetchSoon();
      return Promise.resolve();
    }
    this.panels.classList.add("waiting");
    this.fetching ||= this.fetch().finally(() => { this.fetching = null; });
    return this.fetching;
  }

  // Fetches what is wanted by now, one request at a time: places that were only passed are skipped.
  async fetch() {
    for (;;) {
      const t = this.at;
      if (this.data.complete && t >= this.data.steps) return;
      try {
        const found = await this.data.step(t);
        if (this.at === t) this.draw(t, found);
      } catch (error) {
        if (this.at === t) this.fail(error);
      }
      if (this.at === t || !this.panels.classList.contains("waiting")) break;
    }
    this.prefetchSoon();
  }

  prefetchSoon() {
    clearTimeout(this.soon);
    this.soon = setTimeout(() => this.data.prefetch(this.at), this.app.playing ? 0 : 120);
  }

  draw(t, { step, texts, chunk }) {
    this.panels.classList.remove("waiting");
    this.step = step;
    const before = t > 0 ? this.data.ready(t - 1) : null;
    this.screen.show(t, step.percept, texts, before && {
      long: before.texts[before.step.percept.long_text] || "", short: before.texts[before.step.percept.short_text] || "",
    });
    this.talk.show(step, texts);
    this.memory.show(memoryStates.around(chunk, t), step, texts);
    this.drawFacts();
  }

  showEnd() {
    const end = this.data.end;
    this.panels.classList.remove("waiting");
    this.step = null;
    if (!end) {
      dom.fill(this.facts, dom.h("span", { class: "quiet" }, "This episode has ended."));
      return;
    }
    if (end.percept) this.screen.show(this.data.steps, end.percept, end.texts, null);
    this.talk.showEnd(end);
    this.drawFacts();
    const last = this.data.steps - 1;
    if (last < 0) return;
    this.data.step(last).then(({ texts, chunk }) => {
      if (this.at <= last) return;
      const { after } = memoryStates.around(chunk, last);
      this.memory.show({ before: after, after }, null, texts);
    }).catch((error) => this.fail(error));
  }

  drawFacts() {
    const { data, at: t } = this;
    const ended = !this.step;
    const percept = ended ? (data.end && data.end.percept) || {} : this.step.percept;
    const flags = ended ? 0 : data.columns.flags[t] ?? 0;
    const parts = [dom.h("b", { class: "at" }, ended ? "end" : `step ${t}`)];
    if (percept.action) parts.push([dom.h("span", { class: "quiet" }, "after "), dom.text("b", "", percept.action)]);
    if (!ended) parts.push([dom.h("span", { class: "quiet" }, "then "), dom.text("b", "next-action", this.step.action)]);
    const reward = percept.reward || 0;
    parts.push([dom.h("span", { class: "quiet" }, "reward "), dom.h("b", { class: reward > 0 ? "good" : reward < 0 ? "bad" : "" }, dom.signed(reward))]);
    const gained = t > 0 ? (percept.progression || 0) - data.progressionAt(t - 1) : 0;
    parts.push([dom.h("span", { class: "quiet" }, "progression "), dom.percent(percept.progression || 0),
      gained > 1e-9 ? dom.h("b", { class: "good" }, ` +${dom.percent(gained)}`) : null]);
    const unlocked = data.unlockedAt(t);
    if (unlocked.length) parts.push(dom.text("span", "badge good", `unlocked ${unlocked.join(", ")}`));
    for (const [flag, words, tone] of FLAG_WORDS) {
      if (flags & flag) parts.push(dom.h("span", { class: `badge ${tone}` }, words));
    }
    if (ended && data.end) parts.push(dom.text("span", data.end.failed ? "badge bad" : "badge", data.end.end_reason));
    dom.fill(this.facts, parts.map((part) => dom.h("span", { class: "fact" }, part)));
  }

  close() {
    this.data.close();
    this.element.remove();
  }
}
