// The scores of every checkpoint, the options of every run, and how the images were sampled.

function hideUnless(wanted, section) {
  byId(section).hidden = !wanted;
  const link = document.querySelector(`.topbar a[href="#${section}"]`);
  if (link) link.hidden = !wanted;
}

// --- scores

function buildScoreTable() {
  hideUnless(scores.length, "scores");
  if (!scores.length) return;
  const body = element("tbody", {});
  const lines = new Map(rows.map(row => [row, scoreLine(row)]));
  const order = {head: null, descending: false};
  const byRow = {value: row => row.index, descending: false};
  const heads = [
    {...byRow, title: "Checkpoint"},
    ...scores.map(score => ({
      value: row => row.scores[score.name]?.mean ?? null, descending: score.higher_is_better, title: score.title, score,
    })),
  ].map(sortHead);

  function sortHead(head) {
    const {title, score} = head;
    head.cell = element("th", {scope: "col", title: score?.explanation}, element("button", {
      type: "button",
      onclick: () => {
        // First the best first, then the worst first, then the order of the rows.
        if (order.head !== head) Object.assign(order, {head, descending: head.descending});
        else if (order.descending === head.descending) order.descending = !head.descending;
        else order.head = null;
        sort();
      },
    }, title, score && element("span", {class: "arrow", title: direction(score)}, ` ${arrow(score)}`)));
    return head;
  }

  function sort() {
    const {value} = order.head ?? byRow;
    const sign = order.head && order.descending ? -1 : 1;
    // Rows without a score are last in either direction.
    const compare = (a, b) => (value(a) === null) - (value(b) === null) || sign * (value(a) - value(b));
    body.replaceChildren(...rows.toSorted(compare).map(row => lines.get(row)));
    for (const head of heads) {
      if (head === order.head) head.cell.setAttribute("aria-sort", order.descending ? "descending" : "ascending");
      else head.cell.removeAttribute("aria-sort");
    }
  }

  sort();
  watchFilter(() => lines.forEach((line, row) => { line.hidden = !shownRows.includes(row); }));
  byId("score-table").append(element("table", {class: "scores"},
    element("thead", {}, element("tr", {}, heads.map(head => head.cell))), body));
}

function scoreLine(row) {
  const label = element("a", {href: viewHash({row: row.index}), onclick: event => {
    event.preventDefault();
    showRow(row);
  }}, element("strong", {}, stepName(row)));
  return element("tr", {"data-row": row.index, class: isRecommended(row) ? "recommended" : null},
    element("th", {scope: "row"}, label,
      runName(row) && element("span", {class: "run"}, markerOf(seriesOf(row)), element("bdi", {}, runName(row))),
      groups.length > 1 && element("span", {class: "run"}, groupName(groups[row.group])),
      isRecommended(row) && element("span", {class: "tag"}, "recommended")),
    scores.map(score => scoreCell(score, row)));
}

// The mean, its interval, and both as a bar on the scale of the column.
function scoreCell(score, row) {
  const interval = row.scores[score.name];
  if (!number(interval?.mean)) return element("td", {class: "none"}, "–");
  const range = intervalText(score, interval);
  const bar = element("i", {class: "interval", "aria-hidden": "true"});
  const all = rows.map(one => one.scores[score.name]).filter(one => number(one?.mean));
  const low = Math.min(...all.map(one => one.low ?? one.mean));
  const high = Math.max(...all.map(one => one.high ?? one.mean));
  const share = value => `${(100 * (value - low)) / (high - low || 1)}%`;
  bar.style.setProperty("--mean", share(interval.mean));
  bar.style.setProperty("--low", share(interval.low ?? interval.mean));
  bar.style.setProperty("--high", share(interval.high ?? interval.mean));
  return element("td", {}, element("b", {}, formatted(score, interval.mean)), bar, range && element("small", {}, range));
}

// --- options

function buildOptions() {
  hideUnless(runs.some(run => Object.keys(run.options).length), "options");
  const names = [...new Set(runs.flatMap(run => Object.keys(run.options)))];
  const differing = names.filter(name => new Set(runs.map(run => JSON.stringify(run.options[name]))).size > 1);
  const equal = names.filter(name => !differing.includes(name));
  if (runs.length === 1) {
    byId("option-tables").append(optionTable(names, ""));
    return;
  }
  byId("options-note").textContent = differing.length
    ? `${counted(differing.length, "option")} of ${names.length} differ between the runs.`
    : `All ${names.length} options are the same in all runs.`;
  if (differing.length) byId("option-tables").append(optionTable(differing, "differing"));
  if (equal.length) {
    byId("option-tables").append(element("details", {},
      element("summary", {}, `${counted(equal.length, "option")} the same in all runs`), optionTable(equal, "")));
  }
}

function optionTable(names, kind) {
  const head = element("tr", {}, element("th", {scope: "col"}, "Option"), runs.map(run => element("th", {scope: "col"},
    markerOf(series.find(one => one.name === run.name) ?? {name: ""}), element("bdi", {}, run.name))));
  return element("div", {class: "wide", role: "region", "aria-label": `Options ${kind}`.trim(), tabindex: 0},
    element("table", {class: `options ${kind}`}, element("thead", {}, head), element("tbody", {}, names.map(name =>
      element("tr", {}, element("th", {scope: "row"}, name),
        runs.map(run => optionCell(name in run.options, run.options[name])))))));
}

function optionCell(given, value) {
  const quiet = !given || value === null || value === "";
  const text = !given ? "not known" : value === null ? "none" : value === "" ? "empty" : valueOf(value);
  return element("td", {class: quiet ? "none" : null}, text);
}

function valueOf(value) {
  if (value === true || value === false) return value ? "yes" : "no";
  if (Array.isArray(value)) return value.map(valueOf).join(", ");
  return typeof value === "object" && value ? JSON.stringify(value) : String(value);
}

// --- how the images were sampled

function buildRecord() {
  const list = entries => element("dl", {class: "record"}, Object.entries(entries).flatMap(([name, value]) =>
    [element("dt", {}, name), element("dd", {}, valueOf(value))]));
  byId("record-body").append(...[
    comparison.command && element("pre", {}, element("code", {}, comparison.command)),
    Object.keys(comparison.sampling).length > 0 && list(comparison.sampling),
    Object.keys(comparison.versions).length > 0 && list(comparison.versions),
  ].filter(Boolean));
  byId("record").hidden = !byId("record-body").hasChildNodes();
}
