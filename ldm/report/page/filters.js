// Chips that narrow the grid to prompts, seeds and runs.

const SEARCHED_FROM = 9; // prompts; fewer are seen at a glance

function buildFilters() {
  const searched = prompts.length >= SEARCHED_FROM;
  filled(byId("filter-groups"), {}, [
    chips("Prompts", view => view.prompts, prompts.map(prompt => ({
      value: prompt.index, title: prompt.text, label: [element("bdi", {}, shortened(prompt.text))],
    })), searched && searchField()),
    chips("Seeds", view => view.seeds, seeds.map(seed => ({value: seed, label: [String(seed)]}))),
    chips("Runs", view => view.runs, series.map(one => ({
      value: one.name, label: [markerOf(one), one.title],
    }))),
  ]);
  byId("filters").parentElement.hidden = !byId("filter-groups").hasChildNodes();
  byId("filters").open = matchMedia("(min-width: 700px)").matches;
  for (const id of ["reset", "show-all"]) byId(id).addEventListener("click", resetView);
  watchFilter(() => {
    byId("reset").hidden = !isFiltered();
    byId("shown").textContent = !isFiltered() ? "everything is shown"
      : `${shownRows.length} of ${counted(rows.length, "row")}, ${shownColumns.length} of ${counted(columns.length, "column")}`;
  });
}

// Nothing where there is nothing to choose.
function chips(title, chosen, values, search) {
  if (values.length < 2) return null;
  const buttons = values.map(({value, label, title: full}) => {
    const toggle = () => changeFilter(view => {
      const set = chosen(view);
      if (!set.delete(value)) set.add(value);
    });
    return element("button", {type: "button", class: "chip", title: full, onclick: toggle}, label);
  });
  watchFilter(() => buttons.forEach((button, index) => {
    const pressed = chosen(view).has(values[index].value);
    button.setAttribute("aria-pressed", pressed);
    if (search) {
      const words = view.search.toLowerCase().split(/\s+/);
      button.hidden = !pressed && !words.every(word => values[index].title.toLowerCase().includes(word));
    }
  }));
  return element("fieldset", {class: "chips"}, element("legend", {}, title), search, element("div", {}, buttons));
}

function searchField() {
  const field = element("input", {
    type: "search", id: "search", placeholder: "Search the prompts", "aria-label": "Search the prompts",
    oninput: () => changeFilter(view => { view.search = field.value; }),
  });
  watchFilter(() => { if (field.value !== view.search) field.value = view.search; });
  return field;
}
