// The top of the page: what was compared, and which checkpoint to use.

function buildSummary() {
  const tuned = rows.filter(row => !row.is_base);
  const facts = [
    subjects.length > 0 && element("span", {}, "subject: ", element("strong", {}, subjects.join(", "))),
    counted(tuned.length, "checkpoint") + (tuned.length < rows.length ? " and the base model" : ""),
    counted(prompts.length, "prompt"),
    counted(seeds.length, "seed"),
    counted(images, "image"),
    comparison.scored_by && element("span", {}, "scored by ", element("strong", {}, comparison.scored_by)),
    comparison.created && element("time", {}, timeText(comparison.created)),
  ].filter(Boolean);
  if (comparison.unfinished) {
    byId("summary").append(element("p", {class: "unfinished", role: "status"},
      element("strong", {}, "Unfinished. "), `${comparison.unfinished} Continue with `,
      element("code", {}, comparison.resume_command)));
  }
  byId("facts").append(...facts.map(fact => element("span", {}, fact)));
  for (const note of comparison.notes) byId("summary").append(element("p", {class: "unscored"}, note));
  if (comparison.init_image) byId("summary").append(initialImage());
  groups.forEach((group, index) => {
    const panel = groupPanel(group, index);
    if (panel) byId("summary").append(panel);
  });
  if (!groups.some(group => group.recommendation)) {
    byId("summary").append(element("p", {class: "unscored"},
      scores.length ? "No checkpoint is recommended: judge the images and the curves for yourself."
        : "The images were not scored, so no checkpoint is recommended: judge them for yourself."));
  }
}

const initialImage = () => element("section", {class: "panel", "aria-label": "Initial image"},
  element("figure", {class: "photos"}, element("figcaption", {}, "Initial image"),
    element("div", {}, element("span", {}, element("img", {
      src: comparison.init_image, alt: "the image that all others started from", class: small ? "pixels" : null,
    })))));

function timeText(text) {
  const time = new Date(text);
  return isNaN(time) ? text : time.toLocaleString("en", {dateStyle: "medium", timeStyle: "short"});
}

// A group's recommendation and photos; null if it has neither.
function groupPanel(group, index) {
  const {recommendation, photos} = group;
  if (!recommendation && !photos.length) return null;
  const heading = groups.length > 1 ? groupName(group) : "";
  return element("section", {class: "panel", "aria-label": `${recommendation ? "Recommendation" : "Photos"} ${heading}`.trim()},
    recommendation && recommendationOf(recommendation, heading),
    photos.length > 0 && element("figure", {class: "photos"},
      element("figcaption", {}, `${counted(photos.length, "photo")} of the subject`),
      element("div", {}, photos.map((url, nth) => element("span", {}, photo(url, index, nth),
        element("span", {class: "number", "aria-hidden": "true"}, nth + 1))))));
}

function recommendationOf({row, verdict, reasons}, heading) {
  const chosen = rows[row];
  return element("div", {class: `recommendation ${chosen ? "" : "undecided"}`},
    element("p", {class: "eyebrow"}, [chosen ? "Recommended" : "No recommendation", heading].filter(Boolean).join(" · ")),
    verdictOf(verdict),
    reasons.length > 0 && element("ul", {class: "reasons"}, reasons.map(reason => element("li", {}, reason))),
    chosen && element("p", {class: "use"},
      element("button", {type: "button", class: "primary", onclick: () => showRow(chosen)}, "Show its images"),
      chosen.checkpoint && element("code", {title: "the checkpoint's file"}, chosen.checkpoint)),
    comparison.rule && element("details", {class: "rule"},
      element("summary", {}, "How this was decided"),
      comparison.rule.split(/\n+/).map(line => element("p", {}, line))));
}

// The part before the first colon or full stop is large, unless it is long.
function verdictOf(verdict) {
  const [, head, mark, rest] = verdict.match(/^(.{1,90}?)(: |\. )(.+)$/s) ?? [];
  if (!rest) return element("p", {class: `verdict ${verdict.length > 90 ? "long" : ""}`}, element("strong", {}, verdict));
  return element("p", {class: "verdict"}, element("strong", {}, head), element("span", {class: "spoken"}, mark),
    element("span", {class: "rest"}, rest));
}

const photo = (url, group, nth) => element("img", {
  src: url, alt: `photo ${nth + 1} of ${groupName(groups[group])}`, loading: "lazy", decoding: "async",
});
