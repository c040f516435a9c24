"use strict";
// Unpacks plotly.js, which the page contains gzipped, and draws every chart; a chart that it cannot draw keeps its sentence.
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return URL.createObjectURL(await new Response(stream, { headers: { "Content-Type": "text/javascript" } }).blob());
}

function load(address) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.onload = resolve;
    script.onerror = reject;
    script.src = address;
    document.head.append(script);
  });
}

async function draw() {
  const library = document.getElementById("plotly");
  if (!library) return;
  await load(await unpack(library.textContent));
  const charts = [...document.querySelectorAll(".chart")];
  for (const chart of charts) {
    const { data, layout } = JSON.parse(chart.querySelector("script").textContent);
    chart.replaceChildren();
    await Plotly.newPlot(chart, data, layout, { displayModeBar: false, responsive: true });
  }
  // Paper is narrower than most windows; a chart keeps the width it was drawn with.
  const resize = (width) => charts.forEach((chart) => Plotly.relayout(chart, { width: width && width(chart) }));
  addEventListener("beforeprint", () => resize((chart) => (chart.closest(".slices") ? 200 : 640)));
  addEventListener("afterprint", () => resize(null));
}

for (const button of document.querySelectorAll(".quote button")) {
  const sentence = button.previousElementSibling;
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(sentence.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(sentence); // a page without the right to copy leaves that to the reader
    }
  });
}

draw().finally(() => document.documentElement.setAttribute("data-drawn", ""));
