"use strict";
// What was said: the LOG and PLAN conversations, replies with their operations marked, and results.
class ConversationPanel {
  // showLine(id): asks for a memory line's lineage.
  constructor(showLine) {
    this.showLine = showLine;
    this.open = new Set(); // kinds of prompts that were opened stay open from step to step
    this.body = dom.h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Conversation" });
    this.element = dom.h("section", { class: "panel talk", "aria-label": "Conversation" },
      dom.h("h3", {}, "Conversation"), this.body);
  }

  show(step, texts) {
    const parts = step.phases.map((phase) => this.phase(phase, texts));
    if (!step.phases.length) parts.push(dom.h("p", { class: "quiet" }, "Nothing was said in this step."));
    parts.push(this.action(step));
    dom.fill(this.body, parts);
    this.body.scrollTop = 0;
  }

  showEnd(end) {
    const rows = [["ended by", end.end_reason], ["progression", dom.percent(end.progression)],
      ["steps", dom.count(end.steps)], ["error", end.error]];
    for (const [name, value] of Object.entries(end.tokens || {})) rows.push([`${name} tokens`, value]);
    for (const [name, value] of Object.entries(end.memory_stats || {})) rows.push([name.replaceAll("_", " "), value]);
    dom.fill(this.body, dom.h("h4", {}, "How it ended"), dom.h("dl", { class: "figures" },
      rows.filter(([, value]) => value !== null && value !== undefined).map(([name, value]) => [
        dom.text("dt", "", name),
        dom.text("dd", "", typeof value === "number" ? dom.count(value) : value)])));
    this.body.scrollTop = 0;
  }

  phase(phase, texts) {
    const purpose = { log: "what of the last step is worth keeping", plan: "consult memory, then act" };
    const name = String(phase.phase);
    const cuts = phase.cuts.map((cut) =>
      dom.text("p", "quiet", `prompt cut: ${cut.slot}, ${cut.kept} of ${cut.of} characters kept`));
    return dom.h("section", { class: `phase ${name === "log" ? "log" : "plan"}` },
      dom.h("h4", {}, dom.text("b", "", name.toUpperCase()), dom.h("span", { class: "quiet" }, purpose[name])),
      cuts,
      phase.turns.map((turn, index) => this.turn(name, turn, index, texts)));
  }

  turn(phase, turn, index, texts) {
    const speaker = { memory: "memory model", gameplay: "gameplay model" }[turn.role] || turn.role;
    const prompts = turn.prompt
      .filter(([role]) => index === 0 || role !== "assistant")
      .map(([role, text]) => this.prompt(`${phase} ${index ? "next" : role}`, index ? "then told" : role, texts[text]));
    const reply = texts[turn.text];
    const problems = turn.errors
      .filter((error) => !turn.operations.some((operation) => operation.error === error));
    if (turn.error && !problems.includes(turn.error)) problems.push(turn.error);
    return dom.h("div", { class: `turn ${turn.role === "memory" ? "memory" : "gameplay"}` },
      prompts,
      dom.h("div", { class: "said" },
        dom.h("div", { class: "speaker" }, dom.text("span", "", speaker),
          dom.h("span", { class: "quiet" },
            `${dom.count(turn.prompt_tokens || 0)} → ${dom.count(turn.completion_tokens || 0)} tokens`,
            turn.finish_reason && turn.finish_reason !== "stop" ? dom.visible(` · ${turn.finish_reason}`) : "")),
        dom.h("pre", { class: "reply" }, reply ? this.marked(reply, turn.operations) : dom.h("i", {}, "nothing"))),
      turn.operations.length
        ? dom.h("ul", { class: "operations" }, turn.operations.map((operation) => this.operation(operation, texts)))
        : null,
      turn.stripped_action !== null && turn.stripped_action !== undefined
        ? dom.text("p", "notice warn", `action ${turn.stripped_action} stripped: none may be taken here`) : null,
      turn.rejected !== null && turn.rejected !== undefined
        ? dom.text("p", "notice warn", `guard sent ${turn.rejected} back`) : null,
      problems.map((error) => dom.text("p", "notice bad", error)));
  }

  prompt(kind, title, text) {
    const body = dom.h("pre", {});
    const details = dom.h("details", { class: "prompt" },
      dom.h("summary", {}, dom.text("span", "", title), dom.h("span", { class: "quiet" }, ` ${dom.count(text.length)} characters`)),
      body);
    const unfold = () => { if (!body.firstChild) body.append(dom.visible(text)); };
    if (this.open.has(kind)) {
      unfold();
      details.open = true;
    }
    details.addEventListener("toggle", () => {
      if (details.open) unfold();
      this.open[details.open ? "add" : "delete"](kind);
    });
    return details;
  }

  // A reply with each operation marked; places count code points, as Python does.
  marked(reply, operations) {
    const points = /[\ud800-\udbff]/.test(reply) ? Array.from(reply) : null;
    const cut = (from, to) => dom.visible(points ? points.slice(from, to).join("") : reply.slice(from, to));
    const parts = [];
    let at = 0;
    for (const operation of operations) {
      const { start, end } = operation;
      if (!(start >= at && end > start)) continue;
      parts.push(cut(at, start), dom.h("mark", { class: operation.ok ? "operation" : "operation bad" }, cut(start, end)));
      at = end;
    }
    parts.push(cut(at));
    return parts;
  }

  operation(operation, texts) {
    const words = [];
    if (!operation.ok) words.push(["failed", "bad"]);
    if (operation.redundant) words.push(["redundant", "warn"]);
    if (operation.empty) words.push(["empty", "warn"]);
    const lines = [...operation.wrote, ...operation.read];
    const kind = operation.wrote.length ? "write" : operation.read.length || operation.empty ? "read" : "";
    const answer = texts[operation.answer];
    return dom.h("li", {},
      dom.h("div", { class: "head" },
        dom.text("b", `op ${kind}`, operation.op),
        dom.text("code", "", operation.args.map((text) => texts[text]).join(" | ")),
        words.map(([word, tone]) => dom.h("span", { class: `badge ${tone}` }, word)),
        lines.length === 1 || operation.wrote.length
          ? dom.h("button", { type: "button", class: "small", onclick: () => this.showLine(lines[0]) }, "line")
          : null),
      answer ? dom.text("pre", operation.ok ? "answer" : "answer bad", answer) : null);
  }

  action(step) {
    const how = { repair: `mended from ${step.proposed}`, fallback: "fallback: the model gave none that could be used" };
    return dom.h("div", { class: "action" },
      dom.h("span", { class: "quiet" }, "action"), dom.text("b", "", step.action),
      how[step.source] ? dom.text("span", "quiet", how[step.source]) : null,
      step.errors.map((error) => dom.text("p", "notice bad", error)));
  }
}
