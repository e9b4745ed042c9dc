"use strict";
// Filters the sample solutions. Without it every sample is listed and the form stays hidden.
(() => {
  const form = document.querySelector(".filter");
  if (!form) return;
  const fields = form.elements;
  const groups = [...document.querySelectorAll(".group")];

  const visible = () => [...document.querySelectorAll(".group:not([hidden]) .sample:not([hidden])")];

  const apply = () => {
    for (const group of groups) {
      const samples = [...group.querySelectorAll(".sample")];
      for (const sample of samples) {
        sample.hidden = Boolean(fields.grade.value) && sample.dataset.grade !== fields.grade.value;
      }
      const chosen = ["model", "benchmark"].every(
        (name) => !fields[name].value || group.dataset[name] === fields[name].value,
      );
      group.hidden = !chosen || samples.every((sample) => sample.hidden);
    }
    const shown = visible().length;
    form.querySelector("output").textContent = `${shown} shown`;
    fields.open.disabled = shown === 0;
  };

  fields.open.addEventListener("click", () => {
    const samples = visible();
    const open = samples.some((sample) => !sample.open);
    for (const sample of samples) sample.open = open;
    fields.open.textContent = open ? "close all" : "open all";
  });
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();
})();
