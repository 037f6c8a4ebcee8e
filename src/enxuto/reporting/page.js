"use strict";
// Draws the pictures in the colours of the theme in use, and again when the theme changes.
(() => {
  const json = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = json("enxuto-figures");
  const themes = json("enxuto-themes");
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse)");
  const config = {
    displaylogo: false,
    displayModeBar: false,
    doubleClick: "reset",
    showTips: false,
  };

  const theme = () => root.dataset.theme || (dark.matches ? "dark" : "light");

  // Only values under a key that names a colour are looked up, so a model's own text is never replaced.
  const painted = (value, colours, key = "") => {
    if (typeof value === "string") return /color/i.test(key) ? (colours[value] ?? value) : value;
    if (Array.isArray(value)) return value.map((each) => painted(each, colours, key));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([k, each]) => [k, painted(each, colours, k)]));
  };

  const draw = () => {
    const name = theme();
    button.textContent = name === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${name === "dark" ? "light" : "dark"} colours`);
    for (const [id, figure] of Object.entries(figures)) {
      const { data, layout } = painted(figure, themes[name]);
      // a finger that drags wants to scroll the page, not to zoom
      Plotly.react(id, data, { ...layout, dragmode: coarse.matches ? false : "zoom" }, config);
    }
  };

  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = theme() === "dark" ? "light" : "dark";
    draw();
  });
  dark.addEventListener("change", draw);
  draw();
  const fit = new ResizeObserver((seen) => seen.forEach(({ target }) => Plotly.Plots.resize(target)));
  Object.keys(figures).forEach((id) => fit.observe(document.getElementById(id)));
})();
