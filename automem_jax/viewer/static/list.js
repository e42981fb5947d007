"use strict";
// A list of any length that keeps only the rows in sight in the page. Rows are of one height.
class VirtualList {
  // render(index, row) fills a row; activate(index) is a click or Enter on it.
  constructor({ label, rowHeight, render, activate, selectable }) {
    this.rowHeight = rowHeight;
    this.renderRow = render;
    this.activate = activate;
    this.selectable = selectable || (() => true);
    this.length = 0;
    this.selected = -1;
    this.rows = new Map();
    this.id = `list-${VirtualList.made = (VirtualList.made || 0) + 1}`;
    this.inner = dom.h("div", { class: "rows", role: "presentation" });
    this.element = dom.h(
      "div",
      { class: "virtual", role: "listbox", tabindex: "0", "aria-label": label,
        onscroll: () => this.draw(), onkeydown: (event) => this.key(event) },
      this.inner,
    );
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  set(length) {
    this.length = length;
    this.inner.style.height = `${length * this.rowHeight}px`;
    if (this.selected >= length) this.selected = -1;
    this.element.hidden = length === 0;
    this.rows.forEach((row) => row.remove());
    this.rows.clear();
    this.draw();
  }

  draw() {
    const top = this.element.scrollTop;
    const height = this.element.clientHeight || 400;
    const first = Math.max(0, Math.floor(top / this.rowHeight) - 6);
    const last = Math.min(this.length - 1, Math.ceil((top + height) / this.rowHeight) + 6);
    for (const [index, row] of this.rows) {
      if (index < first || index > last) {
        row.remove();
        this.rows.delete(index);
      }
    }
    for (let index = first; index <= last; index += 1) {
      if (!this.rows.has(index)) this.rows.set(index, this.make(index));
    }
  }

  make(index) {
    const choosable = this.selectable(index);
    const row = dom.h("div", {
      id: `${this.id}-${index}`,
      class: "row",
      role: choosable ? "option" : "presentation",
      "aria-setsize": choosable ? this.length : null,
      "aria-posinset": choosable ? index + 1 : null,
      "aria-selected": choosable ? String(index === this.selected) : null,
      onclick: choosable ? () => this.choose(index) : null,
    });
    row.style.top = `${index * this.rowHeight}px`;
    row.style.height = `${this.rowHeight}px`;
    this.renderRow(index, row);
    this.inner.append(row);
    return row;
  }

  choose(index) {
    this.select(index);
    this.activate(index);
  }

  // Marks a row and, unless told otherwise, brings it into sight; does not activate it.
  select(index, reveal = true) {
    const before = this.rows.get(this.selected);
    if (before) before.setAttribute("aria-selected", "false");
    this.selected = index;
    if (index >= 0 && reveal) this.reveal(index);
    const row = this.rows.get(index);
    if (row) row.setAttribute("aria-selected", "true");
    if (index >= 0 && row) this.element.setAttribute("aria-activedescendant", row.id);
    else this.element.removeAttribute("aria-activedescendant");
  }

  reveal(index) {
    const top = index * this.rowHeight;
    const { scrollTop, clientHeight } = this.element;
    if (top < scrollTop || top + this.rowHeight > scrollTop + clientHeight) {
      const near = Math.abs(top - scrollTop) < 2 * this.rowHeight
        || Math.abs(top + this.rowHeight - scrollTop - clientHeight) < 2 * this.rowHeight;
      const middle = top - (clientHeight - this.rowHeight) / 2;
      const edge = top < scrollTop ? top : top + this.rowHeight - clientHeight;
      this.element.scrollTop = near ? edge : middle;
    }
    this.draw();
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.element.clientHeight / this.rowHeight) - 1);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page,
      Home: -this.length, End: this.length };
    if (event.key === "Enter" && this.selected >= 0) {
      this.activate(this.selected);
    } else if (event.key in moves && !event.altKey && !event.ctrlKey && !event.metaKey) {
      const direction = Math.sign(moves[event.key]);
      let to = Math.max(0, Math.min(this.length - 1, this.selected + moves[event.key]));
      while (to > 0 && to < this.length - 1 && !this.selectable(to)) to += direction;
      if (this.selectable(to)) this.select(to);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
}
