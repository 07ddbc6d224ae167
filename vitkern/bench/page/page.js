"use strict";
// Filters and sorts what is in the page already. Without it all is shown, machine after machine.
(() => {
  const tools = document.querySelector(".tools");
  const machines = [...document.querySelectorAll(".machine")];
  tools.hidden = false;

  const fits = (row, wanted) =>
    ["precision", "batch", "system", "change"].every(
      (name) => !wanted[name] || row.dataset[name] === wanted[name]) &&
    row.textContent.toLowerCase().includes(wanted.text);

  const apply = () => {
    const wanted = Object.fromEntries(new FormData(tools));
    wanted.text = wanted.text.trim().toLowerCase();
    for (const machine of machines) {
      machine.hidden = Boolean(wanted.machine) && machine.id !== wanted.machine;
      let shown = 0;
      for (const table of machine.querySelectorAll("table")) {
        const rows = [...table.tBodies[0].rows];
        for (const row of rows) row.hidden = !fits(row, wanted);
        const left = rows.filter((row) => !row.hidden).length;
        const count = left === rows.length ? `${left} rows` : `${left} of ${rows.length} rows`;
        table.querySelector(".count").textContent = count;
        shown += left;
      }
      for (const figure of machine.querySelectorAll("figure")) {
        figure.hidden = !figure.dataset.text.toLowerCase().includes(wanted.text) ||
          (Boolean(wanted.batch) && !figure.dataset.text.includes(`batch ${wanted.batch},`));
      }
      machine.querySelector(".none").hidden = shown > 0;
    }
  };

  const value = (row, column) => {
    const cell = row.cells[column];
    const given = cell.dataset.sort;
    if (given === undefined) return cell.textContent.trim().toLowerCase();
    return given === "" ? null : Number.isNaN(Number(given)) ? given : Number(given);
  };

  const sort = (table, column, descending) => {
    const rows = [...table.tBodies[0].rows].map((row) => [value(row, column), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null); // what is missing, last
      const order = a < b ? -1 : a > b ? 1 : 0;
      return descending ? -order : order;
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
  };

  for (const head of document.querySelectorAll("thead th")) {
    const button = head.querySelector("button");
    button.disabled = false;
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sort(head.closest("table"), head.cellIndex, descending);
    });
  }

  tools.addEventListener("input", apply);
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("reset", () => setTimeout(apply));
  for (const button of document.querySelectorAll(".clear")) {
    button.addEventListener("click", () => { tools.reset(); });
  }
  apply();
})();
