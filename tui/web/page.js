"use strict";

/* What the terminal's own script leaves out: the keyboard goes to the terminal, and the end says why it came. */
window.addEventListener("load", () => {
  const focus = () => document.querySelector(".xterm-helper-textarea")?.focus();
  const seen = new MutationObserver(() => {
    focus();
    if (!document.body.classList.contains("-closed")) return;
    document.querySelector("#again").focus();
    fetch("/state")
      .then((answer) => answer.text())
      .then((words) => { if (words) document.querySelector("#why").textContent = words; })
      .catch(() => { document.querySelector("#why").textContent = "The server of this page ended."; });
  });
  seen.observe(document.body, { attributes: true, attributeFilter: ["class"] });
  window.addEventListener("focus", focus);
  focus();
});
