// One image, enlarged, with its scores, and its neighbours a key away. An image is shown when it is decoded; its
// neighbours are decoded ahead, so that flipping never shows an empty frame.

const enlarged = byId("enlarged");
const KEPT = 24; // decoded images
const decoded = new Map(); // by URL, the latest used last

let position = null;   // of the image that is shown
let latest = 0;        // number of the last call of `showEnlarged`; an earlier one that ends later shows nothing
let before = null;     // where B or R was pressed
let besidePhoto = -1;  // index of the photo beside the image

function buildEnlarged() {
  byId("close").addEventListener("click", () => enlarged.close());
  enlarged.addEventListener("close", closed);
  enlarged.addEventListener("click", event => { if (event.target === enlarged) enlarged.close(); });
  document.addEventListener("keydown", keyInEnlarged);
  for (const button of enlarged.querySelectorAll("[data-move]")) {
    button.addEventListener("click", () => flip(button.dataset.move));
  }
  flipBySwiping(byId("stage"));
}

function openEnlarged(wanted) {
  besidePhoto = -1;
  before = null;
  position = null;
  if (!enlarged.open) enlarged.showModal();
  showEnlarged(wanted);
}

// The focus goes to the image that was shown last, not to the first one.
function closed() {
  latest += 1;
  changeImage(null);
  if (position) focusImage(position);
}

async function showEnlarged(wanted) {
  const call = latest += 1;
  const row = rows[wanted.row];
  const column = columns[wanted.column];
  const cell = cellAt(wanted.row, wanted.column);
  const image = await decodedImage(cell.url);
  if (call !== latest) return;
  const sameColumn = position?.column === wanted.column;
  position = wanted;
  changeImage(wanted);

  image.alt = altOf(row, column);
  byId("image").replaceChildren(image);
  byId("enlarged-name").replaceChildren(
    element("strong", {}, stepName(row)),
    runName(row) ? element("span", {class: "run"}, markerOf(seriesOf(row)), element("bdi", {}, runName(row))) : "",
    isRecommended(row) ? element("span", {class: "tag"}, "recommended") : "",
    isCopy(cell) ? element("span", {class: "tag warning"}, copyText(row, cell)) : "");
  byId("enlarged-prompt").replaceChildren(readable(cell.prompt), element("span", {class: "seed"}, ` ${column.label}`));
  byId("spoken").textContent = image.alt;
  byId("about").replaceChildren(scoresOf(row, cell), photosOf(row, cell), fileOf(row));
  showBeside(row);
  if (!sameColumn) buildStrip(column);
  markInStrip();
  for (const button of enlarged.querySelectorAll("[data-move]")) {
    // Not `disabled`, which would take the focus from a button that is pressed until the end.
    button.setAttribute("aria-disabled", neighbour(position, button.dataset.move) === null);
  }
  for (const move of ["up", "down", "left", "right"]) {
    const next = neighbour(position, move);
    if (next) decodedImage(cellAt(next.row, next.column).url);
  }
  // A photo's or the strip's button that had the focus may have been replaced.
  if (!enlarged.contains(document.activeElement)) byId("stage").focus();
}

function goTo(next) {
  if (next) showEnlarged(next);
}

// Never fails: an image that can't be read shows its alternative text.
function decodedImage(url) {
  const found = decoded.get(url) ?? decode(url);
  decoded.delete(url);
  decoded.set(url, found);
  if (decoded.size > KEPT) decoded.delete(decoded.keys().next().value);
  return found;
}

function decode(url) {
  const image = element("img", {src: url, class: small ? "pixels" : null, draggable: "false"});
  return image.decode().then(() => image, () => image);
}

// --- its scores, photos and checkpoint

function scoresOf(row, cell) {
  const known = comparison.scores.filter(score => number(cell.scores[score.name]) && score.name !== NEAREST);
  if (!known.length) return "";
  return element("section", {}, element("h3", {}, "Scores"), element("table", {class: "values"},
    element("thead", {}, element("tr", {}, element("td", {}), element("th", {scope: "col"}, "this image"),
      element("th", {scope: "col"}, "all of its row"))),
    element("tbody", {}, known.map(score => element("tr", {title: score.explanation},
      element("th", {scope: "row"}, score.title, " ", element("span", {class: "arrow", title: direction(score)}, arrow(score))),
      element("td", {}, score.name === COPY ? (isCopy(cell) ? "yes" : "no") : formatted(score, cell.scores[score.name])),
      element("td", {}, number(row.scores[score.name]?.mean) ? formatted(score, row.scores[score.name].mean) : ""))))));
}

function photosOf(row, cell) {
  const {photos} = groups[row.group];
  if (!photos.length) return "";
  const nearest = nearestPhoto(row, cell);
  return element("section", {}, element("h3", {}, "Photos of the subject"),
    element("div", {class: "photos"}, photos.map((url, index) => {
      const toggle = () => {
        besidePhoto = besidePhoto === index ? -1 : index;
        showBeside(row);
      };
      const kind = nearest === index ? "nearest" : null;
      return element("button", {type: "button", class: kind, title: "show beside the image", onclick: toggle},
        photo(url, row.group, index), element("span", {class: "number"}, [index + 1, kind].filter(Boolean).join(", ")));
    })));
}

function fileOf(row) {
  return row.checkpoint ? element("section", {}, element("h3", {}, "Checkpoint"), element("code", {}, row.checkpoint)) : "";
}

function showBeside(row) {
  const url = groups[row.group].photos[besidePhoto];
  byId("beside").hidden = !url;
  byId("stage").classList.toggle("two", Boolean(url));
  byId("beside").replaceChildren(url ? photo(url, row.group, besidePhoto) : "");
  byId("about").querySelectorAll(".photos button").forEach((button, index) => {
    button.setAttribute("aria-pressed", index === besidePhoto);
  });
}

// --- all checkpoints of the column

function buildStrip(column) {
  const withImage = shownRows.filter(row => buttonAt(row.index, column.index));
  byId("strip").replaceChildren(...withImage.map(row => {
    const here = {row: row.index, column: column.index};
    const name = row.is_base ? "base" : row.run && row.step ? row.step : row.label;
    return element("button", {type: "button", "data-row": row.index, "aria-label": rowName(row), onclick: () => goTo(here)},
      element("img", {src: cellAt(here.row, here.column).url, alt: "", loading: "lazy", class: small ? "pixels" : null}),
      element("span", {}, name),
      element("i", {class: `${seriesClass(seriesOf(row))} ${isRecommended(row) ? "recommended" : ""}`}));
  }));
}

function markInStrip() {
  for (const button of byId("strip").children) {
    const here = Number(button.dataset.row) === position.row;
    button.setAttribute("aria-current", here);
    if (here) button.scrollIntoView({block: "nearest", inline: "nearest"});
  }
}

// --- flipping

function flip(move) {
  if (!position) return;
  before = null;
  goTo(neighbour(position, move));
}

// To another row of the same column, and back if pressed again there.
function jump(row) {
  if (!row) return;
  if (row.index === position.row) {
    goTo(before);
    before = null;
  } else if (buttonAt(row.index, position.column)) {
    before = position;
    showEnlarged({row: row.index, column: position.column});
  }
}

function keyInEnlarged(event) {
  if (!enlarged.open || !position || byId("help").open || event.ctrlKey || event.metaKey || event.altKey) return;
  const act = {
    ArrowUp: () => flip("up"),
    ArrowDown: () => flip("down"),
    ArrowLeft: () => flip("left"),
    ArrowRight: () => flip("right"),
    Home: () => goTo(endOfColumn(shownRows)),
    End: () => goTo(endOfColumn(shownRows.toReversed())),
    b: () => jump(rows.find(row => row.is_base && row.group === rows[position.row].group)),
    r: () => jump(rows[groups[rows[position.row].group].recommendation?.row]),
    p: nextPhoto,
  }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

const endOfColumn = someRows => firstImage(someRows, [columns[position.column]]);

// The nearest first, then each in turn, then none.
function nextPhoto() {
  const row = rows[position.row];
  const {photos} = groups[row.group];
  const first = nearestPhoto(row, cellAt(position.row, position.column)) ?? 0;
  const next = (besidePhoto + 1) % photos.length;
  besidePhoto = besidePhoto === -1 ? first : next === first ? -1 : next;
  showBeside(row);
}

function flipBySwiping(stage) {
  const FAR = 40; // pixels
  let from = null;
  stage.addEventListener("pointerdown", event => {
    from = event.pointerType === "touch" && event.isPrimary ? {x: event.clientX, y: event.clientY} : null;
  });
  stage.addEventListener("pointercancel", () => { from = null; });
  stage.addEventListener("pointerup", event => {
    if (!from || !event.isPrimary) return;
    const x = event.clientX - from.x;
    const y = event.clientY - from.y;
    from = null;
    if (Math.max(Math.abs(x), Math.abs(y)) < FAR) return;
    if (Math.abs(x) > Math.abs(y)) flip(x < 0 ? "right" : "left");
    else flip(y < 0 ? "down" : "up");
  });
}
