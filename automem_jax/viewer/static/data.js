"use strict";
// What happened in a step, as bits; records.py names the same.
const FLAGS = { call: 1, operation: 2, fallback: 4, unknown: 8, environment: 16, rejected: 32, repaired: 64,
  unproductive: 128 };
const FAILURE = FLAGS.call | FLAGS.operation | FLAGS.fallback | FLAGS.unknown | FLAGS.environment;
const FLAG_WORDS = [
  [FLAGS.call, "model call failed", "bad"],
  [FLAGS.operation, "operation failed", "bad"],
  [FLAGS.fallback, "fallback action", "bad"],
  [FLAGS.unknown, "unknown action", "bad"],
  [FLAGS.environment, "environment broke", "bad"],
  [FLAGS.rejected, "guard rejected", "warn"],
  [FLAGS.repaired, "action mended", "warn"],
  [FLAGS.unproductive, "no effect", "quiet"],
];

// One episode: its columns, which grow while it is being read, and its steps by chunks.
class EpisodeData {
  constructor(source, row, grown) {
    this.source = source;
    this.row = row;
    this.id = row.id;
    this.grown = grown; // called when steps were added or the end became known
    this.columns = { action: [], reward: [], progression: [], flags: [], writes: [], reads: [], lines: [] };
    this.actions = [];
    this.steps = 0;
    this.end = null;
    this.problem = null;
    this.complete = false; // all that the file holds by now is known
    this.unlocked = new Map(); // achievement -> its step, as far as the game was played again
    this.chunks = new Map();
    this.arrived = new Map();
    this.closed = false;
  }

  // Places in time that are known by now: every step, and the end where there is one.
  get length() {
    return this.steps + (this.end ? 1 : 0);
  }

  // Places that there will be when all is read.
  get total() {
    const told = this.complete || this.row.steps === null ? 0 : this.row.steps + 1;
    return Math.max(this.length, told);
  }

  async open() {
    const about = await this.source.about(this.id);
    this.header = about.header;
    this.chunkSteps = about.chunk_steps;
    this.follow();
  }

  async follow() {
    while (!this.closed) {
      let summary;
      try {
        summary = await this.source.summary(this.id, this.steps);
      } catch (error) {
        this.problem = String(error.message || error);
        this.complete = true;
        this.grown(this);
        return;
      }
      const before = this.steps;
      for (const name in this.columns) {
        for (const value of summary.columns[name]) this.columns[name].push(value);
      }
      this.actions = summary.actions;
      this.steps = summary.steps;
      this.end = summary.end;
      this.problem = summary.problem;
      this.complete = !summary.reading;
      if (before % this.chunkSteps) this.forget(Math.floor(before / this.chunkSteps));
      if (this.steps > before || this.complete) this.grown(this);
      if (this.end || this.problem) return;
      await new Promise((done) => setTimeout(done, summary.reading ? 150 : 3000));
    }
  }

  forget(number) {
    const chunk = this.arrived.get(number);
    if (chunk && chunk.steps.length < this.chunkSteps) {
      this.chunks.delete(number);
      this.arrived.delete(number);
    }
  }

  chunk(number) {
    let chunk = this.chunks.get(number);
    if (chunk) {
      this.chunks.delete(number); // and back in, as the newest
    } else {
      chunk = this.source.chunk(this.id, number).then((found) => {
        this.arrived.set(number, found);
        return found;
      });
      chunk.catch(() => this.chunks.delete(number));
    }
    this.chunks.set(number, chunk);
    while (this.chunks.size > 16) {
      const oldest = this.chunks.keys().next().value;
      this.chunks.delete(oldest);
      this.arrived.delete(oldest);
    }
    return chunk;
  }

  // A step that is here already, or null.
  ready(t) {
    const chunk = this.arrived.get(Math.floor(t / this.chunkSteps));
    const step = chunk && chunk.steps[t - chunk.first];
    return step ? { step, texts: chunk.texts, chunk } : null;
  }

  async step(t) {
    const chunk = await this.chunk(Math.floor(t / this.chunkSteps));
    const step = chunk.steps[t - chunk.first];
    if (!step) throw new Error(`step ${t} is not there yet`);
    return { step, texts: chunk.texts, chunk };
  }

  // Has the neighbours at hand before they are wanted.
  prefetch(t) {
    const number = Math.floor(t / this.chunkSteps);
    const last = Math.floor((this.steps - 1) / this.chunkSteps);
    for (const other of [number + 1, number - 1]) {
      if (other >= 0 && other <= last && !this.chunks.has(other)) this.chunk(other).catch(() => {});
    }
  }

  lines() {
    if (!this.table || this.table.steps !== this.steps) {
      this.table = this.source.lines(this.id).then((found) => {
        const byId = new Map(found.lines.map((line) => [line.id, line]));
        return byId;
      });
      this.table.steps = this.steps;
      this.table.catch(() => { this.table = null; });
    }
    return this.table;
  }

  // Names of what was unlocked by the percept of place t.
  unlockedAt(t) {
    return [...this.unlocked].filter(([, step]) => step === t).map(([name]) => name.replaceAll("_", " "));
  }

  actionAt(t) {
    return this.actions[this.columns.action[t]];
  }

  // Progression that the percept of place t shows; the last place is the end.
  progressionAt(t) {
    if (t < this.steps) return this.columns.progression[t];
    return this.end ? this.end.progression : 0;
  }

  rewardAt(t) {
    if (t < this.steps) return this.columns.reward[t];
    return (this.end && this.end.percept && this.end.percept.reward) || 0;
  }

  close() {
    this.closed = true;
  }
}

// Files after a step: name -> Map of line id -> text number, from a chunk's snapshot and its changes.
const memoryStates = (() => {
  function start(chunk) {
    return new Map(Object.entries(chunk.memory).map(([name, lines]) => [name, new Map(lines)]));
  }

  function apply(files, change) {
    if (change.op === "create") files.set(change.file, new Map());
    else if (change.op === "delete") files.delete(change.file);
    else if (change.op === "remove") change.ids.forEach((id) => files.get(change.file).delete(id));
    else if (change.op === "insert") {
      const lines = files.get(change.file);
      if (change.at === lines.size) change.lines.forEach(([id, text]) => lines.set(id, text));
      else {
        const rows = [...lines];
        rows.splice(change.at, 0, ...change.lines);
        files.set(change.file, new Map(rows));
      }
    }
  }

  let last = null; // the chunk, step and files of the answer before: the next one goes on from there

  // The files before a step and after it. What a step left untouched is the same Map in both.
  function around(chunk, t) {
    const goesOn = last && last.chunk === chunk && last.t < t;
    const files = goesOn ? last.files : start(chunk);
    for (const step of chunk.steps.slice(goesOn ? last.t + 1 - chunk.first : 0, t - chunk.first)) {
      step.memory.forEach((change) => apply(files, change));
    }
    const before = new Map(files);
    const step = chunk.steps[t - chunk.first];
    for (const name of new Set(step ? step.memory.map((change) => change.file) : [])) {
      if (files.has(name)) before.set(name, new Map(files.get(name)));
    }
    if (step) step.memory.forEach((change) => apply(files, change));
    last = { chunk, t, files };
    return { before, after: new Map(files) };
  }

  return { around };
})();
