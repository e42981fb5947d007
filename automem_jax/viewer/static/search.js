"use strict";
// Search through the chunks of an exported page; the server's search gives the same answers.
const searching = (() => {
  const SCOPES = ["seen", "said", "operations", "memory"];
  const MOST_HITS = 1000;
  const EXCERPT = 60;

  // What was seen, said, operated, and put into memory in a step.
  function documents(step, texts) {
    const at = (number) => (number === undefined ? "" : texts[number]);
    const turns = step.phases.flatMap((phase) => phase.turns);
    const operated = turns.flatMap((turn) => turn.operations.map((operation) => {
      const args = operation.args.map(at).join("|");
      return `${operation.op}${operation.ok ? "" : " failed"} ${args}\n${at(operation.answer)}`;
    }));
    const lines = step.memory
      .filter((change) => change.op === "insert")
      .flatMap((change) => change.lines.map(([, text]) => `${change.file}: ${at(text)}`));
    return [
      `${at(step.percept.long_text)}\n${at(step.percept.short_text)}`,
      turns.map((turn) => at(turn.text)).join("\n"),
      operated.join("\n"),
      lines.join("\n"),
    ];
  }

  async function search(data, query, scope) {
    const wanted = query.toLowerCase();
    const hits = [];
    if (!wanted) return { hits, more: false };
    for (let t = 0; t < data.steps; t += 1) {
      const { step, texts } = await data.step(t);
      for (const [place, text] of documents(step, texts).entries()) {
        if (scope !== "all" && scope !== SCOPES[place]) continue;
        const at = text.toLowerCase().indexOf(wanted);
        if (at < 0) continue;
        if (hits.length === MOST_HITS) return { hits, more: true };
        const stop = at + query.length;
        // Characters are counted as the server does, and none is cut in two.
        const before = Array.from(text.slice(Math.max(0, at - 2 * EXCERPT), at)).slice(-EXCERPT);
        const after = Array.from(text.slice(stop, stop + 2 * EXCERPT)).slice(0, EXCERPT);
        hits.push([t, SCOPES[place], before.join(""), text.slice(at, stop), after.join("")]);
      }
    }
    return { hits, more: false };
  }

  return { documents, search, SCOPES };
})();
