"use strict";
// What the agent saw: the map as a terminal shows it, or the game's own picture, and the texts.
class ScreenPanel {
  constructor(data, source, told) {
    this.data = data;
    this.source = source;
    this.told = told; // called when a picture brought the names of achievements
    this.mode = null;
    this.picture = dom.h("img", { class: "picture", alt: "", hidden: true });
    this.note = dom.h("p", { class: "quiet note", hidden: true });
    this.map = dom.h("div", { class: "terminal", tabindex: "0", role: "img" });
    this.modes = dom.h("div", { class: "modes", role: "group", "aria-label": "Show the game as" });
    this.texts = dom.h("div", { class: "texts" });
    this.element = dom.h("section", { class: "panel screen", "aria-label": "Observation" },
      dom.h("h3", {}, "Observation", this.modes),
      dom.h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Observation" },
        this.map, this.picture, this.note, this.texts));
  }

  get playable() {
    return this.source.canPlay && Boolean(this.data.header && this.data.header.env);
  }

  show(t, percept, texts, before) {
    const map = percept.map === undefined ? null : texts[percept.map];
    const mode = this.mode || (map ? "map" : "picture");
    this.drawModes(Boolean(map), mode);
    const long = percept.long_text === undefined ? "" : texts[percept.long_text];
    const short = percept.short_text === undefined ? "" : texts[percept.short_text];
    this.map.hidden = !(map && mode === "map");
    if (!this.map.hidden) this.drawMap(map, long, short);
    this.showPicture(t, mode === "picture" && this.playable);
    dom.fill(this.texts, this.part("What it read", long, before && before.long),
      this.part("Status", short, before && before.short));
  }

  drawModes(hasMap, mode) {
    const choices = [];
    if (hasMap) choices.push("map");
    if (this.playable) choices.push("picture");
    this.modes.hidden = choices.length < 2;
    const shown = `${choices} ${mode}`;
    if (this.shownModes === shown) return;
    this.shownModes = shown;
    dom.fill(this.modes, choices.map((name) => dom.h("button", {
      type: "button", "aria-pressed": String(name === mode),
      onclick: () => { this.mode = name; this.again(); },
    }, name)));
  }

  drawMap(map, long, short) {
    const message = (/^message:\n([\s\S]*?)\n\n/.exec(long) || ["", ""])[1];
    const rows = map.split("\n");
    const columns = Math.max(40, ...rows.map((row) => row.length));
    this.map.style.setProperty("--columns", columns);
    this.map.setAttribute("aria-label", `Map, ${rows.length} rows`);
    const status = [...short.matchAll(/^(Depth|HP|AC|XP|Gold|Hunger|Time): (.*)$/gm)]
      .map(([, name, value]) => `${name} ${value}`).join("  ");
    dom.fill(this.map,
      message ? dom.text("div", "message", message) : null,
      dom.h("pre", {}, rows.flatMap((row) => [...ScreenPanel.cells(row), "\n"])),
      status ? dom.text("div", "status", status) : null);
  }

  // Runs of a map's row that look alike.
  static *cells(row) {
    for (const [run, you, thing, creature, way] of
      row.matchAll(/(@)|([$*"!?/=+()[\]%_^`]+)|([a-zA-Z&;:'~]+)|([<>]+)|[^@$*"!?/=+()[\]%_^`a-zA-Z&;:'~<>]+/g)) {
      const kind = you ? "you" : thing ? "thing" : creature ? "creature" : way ? "way" : "";
      yield kind ? dom.text("span", kind, run) : dom.visible(run);
    }
  }

  part(title, text, before) {
    if (!text.trim()) return null;
    const known = before === undefined || before === null ? null : new Set(before.split("\n"));
    const rows = text.replace(/\n+$/, "").split("\n").map((row) => {
      const fresh = known && row.trim() && !known.has(row);
      return [fresh ? dom.text("mark", "", row) : dom.visible(row), "\n"];
    });
    return dom.h("div", { class: "text" }, dom.h("h4", {}, title), dom.h("pre", {}, rows));
  }

  showPicture(t, wanted) {
    clearTimeout(this.timer);
    if (this.abort) this.abort.abort();
    if (!wanted) {
      this.picture.hidden = this.note.hidden = true;
      return;
    }
    this.picture.classList.add("old");
    this.timer = setTimeout(async () => {
      this.abort = new AbortController();
      const { signal } = this.abort;
      const slow = setTimeout(() => this.tell("Playing the episode up to this step…"), 600);
      try {
        const { url, achievements } = await this.source.frame(this.data.id, t, signal);
        if (signal.aborted) return;
        this.picture.onload = () => { if (url.startsWith("blob:")) URL.revokeObjectURL(url); };
        this.picture.src = url;
        this.picture.alt = `The game at step ${t}`;
        this.picture.hidden = false;
        this.picture.classList.remove("old");
        this.note.hidden = true;
        for (const [name, step] of Object.entries(achievements)) this.data.unlocked.set(name, step);
        this.told();
      } catch (error) {
        if (error.name === "AbortError" || signal.aborted) return;
        this.picture.hidden = true;
        this.tell(`No picture: ${error.message}.`);
      } finally {
        clearTimeout(slow);
      }
    }, this.picture.hidden ? 0 : 40);
  }

  tell(words) {
    dom.fill(this.note, dom.visible(words));
    this.note.hidden = false;
  }
}
