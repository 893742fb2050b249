// Tables sort by a click, or Enter, on a column's head; a second one turns the order. Dividers keep their groups.
"use strict";
for (const table of document.querySelectorAll("main table:not(.sheet)")) {
  const heads = table.tHead ? [...table.tHead.rows].at(-1).cells : [];
  [...heads].forEach((head, column) => {
    const sort = () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      for (const body of table.tBodies) {
        let group = [];
        const flush = (before) => {
          group.sort((a, b) => compare(value(a, column), value(b, column), down));
          for (const row of group) body.insertBefore(row, before);
          group = [];
        };
        for (const row of [...body.rows]) row.classList.contains("divider") ? flush(row) : group.push(row);
        flush(null);
      }
      table.dispatchEvent(new Event("sorted"));
    };
    head.classList.add("sorts");
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
}

function value(row, column) {
  const cell = row.cells[column];
  if (!cell) return "";
  const first = [...cell.childNodes].filter((node) => node.nodeName !== "SMALL").map((node) => node.textContent).join("");
  const text = first.trim().replace("−", "-").replaceAll(",", "");
  const number = text.startsWith("<") ? 0 : parseFloat(text);
  return Number.isNaN(number) ? text : number;
}

// Numbers by size, then words by the alphabet; cells without either come last, whatever the order.
function compare(a, b, down) {
  const empty = (x) => x === "" || x === "–" || x === "-";
  if (empty(a) || empty(b)) return empty(a) - empty(b);
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  const order = typeof a === "number" ? a - b : a.localeCompare(b);
  return down ? -order : order;
}
