// Draws the charts of the page with Vega-Lite over the static drawings, which stay for print and as a fallback.
// Nothing is evaluated from text (`ast`), nothing is loaded, and no style is inlined.
const specs = JSON.parse(document.getElementById("chart-data").textContent);
const readColor = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const buildConfig = () => {
  const [ink, soft, grid] = ["--ink", "--soft", "--grid"].map(readColor);
  const axis = { labelColor: soft, titleColor: soft, gridColor: grid, domainColor: grid, tickColor: grid };
  return {
    background: null,
    font: getComputedStyle(document.body).fontFamily,
    view: { stroke: null },
    axis: { ...axis, labelFontSize: 11, titleFontSize: 11, titleFontWeight: "normal" },
    legend: { labelColor: ink, titleColor: soft, labelLimit: 260, orient: "bottom", direction: "vertical", symbolOpacity: 1 },
    text: { color: ink },
    rule: { color: soft },
  };
};

const draw = async (figure) => {
  const { spec, palette } = structuredClone(specs[figure.dataset.chart]);
  spec.encoding.color.scale.range = palette.map((style) => readColor(`--s${style}`));
  for (const { encoding } of spec.layer) {
    if (encoding.color) encoding.color.value = readColor(encoding.color.value);
  }
  const rows = spec.data.values;
  const live = document.createElement("div");
  const plot = document.createElement("div");
  const reading = document.createElement("p");
  live.className = "live";
  plot.className = "plot";
  plot.tabIndex = 0;
  plot.setAttribute("role", "group");
  plot.setAttribute("aria-label", "Chart: the left and right arrow keys read its points one by one");
  reading.className = "reading";
  reading.setAttribute("aria-live", "polite");
  reading.textContent = "Point at a mark, or step through them with the arrow keys.";
  live.append(plot, reading);
  figure.append(live);
  const tooltip = (handler, event, item, value) => {
    if (value) reading.textContent = String(value);
  };
  const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, defaultStyle: false };
  let view;
  try {
    ({ view } = await vegaEmbed(plot, spec, { ...options, tooltip, config: buildConfig() }));
  } catch (error) {
    live.remove(); // the static drawing stays
    throw error;
  }
  plot.querySelector("svg")?.setAttribute("aria-hidden", "true"); // the reading and the table say it in words
  for (const drawing of figure.querySelectorAll(":scope > svg")) drawing.classList.add("replaced");
  let place = -1;
  plot.addEventListener("keydown", (event) => {
    if (event.target !== plot || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    event.preventDefault();
    const step = event.key === "ArrowRight" ? 1 : -1;
    place = place < 0 && step < 0 ? rows.length - 1 : (place + step + rows.length) % rows.length;
    reading.textContent = rows[place].text;
    view.signal("at", place).runAsync();
  });
};

const restore = (figure) => {
  figure.querySelector(":scope > .live")?.remove();
  for (const drawing of figure.querySelectorAll(":scope > svg")) drawing.classList.remove("replaced");
};
// A folded part has no width: each chart is drawn when it is first seen.
const observer = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    observer.unobserve(target);
    draw(target);
  }
});
const figures = [...document.querySelectorAll("figure[data-chart]")].filter((one) => one.dataset.chart in specs);
const observeAll = () => {
  for (const figure of figures) {
    restore(figure);
    observer.observe(figure);
  }
};
observeAll();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", observeAll);
