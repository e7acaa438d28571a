// The comparison, as ldm/report/comparison.py describes it, and the names of things in it.

const comparison = JSON.parse(byId("comparison").textContent);
const {columns, rows, groups, runs} = comparison;
rows.forEach((row, index) => { row.index = index; });
columns.forEach((column, index) => { column.index = index; });

// Scores that rows have; others belong to single images only.
const scores = comparison.scores.filter(score => rows.some(row => number(row.scores[score.name]?.mean)));

const images = rows.reduce((sum, row) => sum + row.cells.filter(Boolean).length, 0);

const cellAt = (row, column) => rows[row]?.cells[column] ?? null;

function number(value) {
  return typeof value === "number";
}

const COPY = "copy";
const NEAREST = "copy_photo";

const isCopy = cell => cell.scores[COPY] === 1;

// Its index, or null if it is unknown.
function nearestPhoto(row, cell) {
  const index = cell.scores[NEAREST];
  return groups[row.group].photos[index] ? index : null;
}

function copyText(row, cell) {
  const nearest = nearestPhoto(row, cell);
  return nearest === null ? "copy of a photo" : `copy of photo ${nearest + 1}`;
}

// --- names

const subjects = [...new Set(groups.map(group => group.subject).filter(Boolean))];

const readable = prompt => (prompt.trim() ? prompt : "(no words)");

const prompts = [...new Map(columns.map(column => [column.prompt_index, {
  index: column.prompt_index,
  text: readable(column.heading),
  kind: column.kind,
}])).values()];

const seeds = [...new Set(columns.map(column => column.seed))];

const KINDS = {subject: "a prompt for the subject", class: "a prompt for the class", other: "another prompt"};

// "a photo of sks can at night" is "… sks can at night" where every prompt begins with "a photo of".
const lead = commonLead(prompts.map(prompt => prompt.text.split(" ")));
const shortened = text => (lead ? `… ${text.split(" ").slice(lead).join(" ")}` : text);

function commonLead(texts) {
  if (texts.length < 2) return 0;
  const longest = Math.min(...texts.map(words => words.length)) - 1;
  let count = 0;
  while (count < longest && texts.every(words => words[count] === texts[0][count])) count += 1;
  return count < 2 ? 0 : count;
}

const stepName = row => (row.is_base ? "base model" : row.run && row.step ? `step ${row.step}` : row.label);
const runName = row => (row.is_base || !row.step ? "" : row.run);
const rowName = row => [stepName(row), runName(row)].filter(Boolean).join(" of ");
const groupName = group => group.subject || "no subject";
const isRecommended = row => groups[row.group]?.recommendation?.row === row.index;

// --- series: a run's colour and marker, the same wherever the run is named

const COLORS = 6; // page.css has them

// Around (0, 0), of about equal area. Their number shares no factor with the colours', so that pairs repeat late.
const MARKERS = [
  "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z",
  "M-4-4h8v8h-8z",
  "M0-5.2L5.2 4.2H-5.2z",
  "M0-5.6L5.6 0L0 5.6L-5.6 0z",
  "M0 5.2L5.2-4.2H-5.2z",
  "M-1.7-5.2h3.4v3.5h3.5v3.4h-3.5v3.5h-3.4v-3.5h-3.5v-3.4h3.5z",
  "M0-5.6L1.7-1.8L5.4-1.7L2.6 1.1L3.4 5L0 2.9L-3.4 5L-2.6 1.1L-5.4-1.7L-1.7-1.8z",
];
const BASE_MARKER = "M-5-1.2h10v2.4h-10z";

// A checkpoint without a run is a series of its own.
const seriesName = row => (row.is_base ? "" : row.run || row.label);
const series = [...new Set(rows.map(seriesName))].map(name => ({name, title: name || "base model"}));
series.filter(one => one.name).forEach((one, index) => {
  one.color = index % COLORS;
  one.marker = MARKERS[index % MARKERS.length];
});

const seriesOf = row => series.find(one => one.name === seriesName(row));
const seriesClass = one => (one.name ? `series-${one.color}` : "series-base");

function markerOf(one) {
  const path = one.name ? one.marker : BASE_MARKER;
  return shape("svg", {class: `marker ${seriesClass(one)}`, viewBox: "-7 -7 14 14", "aria-hidden": "true"},
    shape("path", {d: path}));
}

// --- numbers

// Three digits of the largest mean, and as many decimals for all values of a score.
const decimals = Object.fromEntries(comparison.scores.map(score => {
  const largest = Math.max(0, ...rows.map(row => Math.abs(row.scores[score.name]?.mean ?? 0)));
  return [score.name, largest >= 100 ? 0 : largest >= 10 ? 1 : largest > 1.0005 ? 2 : 3]; // 1 is often the most
}));

const formatted = (score, value) => value.toFixed(decimals[score.name]).replace("-", "−");
const direction = score => (score.higher_is_better ? "higher is better" : "lower is better");
const arrow = score => (score.higher_is_better ? "↑" : "↓");

function intervalText(score, interval) {
  if (!number(interval.low) || !number(interval.high)) return "";
  return `${formatted(score, interval.low)} to ${formatted(score, interval.high)}`;
}

const counted = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
