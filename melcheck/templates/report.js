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

  // Opening and closing.
  const clips = all("details.clip");
  const setAll = (open) => clips.forEach((clip) => { clip.open = open; });
  document.querySelector("#open-all")?.addEventListener("click", () => setAll(true));
  document.querySelector("#close-all")?.addEventListener("click", () => setAll(false));
  all(".toggles").forEach((bar) => { bar.hidden = false; });
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target instanceof HTMLDetailsElement) {
      target.open = true;
      target.scrollIntoView();
    }
  };
  addEventListener("hashchange", reveal);
  // Following the same link again does not change the address.
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("a[href^='#clip-']")) setTimeout(reveal);
  });
  reveal();

  // A player loads its length when its clip is opened. Starting one stops the others; within a
  // clip it continues at the same position.
  const ready = (clip) => all("audio", clip).forEach((player) => { player.preload = "metadata"; });
  for (const clip of clips) {
    clip.addEventListener("toggle", () => clip.open && ready(clip));
    if (clip.open) ready(clip);
  }
  document.addEventListener("play", (event) => {
    for (const other of all("audio")) {
      if (other === event.target || other.paused) continue;
      const together = other.closest(".clip") === event.target.closest(".clip");
      if (together) event.target.currentTime = other.currentTime;
      other.pause();
    }
  }, true);

  // Print shows every section open.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    closed.forEach((each) => { each.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((each) => { each.open = false; }));
})();
