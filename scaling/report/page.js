"use strict";
(function () {
  const config = { responsive: true, displaylogo: false, showSendToCloud: false, showEditInChartStudio: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"], toImageButtonOptions: { format: "svg" } };
  const root = document.documentElement;
  const plots = Array.from(document.querySelectorAll(".plot"));
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  function themed(layout) {
    const out = { "font.color": css("--text"), "hoverlabel.bgcolor": css("--card"),
      "hoverlabel.font.color": css("--text"), "hoverlabel.bordercolor": css("--line") };
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(key)) {
        out[key + ".gridcolor"] = css("--grid");
        out[key + ".linecolor"] = css("--line");
        out[key + ".tickcolor"] = css("--line");
      }
    }
    return out;
  }

  function draw(div) {
    const spec = JSON.parse(document.getElementById(div.id.replace("figure", "data")).textContent);
    return Plotly.newPlot(div, spec.data, spec.layout, config)
      .then(() => Plotly.relayout(div, themed(spec.layout)))
      .then(() => div.setAttribute("data-drawn", "true"));
  }

  function recolour() { plots.forEach((div) => { if (div._fullLayout) Plotly.relayout(div, themed(div.layout)); }); }

  const button = document.getElementById("theme");
  const order = ["auto", "light", "dark"];
  function setTheme(name) {
    if (name === "auto") root.removeAttribute("data-theme"); else root.setAttribute("data-theme", name);
    button.textContent = "theme: " + name;
    recolour();
  }
  let chosen = "auto";
  button.addEventListener("click", () => { chosen = order[(order.indexOf(chosen) + 1) % 3]; setTheme(chosen); });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);

  let before = null;
  window.addEventListener("beforeprint", () => { before = chosen; setTheme("light"); plots.forEach((d) => Plotly.Plots.resize(d)); });
  window.addEventListener("afterprint", () => { setTheme(before || "auto"); plots.forEach((d) => Plotly.Plots.resize(d)); });

  // one figure a frame, so that the text can be read while figures appear
  let next = 0;
  function step() {
    if (next >= plots.length) { root.setAttribute("data-ready", "true"); return; }
    draw(plots[next++]).then(() => setTimeout(step, 0));
  }
  step();
})();
