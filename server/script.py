"""The one script of a report: tables that sort, slices that scroll. Without it the page says the same, and holds still."""

import hashlib
from base64 import b64encode

SCRIPT = r"""
"use strict";
const UNITS = { B: 1, kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 };
const NUMBER = /([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([kMGT]?B\b)?/;
const NAMES = new Intl.Collator("en", { numeric: true });

// What a cell is sorted by: its first number, or its text; null where there is nothing, which always comes last.
function key(cell, numeric) {
  const moment = cell.querySelector("[data-at]"); // a moment of a page that is live: by its age
  if (moment) return -moment.dataset.at;
  const said = cell.textContent.trim();
  if (["", "-", "\u2013"].includes(said)) return null;
  if (!numeric) return said;
  const found = NUMBER.exec(said.replace("\u2212", "-"));
  return found && Number(found[1]) * (UNITS[found[2]] || 1);
}

function sort(body, column, numeric, sign) {
  const rows = Array.from(body.rows, (row) => [key(row.cells[column], numeric), row]);
  rows.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null)
    : sign * (numeric ? a - b : NAMES.compare(a, b)));
  body.append(...rows.map(([, row]) => row));
}

// Numbers start with the largest, names with the first.
function sortable(table) {
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, column) => {
    if (!head.textContent.trim()) return;
    const numeric = head.classList.contains("n"), button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort") || (numeric ? "ascending" : "descending");
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", before === "ascending" ? "descending" : "ascending");
      sort(table.tBodies[0], column, numeric, before === "ascending" ? -1 : 1);
    });
  });
}

function scrollable(box) {
  const slider = box.querySelector("input"), film = box.querySelector("img"), said = box.querySelector("output");
  const slices = slider.dataset.slices.split(" ");
  const show = () => {
    film.style.transform = `translateY(${-100 * slider.value / slices.length}%)`;
    said.value = `${slices[slider.value]} of ${slider.dataset.of}`;
    slider.setAttribute("aria-valuetext", `slice ${said.value}`);
  };
  slider.addEventListener("input", show);
  show();
  box.hidden = false;
}

function enliven(part) {
  for (const table of part.querySelectorAll("table.sorts")) if (table.tBodies[0].rows.length > 1) sortable(table);
  part.querySelectorAll(".scroller").forEach(scrollable);
}

enliven(document);
"""


def source(script: str) -> str:
    """What a content security policy must name so that this script runs, and no other."""
    return f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
