"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const table = document.querySelector("#cases table");
  const body = table.tBodies[0];
  const rows = [...body.rows];

  // Sorting: a second press reverses the order; cells without a number come last in both.
  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
  const compare = (a, b, numeric, sign) => {
    if (!numeric) return sign * collator.compare(a, b);
    const [x, y] = [Number(a), Number(b)];
    const [noX, noY] = [a === "" || Number.isNaN(x), b === "" || Number.isNaN(y)];
    if (noX || noY) return noX - noY;
    return x === y ? 0 : sign * (x < y ? -1 : 1);
  };
  all("thead th", table).forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    const label = head.querySelector(".label");
    button.textContent = label.textContent;
    label.hidden = true; // print shows the label, since repeated heads have no buttons
    label.after(button);
    head.setAttribute("aria-sort", "none");
    const numeric = head.classList.contains("number") || head.classList.contains("rank");
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      all("thead th", table).forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const value = (row) => row.cells[column].dataset.value;
      body.append(...[...rows].sort((a, b) => compare(value(a), value(b), numeric, sign)));
    });
  });

  // Filtering by words and by state.
  const form = document.querySelector(".filters");
  const find = document.querySelector("#find");
  const shown = document.querySelector("#shown");
  const filter = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const states = new Set(all("[name=state]:checked", form).map((box) => box.value));
    let count = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !states.has(row.dataset.state) || !words.every((word) => text.includes(word));
      count += !row.hidden;
    }
    shown.textContent = count === rows.length ? `${count} rows` : `${count} of ${rows.length} rows`;
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  filter();
})();
