"use strict";
// Where data comes from: the server, or the page itself where it was exported. Both answer alike.
class ServerSource {
  constructor() {
    this.canPlay = true; // pictures are made on demand
  }

  async ask(path) {
    const response = await fetch(path);
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error || response.statusText);
    return answer;
  }

  runs() { return this.ask("/api/runs"); }
  about(id) { return this.ask(`/api/trace/${id}`); }
  summary(id, from) { return this.ask(`/api/trace/${id}/summary?from=${from}`); }
  chunk(id, number) { return this.ask(`/api/trace/${id}/chunk/${number}`); }
  lines(id) { return this.ask(`/api/trace/${id}/lines`); }

  search(data, query, scope) {
    const words = new URLSearchParams({ q: query, in: scope });
    return this.ask(`/api/trace/${data.id}/search?${words}`);
  }

  // A picture's URL, to be revoked by the caller, and achievements: name -> step that unlocked it.
  async frame(id, step, signal) {
    const response = await fetch(`/api/trace/${id}/frame/${step}`, { signal });
    if (!response.ok) throw new Error((await response.json()).error);
    const achievements = JSON.parse(decodeURIComponent(response.headers.get("X-Achievements") || "{}"));
    return { url: URL.createObjectURL(await response.blob()), achievements };
  }
}

class PageSource {
  constructor() {
    this.canPlay = document.querySelector('script[id*="-frame-"]') !== null;
  }

  static here() {
    return document.getElementById("runs") !== null;
  }

  async unpack(name) {
    const block = document.getElementById(name);
    if (!block) throw new Error("this file does not hold it");
    const packed = Uint8Array.from(atob(block.textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  }

  runs() { return this.unpack("runs"); }
  about(id) { return this.unpack(`${id}-about`); }
  chunk(id, number) { return this.unpack(`${id}-chunk-${number}`); }
  lines(id) { return this.unpack(`${id}-lines`); }

  async summary(id, from) {
    const summary = await this.unpack(`${id}-summary`);
    if (from) for (const name in summary.columns) summary.columns[name].splice(0, from);
    return summary;
  }

  search(data, query, scope) { return searching.search(data, query, scope); }

  async frame(id, step) {
    const { png, achievements } = await this.unpack(`${id}-frame-${step}`);
    return { url: `data:image/png;base64,${png}`, achievements };
  }
}
