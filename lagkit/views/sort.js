(() => {
  // Tables of one row per line; cells that span several rows would be torn apart.
  const sortable = (table) => table.tHead && table.tBodies.length && !table.querySelector("tbody [rowspan]:not([rowspan='1'])");
  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = /^[^\d+.\-−]*([+\-−]?[\d,]*\.?\d+(?:e[+\-]?\d+)?)/.exec(text);
    return number ? parseFloat(number[1].replaceAll(",", "").replace("−", "-")) : text;
  };
  const compare = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1);
  const prepare = (table) => {
    table.dataset.sortable = "yes";
    for (const head of table.tHead.rows[table.tHead.rows.length - 1].cells) {
      Object.assign(head, { tabIndex: 0, title: "Sort by this column" });
      head.style.cursor = "pointer";
      const sort = () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0], column = head.cellIndex;
        const rows = [...body.rows].sort((a, b) => compare(value(a, column), value(b, column)) * (down ? -1 : 1));
        body.append(...rows);
      };
      head.addEventListener("click", sort);
      head.addEventListener("keydown", (event) => event.key === "Enter" && sort());
    }
  };
  for (const table of document.querySelectorAll("table")) {
    const ours = table.classList.contains("lagkit-sortable") || document.documentElement.dataset.sortAll;
    if (ours && !table.dataset.sortable && sortable(table)) prepare(table);
  }
})();
