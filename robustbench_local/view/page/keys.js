"use strict";
// Keys for readers without a mouse; every page works without this script.
(() => {
  const isTyping = (target) => target.closest("input, select, textarea, [contenteditable]") !== null;
  const entries = () => [...document.querySelectorAll("[data-entry]")];

  const moveFocus = (step) => {
    const all = entries();
    const place = all.indexOf(document.activeElement);
    const next = place < 0 ? (step > 0 ? 0 : all.length - 1) : place + step;
    if (all[next]) {
      all[next].focus();
      all[next].scrollIntoView({ block: "nearest" });
    }
  };
  const follow = (selector) => {
    const link = document.querySelector(selector);
    if (link) link.click();
    return link !== null;
  };
  const scrolls = (target) => target.closest(".scroll") !== null;

  const actions = {
    "/": () => {
      const field = document.querySelector("[data-search]");
      if (field) { field.focus(); field.select(); }
      return field !== null;
    },
    "?": () => {
      const keys = document.getElementById("keys");
      keys.open = true;
      keys.querySelector("summary").focus();
      return true;
    },
    j: () => { moveFocus(1); return true; },
    k: () => { moveFocus(-1); return true; },
    u: () => follow("[data-up]"),
    ArrowLeft: () => follow("[rel=prev]"),
    ArrowRight: () => follow("[rel=next]"),
    ArrowDown: () => { if (!entries().includes(document.activeElement)) return false; moveFocus(1); return true; },
    ArrowUp: () => { if (!entries().includes(document.activeElement)) return false; moveFocus(-1); return true; },
  };

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (isTyping(event.target)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.key.startsWith("Arrow") && scrolls(event.target)) return;
    const action = Object.hasOwn(actions, event.key) ? actions[event.key] : null;
    if (action && action()) event.preventDefault();
  });
})();
