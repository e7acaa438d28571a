// The grid of images: rows are checkpoints, columns are prompts x seeds. One image at a time is in the tab order,
// arrow keys move among them.

const small = Math.max(comparison.image.width, comparison.image.height) <= 128;

// Small images are shown at whole multiples, so that their pixels stay squares of one size.
const SIZES = small
  ? [1, 2, 3, 4, 5, 6].map(times => times * comparison.image.width)
  : [64, 96, 128, 160, 192, 256, 320, 384, 512];

const grid = byId("grid");
const scroller = byId("scroller");
const gridRows = [];    // [row] -> the tr
const gridCells = [];   // [row][column] -> the td
let current = null;     // the button in the tab order

function buildGrid() {
  const {width, height} = comparison.image;
  grid.style.setProperty("--aspect", `${width} / ${height}`);
  grid.classList.toggle("small-images", small);
  grid.append(gridWidths(), gridHead(), ...groups.map(gridBody));
  grid.addEventListener("keydown", moveInGrid);
  grid.addEventListener("focusin", event => enterTabOrder(event.target.closest(".image")));
  grid.addEventListener("click", event => {
    const button = event.target.closest(".image");
    if (button) openEnlarged(positionOf(button));
  });
  // Errors of images don't bubble.
  grid.addEventListener("error", event => {
    event.target.closest(".image").replaceWith(emptyCell("file missing"));
    keepTabOrder();
  }, true);
  watchFilter(filterGrid);
  buildSizes();
}

// With given widths the browser lays the table out without measuring the cells.
function gridWidths() {
  const cols = columns.map(() => element("col", {class: "images"}));
  watchFilter(() => {
    const shown = new Set(shownColumns);
    cols.forEach((col, index) => { col.hidden = !shown.has(columns[index]); });
  });
  return element("colgroup", {}, element("col", {class: "labels"}), cols);
}

function gridHead() {
  const promptRow = element("tr", {role: "row"},
    element("th", {class: "corner", scope: "col", rowspan: 2, role: "columnheader"}, "Checkpoint"));
  const seedRow = element("tr", {role: "row"});
  const spans = promptSpans(columns).map(span => {
    const prompt = prompts.find(one => one.index === span.prompt);
    const head = element("th", {class: "prompt", scope: "colgroup", colspan: span.count, role: "columnheader"},
      element("span", {title: `${prompt.text}\n${KINDS[prompt.kind] ?? ""}`, dir: "auto"}, prompt.text));
    promptRow.append(head);
    return {...span, head};
  });
  const seedHeads = columns.map(column =>
    element("th", {class: "seed", scope: "col", role: "columnheader"}, column.label));
  seedRow.append(...seedHeads);
  watchFilter(() => {
    const shown = new Set(shownColumns);
    seedHeads.forEach((head, index) => { head.hidden = !shown.has(columns[index]); });
    for (const {head, from, count} of spans) {
      const left = columns.slice(from, from + count).filter(column => shown.has(column)).length;
      head.hidden = left === 0;
      head.colSpan = Math.max(1, left);
    }
  });
  return element("thead", {role: "rowgroup"}, promptRow, seedRow);
}

// Neighbouring columns of one prompt.
function promptSpans(all) {
  const spans = [];
  all.forEach((column, index) => {
    const last = spans.at(-1);
    if (last?.prompt === column.prompt_index) last.count += 1;
    else spans.push({prompt: column.prompt_index, from: index, count: 1});
  });
  return spans;
}

function gridBody(group, index) {
  const body = element("tbody", {role: "rowgroup"});
  if (groups.length > 1) {
    body.append(element("tr", {role: "row", class: "group"},
      element("th", {colspan: columns.length + 1, scope: "rowgroup", role: "rowheader"},
        element("span", {}, groupName(group)))));
  }
  body.append(...rows.filter(row => row.group === index).map(gridRow));
  return body;
}

function gridRow(row) {
  gridCells[row.index] = columns.map(column => element("td", {role: "gridcell"}, imageButton(row, column)));
  gridRows[row.index] = element("tr", {role: "row", id: `row-${row.index}`, class: isRecommended(row) ? "recommended" : null},
    rowHead(row), gridCells[row.index]);
  return gridRows[row.index];
}

function rowHead(row) {
  const values = scores.filter(score => number(row.scores[score.name]?.mean));
  return element("th", {scope: "row", role: "rowheader", title: row.checkpoint},
    element("div", {class: "label"},
      element("strong", {}, stepName(row)),
      runName(row) && element("span", {class: "run"}, markerOf(seriesOf(row)), element("bdi", {}, runName(row))),
      isRecommended(row) && element("span", {class: "tag"}, "recommended"),
      values.length > 0 && element("dl", {}, values.map(score => element("div", {},
        element("dt", {}, score.title), element("dd", {}, formatted(score, row.scores[score.name].mean)))))));
}

function imageButton(row, column) {
  const cell = cellAt(row.index, column.index);
  if (!cell) return emptyCell("not sampled");
  const {width, height} = comparison.image;
  return element("button", {type: "button", class: "image", tabindex: -1, "data-row": row.index, "data-column": column.index},
    element("img", {src: cell.url, alt: altOf(row, column), width, height, loading: "lazy", decoding: "async"}),
    isCopy(cell) && element("span", {class: "copy", "aria-hidden": "true"}, copyText(row, cell)));
}

function altOf(row, column) {
  const cell = cellAt(row.index, column.index);
  return [cell.prompt, column.label, rowName(row), isCopy(cell) && copyText(row, cell)].filter(Boolean).join(", ");
}

const emptyCell = word => element("span", {class: "empty"}, word);

const buttonAt = (row, column) => gridCells[row]?.[column]?.querySelector(".image") ?? null;

const positionOf = button => ({row: Number(button.dataset.row), column: Number(button.dataset.column)});

// --- filter

function filterGrid() {
  const shown = new Set(shownRows);
  const shownThere = new Set(shownColumns);
  rows.forEach((row, index) => {
    gridRows[index].hidden = !shown.has(row);
    gridCells[index].forEach((cell, column) => { cell.hidden = !shownThere.has(columns[column]); });
  });
  for (const body of grid.tBodies) body.hidden = [...body.rows].every(row => row.hidden || row.classList.contains("group"));
  const empty = !shownRows.length || !shownColumns.length;
  byId("nothing").hidden = !empty;
  scroller.hidden = empty;
  keepTabOrder();
}

// --- moving

// Keeps one image in the tab order, if there is one.
function keepTabOrder() {
  if (current?.isConnected && !current.closest("[hidden]")) return;
  const first = firstImage(shownRows, shownColumns);
  if (first) enterTabOrder(buttonAt(first.row, first.column));
}

function enterTabOrder(button) {
  if (!button) return;
  if (current) current.tabIndex = -1;
  button.tabIndex = 0;
  current = button;
}

function moveInGrid(event) {
  if (!current || event.altKey || event.metaKey || (event.ctrlKey && !["Home", "End"].includes(event.key))) return;
  const target = targetOf(event.key, event.ctrlKey, positionOf(current));
  if (target === undefined) return;
  event.preventDefault();
  if (target) focusImage(target);
}

// Undefined for a key that doesn't move, null if there is nothing to move to.
function targetOf(key, whole, position) {
  switch (key) {
    case "ArrowUp": return neighbour(position, "up");
    case "ArrowDown": return neighbour(position, "down");
    case "ArrowLeft": return neighbour(position, "left");
    case "ArrowRight": return neighbour(position, "right");
    case "Home": return whole ? firstImage(shownRows, shownColumns) : firstImage([rows[position.row]], shownColumns);
    case "End": return whole ? firstImage(shownRows.toReversed(), shownColumns.toReversed())
      : firstImage([rows[position.row]], shownColumns.toReversed());
    default: return undefined;
  }
}

function firstImage(someRows, someColumns) {
  for (const row of someRows) {
    for (const column of someColumns) {
      if (buttonAt(row.index, column.index)) return {row: row.index, column: column.index};
    }
  }
  return null;
}

// The next shown image in this direction; cells without an image are passed over.
function neighbour({row, column}, move) {
  const upright = move === "up" || move === "down";
  const line = (upright ? shownRows : shownColumns).map(one => one.index);
  const onward = move === "up" || move === "left" ? line.filter(index => index < (upright ? row : column)).reverse()
    : line.filter(index => index > (upright ? row : column));
  const found = onward.find(index => (upright ? buttonAt(index, column) : buttonAt(row, index)));
  if (found === undefined) return null;
  return upright ? {row: found, column} : {row, column: found};
}

function focusImage({row, column}) {
  buttonAt(row, column)?.focus();
}

// Scrolls a row of images into view and removes a filter that hides it.
function showRow(row) {
  if (!shownRows.includes(row)) changeFilter(view => { view.runs.clear(); });
  scrollTo(byId("images"));
  const top = gridRows[row.index].offsetTop - grid.tHead.offsetHeight;
  scroller.scrollTo({top, behavior: still.matches ? "auto" : "smooth"});
  const first = firstImage([row], shownColumns);
  if (first) buttonAt(first.row, first.column).focus({preventScroll: true});
  for (const one of gridRows) one.classList.toggle("pointed-out", one === gridRows[row.index]);
}

// --- size

function buildSizes() {
  const slider = byId("size");
  slider.max = SIZES.length - 1;
  const narrow = matchMedia("(max-width: 600px)").matches;
  setSize(SIZES.findLastIndex(size => size <= (narrow ? 128 : 160)));
  slider.addEventListener("input", () => setSize(Number(slider.value)));
  byId("smaller").addEventListener("click", () => changeSize(-1));
  byId("larger").addEventListener("click", () => changeSize(+1));
}

const changeSize = by => setSize(Number(byId("size").value) + by);

function setSize(index) {
  const kept = Math.min(SIZES.length - 1, Math.max(0, index));
  byId("size").value = kept;
  byId("size").setAttribute("aria-valuetext", `${SIZES[kept]} pixels wide`);
  byId("smaller").disabled = kept === 0;
  byId("larger").disabled = kept === SIZES.length - 1;
  grid.style.setProperty("--size", `${SIZES[kept]}px`);
}
