// The start, and what holds for the whole page: dark or light, help, keys.

// --- dark or light: as the system, until it is chosen here

const THEME = "ldm-comparison-theme";
const systemDark = matchMedia("(prefers-color-scheme: dark)");
let theme = ["dark", "light"].find(one => one === stored(storage => storage.getItem(THEME))) ?? "";

// Browsers may forbid pages that come from files to store anything; the choice then holds until the page is left.
function stored(act) {
  try {
    return act(localStorage);
  } catch {
    return null;
  }
}

function showTheme() {
  if (theme) document.documentElement.dataset.theme = theme;
  byId("theme").textContent = isDark() ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
}

const isDark = () => (theme || (systemDark.matches ? "dark" : "light")) === "dark";

function switchTheme() {
  theme = isDark() ? "light" : "dark";
  stored(storage => storage.setItem(THEME, theme));
  showTheme();
}

// --- keys that work anywhere

function keyAnywhere(event) {
  const typing = event.target.closest("input:not([type=range])");
  const elsewhere = document.querySelector("dialog[open]") && event.key !== "?";
  if (event.ctrlKey || event.metaKey || event.altKey || typing || elsewhere) return;
  const act = {
    "+": () => changeSize(+1),
    "=": () => changeSize(+1), // the same key without Shift
    "-": () => changeSize(-1),
    "/": searchPrompts,
    "?": () => byId("help").showModal(),
    r: () => showRow(rows.find(isRecommended) ?? rows[0]),
    t: switchTheme,
  }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

function searchPrompts() {
  byId("filters").open = true;
  (byId("search") ?? byId("filter-groups").querySelector("button"))?.focus();
}

// --- start

// The fragment belongs to the view, so that links within the page scroll without changing it.
function followLinks() {
  for (const link of document.querySelectorAll(".topbar a, .skip")) {
    link.addEventListener("click", event => {
      event.preventDefault();
      const part = byId(link.hash.slice(1));
      scrollTo(part);
      (link.matches(".skip") ? current : part.querySelector("a, button, summary, [tabindex]"))?.focus({preventScroll: true});
    });
  }
}

function followHash() {
  const row = readHash();
  if (row) showRow(row);
  if (view.image) openEnlarged(view.image);
  else enlarged.close();
}

showTheme();
systemDark.addEventListener("change", showTheme);
byId("theme").addEventListener("click", switchTheme);
byId("help-button").addEventListener("click", () => byId("help").showModal());
byId("help-close").addEventListener("click", () => byId("help").close());
byId("help").addEventListener("click", event => { if (event.target === byId("help")) byId("help").close(); });
document.addEventListener("keydown", keyAnywhere);

buildSummary();
buildFilters();
buildGrid();
buildEnlarged();
buildCurves();
buildScoreTable();
buildOptions();
buildRecord();
followLinks();
followHash();
addEventListener("hashchange", followHash);
