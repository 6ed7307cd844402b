"use strict";
// Draws the figures of notebooks and gallery; plotly.js is loaded from this site, and only where a page has a figure.
(function () {
  const here = document.currentScript.src;
  function colours() {
    const css = getComputedStyle(document.body);
    return { text: css.getPropertyValue("--md-default-fg-color").trim() || "#333", card: css.getPropertyValue("--md-default-bg-color").trim() || "#fff" };
  }
  function themed(layout) {
    const c = colours(), out = { "font.color": c.text, "hoverlabel.bgcolor": c.card, "hoverlabel.font.color": c.text };
    return out;
  }
  function drawAll() {
    const specs = Array.from(document.querySelectorAll("script[data-figure]"));
    if (!specs.length) return;
    const script = document.createElement("script");
    script.src = here.replace(/figures\.js.*$/, "plotly.min.js");
    script.onload = function () {
      specs.forEach(function (spec) {
        const div = document.getElementById(spec.dataset.figure), body = JSON.parse(spec.textContent);
        Plotly.newPlot(div, body.data, body.layout, { responsive: true, displaylogo: false })
          .then(function () { return Plotly.relayout(div, themed(body.layout)); })
          .then(function () { div.setAttribute("data-drawn", "true"); });
      });
      new MutationObserver(function () {
        specs.forEach(function (spec) { Plotly.relayout(document.getElementById(spec.dataset.figure), themed({})); });
      }).observe(document.body, { attributes: true, attributeFilter: ["data-md-color-scheme"] });
    };
    document.head.appendChild(script);
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", drawAll); else drawAll();
})();
