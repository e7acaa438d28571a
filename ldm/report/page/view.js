// What is shown: the filter, the enlarged image and the images' size. All but the size are in the URL's fragment, so
// that a view can be bookmarked and shared. An empty set shows everything.

const view = {prompts: new Set(), seeds: new Set(), runs: new Set(), search: "", image: null};

let shownRows = rows;
let shownColumns = columns;
const watchers = [];

// Calls back now and after every change of the filter.
function watchFilter(watcher) {
  watchers.push(watcher);
  watcher();
}

function changeFilter(change) {
  change(view);
  refreshView();
  writeHash();
}

function changeImage(position) {
  view.image = position;
  writeHash();
}

function refreshView() {
  const words = view.search.toLowerCase().split(/\s+/).filter(Boolean);
  const found = new Set(prompts.filter(prompt => words.every(word => prompt.text.toLowerCase().includes(word)))
    .map(prompt => prompt.index));
  const chosen = (set, value) => set.size === 0 || set.has(value);
  shownRows = rows.filter(row => chosen(view.runs, seriesName(row)));
  shownColumns = columns.filter(column =>
    chosen(view.prompts, column.prompt_index) && chosen(view.seeds, column.seed) && found.has(column.prompt_index));
  for (const watcher of watchers) watcher();
}

const isFiltered = () => Boolean(view.prompts.size || view.seeds.size || view.runs.size || view.search.trim());

function resetView() {
  changeFilter(() => {
    for (const set of [view.prompts, view.seeds, view.runs]) set.clear();
    view.search = "";
  });
}

// --- the fragment: #prompt=0&prompt=3&seed=42&run=can-1&search=snow&image=4.0

function viewHash(more = {}) {
  const parts = new URLSearchParams();
  for (const index of view.prompts) parts.append("prompt", index);
  for (const seed of view.seeds) parts.append("seed", seed);
  for (const run of view.runs) parts.append("run", run);
  if (view.search.trim()) parts.set("search", view.search.trim());
  if (view.image) parts.set("image", `${view.image.row}.${view.image.column}`);
  for (const [name, value] of Object.entries(more)) parts.set(name, value);
  return parts.size ? `#${parts}` : "";
}

function writeHash() {
  history.replaceState(null, "", viewHash() || location.pathname + location.search);
}

// Sets the filter and the image, and returns the row of the fragment, if any. Names that no longer exist are ignored:
// a bookmark may be older than the comparison.
function readHash() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const known = (name, values) => new Set(values.filter(value => parts.getAll(name).includes(String(value))));
  view.prompts = known("prompt", prompts.map(prompt => prompt.index));
  view.seeds = known("seed", seeds);
  view.runs = known("run", series.map(one => one.name));
  view.search = parts.get("search") ?? "";
  const [row, column] = (parts.get("image") ?? "").split(".").map(Number);
  view.image = cellAt(row, column) ? {row, column} : null;
  refreshView();
  return rows[parts.get("row")] ?? null;
}
