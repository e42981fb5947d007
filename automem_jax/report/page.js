"use strict";
// Turns the list of steps into a player: slider, buttons, arrow keys. Without it every step is shown.
(() => {
  const player = document.querySelector(".player");
  const steps = Array.from(document.querySelectorAll(".step"));
  if (!player || !steps.length) return;
  const slider = player.querySelector("input");
  const label = player.querySelector("output");
  const [previous, next] = player.querySelectorAll("button");
  let at = -1;
  const show = (index) => {
    const to = Math.max(0, Math.min(steps.length - 1, index));
    if (to === at) return;
    if (at >= 0) steps[at].classList.remove("shown");
    at = to;
    steps[at].classList.add("shown");
    slider.value = String(at);
    label.textContent = `${steps[at].dataset.label} (${at + 1} of ${steps.length})`;
    slider.setAttribute("aria-valuetext", label.textContent);
    previous.disabled = at === 0;
    next.disabled = at === steps.length - 1;
  };
  const fromHash = () => {
    const index = steps.findIndex((step) => `#${step.id}` === location.hash);
    if (index >= 0) show(index);
    return index >= 0;
  };
  slider.addEventListener("input", () => show(Number(slider.value)));
  previous.addEventListener("click", () => show(at - 1));
  next.addEventListener("click", () => show(at + 1));
  window.addEventListener("hashchange", fromHash);
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target === slider) return;
    const box = player.parentElement.getBoundingClientRect();
    if (box.bottom < 0 || box.top > window.innerHeight) return; // the episode is not on screen
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move || event.target.closest(".wide, pre.map")) return;
    show(at + move);
    event.preventDefault();
  });
  document.documentElement.classList.add("js");
  slider.max = String(steps.length - 1);
  if (!fromHash()) show(0);
})();
