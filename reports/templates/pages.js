// Tables of many rows are shown a page at a time, with a box that keeps rows with all its words. On paper, and without
// scripts, all rows are there. The reference row stays in sight.
const PAGE = 50, LONG = 100;
for (const table of document.querySelectorAll("main table:not(.sheet)")) {
  const lines = () => [...table.tBodies].flatMap((body) => [...body.rows]);
  const isRow = (line) => !line.classList.contains("divider");
  if (lines().filter(isRow).length <= LONG) continue;
  const bar = document.createElement("p");
  bar.className = "pager";
  const box = document.createElement("input");
  box.type = "search";
  box.placeholder = "only rows with these words";
  box.setAttribute("aria-label", box.placeholder);
  const place = document.createElement("span");
  place.setAttribute("role", "status");
  let page = 0, all = false;
  const button = (text, act) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.addEventListener("click", () => { act(); show(); });
    bar.append(made);
    return made;
  };
  const show = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = lines().filter((line) => isRow(line) && words.every((word) => text(line).includes(word)));
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const first = all ? 0 : page * PAGE, last = all ? found.length : Math.min(first + PAGE, found.length);
    const shown = new Set(found.slice(first, last));
    let divider = null;
    for (const line of lines()) {
      if (isRow(line)) {
        line.hidden = !shown.has(line) && !line.classList.contains("reference");
        if (divider && !line.hidden) divider.hidden = false;
      } else {
        divider = line;
        line.hidden = true;
      }
    }
    place.textContent = `rows ${found.length ? first + 1 : 0} to ${last} of ${found.length}`;
    back.disabled = all || page === 0;
    next.disabled = all || page === pages - 1;
    whole.textContent = all ? "by pages" : "all rows";
  };
  bar.append(box, " ");
  const back = button("‹ back", () => { page -= 1; });
  bar.append(" ", place, " ");
  const next = button("next ›", () => { page += 1; });
  bar.append(" ");
  const whole = button("all rows", () => { all = !all; });
  box.addEventListener("input", () => { page = 0; show(); });
  table.addEventListener("sorted", () => { page = 0; show(); });
  (table.closest(".scroll") || table).before(bar);
  show();
}

function text(line) {
  return (line.said ??= line.textContent.toLowerCase());
}
