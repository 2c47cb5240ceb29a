// A table whose heads sort and whose rows are chosen, by pointer and by keys. Texts are set as text: none is run.
const make = (name, more = {}, ...children) => {
  const made = Object.assign(document.createElement(name), more);
  made.append(...children);
  return made;
};
const STEPS = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };

function render({ model, el }) {
  const head = make("thead"), body = make("tbody", { tabIndex: 0 });
  body.setAttribute("role", "listbox");
  body.setAttribute("aria-label", "Logs; arrow keys choose one");
  const table = make("table", {}, head, body), empty = make("p", { className: "empty" });
  el.classList.add("lagkit-logs");
  el.append(table, empty);

  const send = (name, value) => { model.set(name, value); model.save_changes(); };
  // Up, down, and back to the order in which logs are found.
  const sort = (by) => {
    const [before, down] = model.get("order");
    send("order", before !== by ? [by, false] : down ? ["added", false] : [by, true]);
  };
  const drawHeads = () => {
    const [by, down] = model.get("order"), focused = head.contains(document.activeElement) && document.activeElement.dataset.by;
    head.replaceChildren(make("tr", {}, ...model.get("columns").map(([name, words, kind]) => {
      const cell = make("th", { className: kind, scope: "col" }), button = make("button", { type: "button", textContent: words });
      button.title = "Sort all that are listed by this column";
      button.dataset.by = name;
      // What is found comes best first.
      if (name === by) cell.setAttribute("aria-sort", down === (name === "added") ? "ascending" : "descending");
      button.addEventListener("click", () => sort(name));
      cell.append(button);
      return cell;
    })));
    if (focused) head.querySelector(`[data-by="${CSS.escape(focused)}"]`)?.focus();
  };
  const choose = () => {
    const chosen = model.get("chosen");
    let found = null;
    for (const row of body.rows) {
      const is = row.dataset.id === chosen;
      row.setAttribute("aria-selected", is);
      if (is) found = row;
    }
    if (found) body.setAttribute("aria-activedescendant", found.id);
    else body.removeAttribute("aria-activedescendant");
    // Within the table alone: the page must not jump.
    if (found) {
      const top = found.offsetTop - head.offsetHeight, bottom = found.offsetTop + found.offsetHeight;
      if (top < el.scrollTop) el.scrollTop = top;
      else if (bottom > el.scrollTop + el.clientHeight) el.scrollTop = bottom - el.clientHeight;
    }
  };
  const drawRows = () => {
    const columns = model.get("columns"), unique = `log${Math.random().toString(36).slice(2)}`;
    body.replaceChildren(...model.get("rows").map(([id, ...texts], number) => {
      const row = make("tr", { id: `${unique}-${number}` });
      row.dataset.id = id;
      row.setAttribute("role", "option");
      texts.forEach((text, at) => row.append(make("td", { className: columns[at]?.[2] ?? "" }, make("div", { textContent: text, title: text }))));
      row.addEventListener("click", () => { send("chosen", id); body.focus({ preventScroll: true }); });
      return row;
    }));
    table.hidden = !body.rows.length;
    empty.textContent = body.rows.length ? "" : model.get("empty");
    el.scrollTop = 0;
    choose();
  };
  body.addEventListener("keydown", (event) => {
    if (!(event.key in STEPS) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const rows = [...body.rows], at = rows.findIndex((row) => row.dataset.id === model.get("chosen"));
    const to = Math.max(0, Math.min(rows.length - 1, at + STEPS[event.key]));
    if (rows[to]) send("chosen", rows[to].dataset.id);
  });
  const draw = () => { drawHeads(); drawRows(); };
  model.on("change:order", drawHeads);
  model.on("change:columns", draw);
  model.on("change:rows", drawRows);
  model.on("change:empty", drawRows);
  model.on("change:chosen", choose);
  draw();
}

export default { render };
