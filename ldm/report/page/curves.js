// The scores over the steps: per group and score one chart, per run one line with its interval.

const HEIGHT = 280;
const MARGIN = {top: 34, right: 16, bottom: 40, left: 52};

function buildCurves() {
  const charts = groups.flatMap((group, index) => {
    const figures = scores.map(score => figureOf(score, index)).filter(Boolean);
    const heading = groups.length > 1 && figures.length ? [element("h3", {class: "group"}, groupName(group))] : [];
    return [...heading, ...figures];
  });
  byId("charts").append(...charts);
  hideUnless(charts.length, "curves");
  if (charts.length) buildLegend();
}

function buildLegend() {
  const charted = series.filter(one => rows.some(row => isPoint(row) && seriesOf(row) === one));
  const entries = charted.map(one => element("li", {}, markerOf(one), element("bdi", {}, one.title)));
  if (groups.some(group => group.recommendation && rows[group.recommendation.row])) {
    entries.push(element("li", {}, shape("svg", {class: "marker ring", viewBox: "-7 -7 14 14", "aria-hidden": "true"},
      shape("circle", {r: 5.5})), "recommended"));
  }
  byId("legend").append(...entries);
  watchFilter(() => charted.forEach((one, index) => {
    entries[index].hidden = !shownRows.some(row => seriesOf(row) === one);
  }));
}

// A checkpoint with a run and a step.
const isPoint = row => !row.is_base && row.run !== "" && row.step > 0;

// Redrawn when its width or the filter changes: letters keep their size.
function figureOf(score, group) {
  const all = rows.filter(row => row.group === group && isPoint(row) && number(row.scores[score.name]?.mean));
  if (!all.length) return null;
  const canvas = element("div", {class: "canvas"});
  let width = 0;
  const draw = () => {
    if (width) canvas.replaceChildren(...chart(score, group, all.filter(row => shownRows.includes(row)), width));
  };
  new ResizeObserver(([entry]) => {
    const now = Math.round(entry.contentRect.width);
    if (now === width) return;
    width = now;
    draw();
  }).observe(canvas);
  watchFilter(draw);
  return element("figure", {class: "chart", "data-score": score.name},
    element("figcaption", {}, element("strong", {}, score.title), element("span", {}, score.explanation)), canvas);
}

// The elements of a chart: the drawing and the tooltip with the values at a step.
function chart(score, group, points, width) {
  if (!points.length) return [element("p", {class: "nothing"}, "No row with this score is shown.")];
  const base = rows.find(row => row.is_base && row.group === group)?.scores[score.name]?.mean;
  const reference = groups[group].references[score.name] ?? {};
  const lines = [
    {name: "ceiling", value: reference.ceiling, ceiling: true},
    {name: "base model", value: reference.base ?? base, ceiling: false},
  ].filter(line => number(line.value));
  const values = [
    ...points.flatMap(row => ["low", "mean", "high"].map(end => row.scores[score.name][end])).filter(number),
    ...lines.map(line => line.value),
  ];
  const steps = points.map(row => row.step);
  const yTicks = niceTicks(Math.min(...values), Math.max(...values), 5);
  const xTicks = niceTicks(0, Math.max(...steps), width < 420 ? 4 : 6).filter(tick => tick <= Math.max(...steps));
  const x = scale(0, Math.max(...steps), MARGIN.left, width - MARGIN.right - 8);
  const y = scale(yTicks[0], yTicks.at(-1), HEIGHT - MARGIN.bottom, MARGIN.top);
  const lead = points.find(isRecommended);
  const guide = shape("line", {class: "guide", y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom, visibility: "hidden"});
  const drawing = shape("svg", {width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "group",
    "aria-label": `${score.title} over the steps, ${direction(score)}`},
    axes(score, xTicks, yTicks, x, y, width),
    lines.map(line => referenceLine(score, line, points, y, width)),
    lead && shape("line", {class: "lead", x1: x(lead.step), x2: x(lead.step), y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom}),
    guide,
    series.map(one => curve(score, one, points.filter(row => seriesOf(row) === one), x, y)));
  drawing.querySelector(".point").setAttribute("tabindex", 0);
  drawing.addEventListener("keydown", moveAmongPoints);
  return [drawing, noteFor(score, points, drawing, guide, x, width)];
}

function axes(score, xTicks, yTicks, x, y, width) {
  const right = width - MARGIN.right;
  const bottom = HEIGHT - MARGIN.bottom;
  const digits = Math.max(0, -Math.floor(Math.log10(yTicks[1] - yTicks[0]) + 1e-9));
  return shape("g", {class: "axes", "aria-hidden": "true"},
    yTicks.map(tick => [
      shape("line", {x1: MARGIN.left, x2: right, y1: y(tick), y2: y(tick)}),
      shape("text", {x: MARGIN.left - 8, y: y(tick), "text-anchor": "end", "dominant-baseline": "central"},
        tick.toFixed(digits).replace("-", "−")),
    ]),
    xTicks.map(tick => [
      shape("line", {class: "tick", x1: x(tick), x2: x(tick), y1: bottom, y2: bottom + 5}),
      shape("text", {x: x(tick), y: bottom + 18, "text-anchor": "middle"}, tick),
    ]),
    shape("text", {class: "name", x: (MARGIN.left + right) / 2, y: HEIGHT - 4, "text-anchor": "middle"}, "step"),
    shape("text", {class: "name", x: 0, y: 14}, `${arrow(score)} ${direction(score)}`));
}

// Curves begin near the base model and end near the ceiling: the names are at the other ends, clear of the curves.
function referenceLine(score, {name, value, ceiling}, points, y, width) {
  const right = width - MARGIN.right;
  const end = (ceiling ? Math.min : Math.max)(...points.map(row => row.step));
  const there = points.filter(row => row.step === end).map(row => row.scores[score.name].mean);
  const outside = there.every(mean => mean <= value) && y(value) - 18 > MARGIN.top;
  const above = outside || y(value) + 18 > HEIGHT - MARGIN.bottom;
  return shape("g", {class: `reference ${ceiling ? "ceiling" : "base"}`},
    shape("line", {x1: MARGIN.left, x2: right, y1: y(value), y2: y(value)}),
    shape("text", {x: ceiling ? MARGIN.left + 4 : right, y: y(value) + (above ? -6 : 14),
      "text-anchor": ceiling ? "start" : "end"}, `${name} ${formatted(score, value)}`));
}

function curve(score, one, points, x, y) {
  if (!points.length) return "";
  const sorted = points.toSorted((a, b) => a.step - b.step);
  const at = (row, end) => `${x(row.step).toFixed(1)} ${y(row.scores[score.name][end]).toFixed(1)}`;
  const banded = sorted.filter(row => intervalText(score, row.scores[score.name]));
  const band = [...banded.map(row => at(row, "high")), ...banded.toReversed().map(row => at(row, "low"))];
  return shape("g", {class: `curve ${seriesClass(one)}`, "data-run": one.name},
    banded.length > 1 && shape("path", {class: "band", d: `M${band.join("L")}Z`}),
    shape("path", {class: "line", d: `M${sorted.map(row => at(row, "mean")).join("L")}`}),
    sorted.map(row => point(score, one, row, x(row.step), y(row.scores[score.name].mean))));
}

function point(score, one, row, left, top) {
  const open = event => {
    event.preventDefault();
    showRow(row);
  };
  return shape("a", {href: viewHash({row: row.index}), class: "point", tabindex: -1, "data-step": row.step, onclick: open,
    transform: `translate(${left.toFixed(1)} ${top.toFixed(1)})`,
    "aria-label": `${rowName(row)}: ${valueText(score, row)}${isRecommended(row) ? ", recommended" : ""}`},
    shape("circle", {class: "target", r: 11}),
    isRecommended(row) && shape("circle", {class: "ring", r: 9}),
    shape("path", {class: "mark", d: one.marker}));
}

// One point of a chart is in the tab order, like one image of the grid.
function moveAmongPoints(event) {
  const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
  const points = [...event.currentTarget.querySelectorAll(".point")];
  const here = points.indexOf(document.activeElement);
  const next = points[here + by];
  if (!next) return;
  event.preventDefault();
  points[here].setAttribute("tabindex", -1);
  next.setAttribute("tabindex", 0);
  next.focus();
}

function valueText(score, row) {
  const interval = row.scores[score.name];
  const range = intervalText(score, interval);
  return `${formatted(score, interval.mean)}${range ? ` (${range})` : ""}`;
}

// The values of all lines at the hovered or focused step.
function noteFor(score, points, drawing, guide, x, width) {
  const note = element("div", {class: "note", hidden: true, "aria-hidden": "true"});
  const show = step => {
    const here = points.filter(row => row.step === step);
    note.replaceChildren(element("strong", {}, `step ${step}`), ...here.map(row => element("div", {},
      markerOf(seriesOf(row)), element("b", {}, formatted(score, row.scores[score.name].mean)),
      element("span", {}, intervalText(score, row.scores[score.name])))));
    note.hidden = false;
    const left = x(step);
    note.classList.toggle("left", left > width / 2);
    note.style.setProperty("--x", `${left > width / 2 ? width - left : left}px`);
    guide.setAttribute("x1", left);
    guide.setAttribute("x2", left);
    guide.setAttribute("visibility", "visible");
  };
  const hide = () => {
    note.hidden = true;
    guide.setAttribute("visibility", "hidden");
  };
  drawing.addEventListener("pointermove", event => {
    const pointed = event.clientX - drawing.getBoundingClientRect().left;
    const steps = points.map(row => row.step);
    show(steps.reduce((best, step) => (Math.abs(x(step) - pointed) < Math.abs(x(best) - pointed) ? step : best)));
  });
  drawing.addEventListener("pointerleave", hide);
  drawing.addEventListener("focusin", event => show(Number(event.target.closest(".point").dataset.step)));
  drawing.addEventListener("focusout", hide);
  return note;
}

// --- scales

const scale = (from, to, start, end) => value => start + ((value - from) / (to - from || 1)) * (end - start);

// About `count` round numbers that reach from at most `low` to at least `high`.
function niceTicks(low, high, count) {
  const span = high - low || Math.abs(high) || 1;
  const power = 10 ** Math.floor(Math.log10(span / count));
  const step = power * [1, 2, 5, 10].find(times => span / (power * times) <= count);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.max(first + 1, Math.ceil(high / step - 1e-9));
  return Array.from({length: last - first + 1}, (_, index) => (first + index) * step);
}
