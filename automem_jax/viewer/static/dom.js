"use strict";
// Builds elements. Text only ever becomes a text node, so nothing that a trace holds is interpreted.
const dom = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const ICONS = {
    menu: "M2 4h12M2 8h12M2 12h12",
    first: "M4 3v10M13 3 7 8l6 5z",
    back: "M10 3 4 8l6 5",
    next: "M6 3l6 5-6 5",
    last: "M12 3v10M3 3l6 5-6 5z",
    play: "M4.5 2.5 13 8l-8.5 5.5z",
    pause: "M5 3v10M11 3v10",
    link: "M6.5 9.5l3-3M7 4.5l1.5-1.5a3 3 0 0 1 4.5 4.5L11.5 9M9 11.5 7.5 13A3 3 0 0 1 3 8.5L4.5 7",
    theme: "M8 2a6 6 0 1 0 0 12zM8 2a6 6 0 0 1 0 12",
    help: "M6 6a2 2 0 1 1 3 1.8c-.7.4-1 .8-1 1.7M8 12.2v.1M8 1.5a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13z",
    compare: "M2 3h5v10H2zM9 3h5v10H9z",
    close: "M4 4l8 8M12 4l-8 8",
  };

  // A tag, its properties (on… are listeners, data is dataset, the rest attributes), its children.
  function h(tag, properties, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name === "data") Object.assign(element.dataset, value);
      else if (name === "class") element.className = value;
      else element.setAttribute(name, value === true ? "" : String(value));
    }
    append(element, children);
    return element;
  }

  function append(element, children) {
    for (const child of children.flat(Infinity)) {
      if (child === null || child === undefined || child === false) continue;
      element.append(child instanceof Node ? child : document.createTextNode(String(child)));
    }
  }

  function fill(element, ...children) {
    element.replaceChildren();
    append(element, children);
    return element;
  }

  function icon(name) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 16 16");
    svg.setAttribute("aria-hidden", "true");
    svg.setAttribute("class", "icon");
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", ICONS[name]);
    svg.append(path);
    return svg;
  }

  function button(label, properties, ...children) {
    return h("button", { type: "button", "aria-label": label, title: label, ...properties }, ...children);
  }

  // Control characters and marks that turn the direction of text, made visible.
  const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
  function visible(text) {
    return String(text ?? "").replace(HIDDEN, (character) => {
      const code = character.codePointAt(0);
      if (code < 0x20) return String.fromCodePoint(0x2400 + code);
      if (code === 0x7f) return "\u2421";
      return `\u27e8U+${code.toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
    });
  }

  // Text of a trace in an element of its own.
  function text(tag, className, content) {
    return h(tag, { class: className }, visible(content));
  }

  function percent(value) {
    if (value === null || value === undefined) return "–";
    const shown = 100 * value;
    return `${Number.isInteger(shown) || shown >= 10 ? Math.round(shown) : shown.toFixed(2)} %`;
  }

  function signed(value) {
    const shown = Math.round(value * 1000) / 1000;
    return shown > 0 ? `+${shown}` : String(shown).replace("-", "\u2212");
  }

  function count(number) {
    return Number(number).toLocaleString("en-US").replaceAll(",", "\u202f");
  }

  function plural(number, word) {
    return `${count(number)} ${word}${number === 1 ? "" : "s"}`;
  }

  return { h, fill, append, icon, button, visible, text, percent, signed, count, plural };
})();
