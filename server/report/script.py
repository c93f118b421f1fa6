"""The page's one script: a click, or Enter or Space, on the head of a column sorts its table.

The script makes the buttons itself, so that a page on which it does not run has none that do nothing. A first click
sorts upwards, a second one downwards, a third one brings back the order in which the table was written; equal rows keep
the order that they have, so that two columns can be sorted one after the other. Cells are compared by their
``data-sort`` where they have one (``server.report.order``), else by their text: as numbers if all that are known are,
else as words. What is not known stays last.
"""

from __future__ import annotations

import base64
import hashlib

SCRIPT = """
(() => {
  "use strict";
  const NEXT = { none: "ascending", ascending: "descending", descending: "none" };
  const words = new Intl.Collator("en", { numeric: true });

  function key(row, column) {
    const cell = row.cells[column];
    return cell ? (cell.dataset.sort ?? cell.textContent).trim() : "";
  }

  function ordered(rows, column, sign) {
    const keys = new Map(rows.map((row) => [row, key(row, column)]));
    const known = rows.filter((row) => !["", "\\u2013"].includes(keys.get(row)));
    const numbers = known.every((row) => Number.isFinite(Number(keys.get(row))));
    const compare = numbers ? (one, other) => one - other : words.compare;
    const unknown = rows.filter((row) => !known.includes(row));
    return [...known.sort((one, other) => sign * compare(keys.get(one), keys.get(other))), ...unknown];
  }

  function sort(table, head, written) {
    const body = table.tBodies[0];
    const next = NEXT[head.getAttribute("aria-sort") ?? "none"];
    table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    if (next !== "none") head.setAttribute("aria-sort", next);
    const sign = next === "descending" ? -1 : 1;
    body.append(...(next === "none" ? written : ordered([...body.rows], head.cellIndex, sign)));
  }

  for (const table of document.querySelectorAll("table")) {
    const written = [...table.tBodies[0].rows];
    for (const head of written.length > 1 ? table.tHead.rows[0].cells : []) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, head, written));
      head.append(button);
    }
  }
})();
"""


def source_hash(script: str = SCRIPT) -> str:
    """The source of a Content-Security-Policy that lets a browser run ``script``, byte for byte, and nothing else."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
