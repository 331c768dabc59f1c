"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

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
