"use strict";
// The page: tabs, uploads, camera and the card of the model. Everything from outside is text, never HTML.

const byId = (id) => document.getElementById(id);
const state = { model: null, image: null, requests: 0 };
const MAX_REQUESTS = 4;

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function formatShare(value) {
  if (value === null || value === undefined) return "";
  const percent = 100 * value;
  if (value > 0 && percent < 0.1) return "< 0.1%";
  if (value < 1 && percent > 99.9) return "> 99.9%";
  return `${percent.toFixed(1)}%`;
}

function formatCount(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

function showMessage(text) {
  byId("message").textContent = text;
  byId("message").hidden = !text;
}

async function askServer(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it still running?");
  }
  if (response.ok) return response.json();
  let detail = `The server answers with status ${response.status}.`;
  try { detail = (await response.json()).detail || detail; } catch { /* it is not JSON */ }
  throw new Error(detail.replace(/^image 1: /, "").replace(/^./, (letter) => letter.toUpperCase()));
}

function describeAnswer(answer) {
  if (answer.rejected) return "Rejected by the model";
  return answer.name === null ? "No class: the output is not finite" : answer.name;
}

function listClasses(answer) {
  const list = make("ol", "classes");
  for (const entry of answer.classes) {
    const item = make("li");
    item.append(make("span", "name", entry.name), make("span", "value", formatShare(entry.probability)));
    const track = make("div", "track"), bar = make("div", "bar");
    bar.style.width = `${100 * entry.probability}%`;
    track.setAttribute("aria-hidden", "true");
    track.append(bar);
    item.append(track);
    list.append(item);
  }
  return list;
}

function makePicture(source, caption, isPixels) {
  const figure = make("figure"), image = make("img", isPixels ? "pixels" : "");
  image.src = source;
  image.alt = caption;
  image.addEventListener("error", () => image.remove());
  figure.append(image, make("figcaption", "", caption));
  return figure;
}

function makeWords(name, answer) {
  const words = make("div", "words");
  words.append(make("p", "who", name), make("p", "big", describeAnswer(answer)), listClasses(answer));
  return words;
}

// ---- tabs ----
const tabs = [...document.querySelectorAll("[role=tab]")];

function selectTab(tab, focus) {
  for (const other of tabs) {
    const isChosen = other === tab;
    other.setAttribute("aria-selected", String(isChosen));
    other.tabIndex = isChosen ? 0 : -1;
    byId(other.getAttribute("aria-controls")).hidden = !isChosen;
  }
  if (focus) tab.focus();
  if (tab.id !== "tab-classify") stopCamera();
}

for (const tab of tabs) {
  tab.addEventListener("click", () => selectTab(tab));
  tab.addEventListener("keydown", (event) => {
    const place = tabs.indexOf(tab), shown = tabs.filter((one) => !one.hidden);
    const steps = { ArrowRight: 1, ArrowLeft: -1 };
    if (event.key in steps) selectTab(shown[(shown.indexOf(tab) + steps[event.key] + shown.length) % shown.length], true);
    else if (event.key === "Home") selectTab(shown[0], true);
    else if (event.key === "End") selectTab(shown[shown.length - 1], true);
    else if (place >= 0) return;
    event.preventDefault();
  });
}

// ---- classify ----
function fillCard(card, file, url, found) {
  const one = found.images[0], input = one.input;
  const hasTwo = one.comparison !== null;
  card.replaceChildren(make("h2", "", file.name || "Camera picture"));
  const grid = make("div", hasTwo ? "answer two" : "answer");
  const upload = makePicture(url, "Your image");
  const isSmall = Math.max(input.height, input.width) < 128;
  const seen = makePicture(input.png, `What the model sees, ${input.width} × ${input.height}`, isSmall);
  if (hasTwo) {
    const images = make("div", "images");
    images.append(upload, seen);
    grid.append(images, makeWords(found.model, one.prediction), makeWords(found.comparison, one.comparison));
  } else {
    grid.append(upload, seen, makeWords(found.model, one.prediction));
  }
  card.append(grid);
  const notes = [...input.notes];
  if (input.enlarged) notes.push("the image is smaller than what the model takes, and was enlarged");
  if (input.out_of_range.length) notes.push(`unusual ${input.out_of_range.join(" and ")}: outside the range of the reference images`);
  if (notes.length) card.append(make("p", "small soft", `Note: ${notes.join("; ")}.`));
  const actions = make("p"), stress = make("button", "", "Stress this image");
  stress.type = "button";
  if (state.model.limits.attacks) {
    stress.addEventListener("click", () => { chooseStressImage(file); selectTab(byId("tab-stress"), true); });
    actions.append(stress);
    card.append(actions);
    if (state.model.model.certificate) certifyCard(card, file);
  }
}

async function certifyCard(card, file) {
  const line = make("p", "small", "Certificate: at work …");
  line.setAttribute("role", "status");
  card.append(line);
  try {
    const found = await askServer("/certify", { method: "POST", body: buildForm(file) });
    line.textContent = "";
    line.append(make("span", `verdict ${found.certified || found.radius > 0 ? "good" : ""}`, found.statement));
    const subject = found.concerns === "smoothed" ? " It concerns the majority vote under noise." : "";
    if (found.certificate.caveat || subject) line.append(make("span", "soft", ` ${found.certificate.caveat}.${subject}`));
  } catch (error) {
    line.textContent = `Certificate: ${error.message}`;
  }
}

function buildForm(file) {
  const form = new FormData();
  form.append("image", file, "image");
  return form;
}

async function classifyFile(file, card, url) {
  card.append(make("h2", "", file.name || "Camera picture"), make("p", "soft", "At work …"));
  try {
    if (file.size > state.model.limits.max_body_bytes - 4096) {
      throw new Error(`The file is larger than ${(state.model.limits.max_body_bytes / 2 ** 20).toFixed(1)} MiB.`);
    }
    const path = `/predict?top=5&include_input=true&compare=${state.model.comparison !== null}`;
    fillCard(card, file, url, await askServer(path, { method: "POST", body: buildForm(file) }));
    if (state.image === null && state.model.limits.attacks) chooseStressImage(file);
  } catch (error) {
    card.replaceChildren(make("h2", "", file.name || "Camera picture"), make("p", "problem", error.message));
  }
}

async function classifyFiles(files) {
  if (!state.model || !files.length) return;
  showMessage("");
  const cards = files.map((file) => [file, make("article", "card"), URL.createObjectURL(file)]);
  byId("results").prepend(...cards.map((entry) => entry[1]));
  byId("clear").hidden = false;
  const waiting = [...cards];
  let done = 0;
  const report = () => { byId("progress").textContent = done < cards.length ? `${done} of ${formatCount(cards.length, "image")} done` : `${formatCount(cards.length, "image")} done`; };
  report();
  await Promise.all(Array.from({ length: MAX_REQUESTS }, async () => {
    while (waiting.length) {
      await classifyFile(...waiting.shift());
      done += 1;
      report();
    }
  }));
}

byId("files").addEventListener("change", (event) => {
  classifyFiles([...event.target.files]);
  event.target.value = "";
});
byId("clear").addEventListener("click", () => {
  for (const image of byId("results").querySelectorAll("img")) URL.revokeObjectURL(image.src);
  byId("results").replaceChildren();
  byId("progress").textContent = "";
  byId("clear").hidden = true;
  byId("files").focus();
});
for (const name of ["dragenter", "dragover"]) {
  byId("drop").addEventListener(name, (event) => { event.preventDefault(); byId("drop").classList.add("over-it"); });
}
for (const name of ["dragleave", "drop"]) byId("drop").addEventListener(name, () => byId("drop").classList.remove("over-it"));
byId("drop").addEventListener("drop", (event) => { event.preventDefault(); classifyFiles([...event.dataTransfer.files]); });
document.addEventListener("paste", (event) => classifyFiles([...event.clipboardData.files]));

// ---- camera ----
let camera = null;

function stopCamera() {
  for (const track of camera ? camera.getTracks() : []) track.stop();
  camera = null;
  byId("camera").hidden = true;
  byId("camera-start").disabled = false;
}

byId("camera-start").addEventListener("click", async () => {
  showMessage("");
  try {
    camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    showMessage("The camera cannot be used: there is none, or it was not allowed.");
    return;
  }
  byId("camera-take").disabled = true;
  byId("camera-view").srcObject = camera;
  byId("camera").hidden = false;
  byId("camera-start").disabled = true;
});
byId("camera-view").addEventListener("loadeddata", () => {
  byId("camera-take").disabled = false;
  byId("camera-take").focus();
});
byId("camera-stop").addEventListener("click", () => { stopCamera(); byId("camera-start").focus(); });
byId("camera-take").addEventListener("click", () => {
  const view = byId("camera-view"), canvas = make("canvas");
  canvas.width = view.videoWidth;
  canvas.height = view.videoHeight;
  canvas.getContext("2d").drawImage(view, 0, 0);
  canvas.toBlob((blob) => blob && classifyFiles([new File([blob], "Camera picture", { type: "image/png" })]), "image/png");
});

// ---- the card of the model ----
function addTerm(list, term, text) {
  if (text === null || text === undefined || text === "") return;
  list.append(make("dt", "", term), make("dd", "", String(text)));
}

function describeMeasured(row) {
  const name = row.certificate ? `certified by ${row.certificate}` : row.attack === "none" ? "no attack" : row.attack;
  const budget = row.eps === undefined ? "" : `, ${row.norm} ${row.norm === "Linf" ? `${+(255 * row.eps).toFixed(2)}/255` : row.eps}`;
  return `${name}${row.steps ? `, ${formatCount(row.steps, "step")}` : ""}${row.loss ? ` on the ${row.loss}` : ""}${budget}`;
}

function makeModelCard(model, limits, drift) {
  const section = make("section", "card"), list = make("dl"), input = model.input;
  section.append(make("h2", "", model.name), list);
  addTerm(list, "Source", model.source);
  addTerm(list, "Digest (SHA-256)", model.digest);
  addTerm(list, "Input", `${input.width} × ${input.height}, ${formatCount(input.channels, "channel")}; ${input.preparation}`);
  addTerm(list, "Parameters", model.parameters === null ? null : model.parameters.toLocaleString("en"));
  addTerm(list, "Access of an attacker", model.access);
  addTerm(list, "Certificate", model.certificate ? `${model.certificate.method}, ${model.certificate.threat}` : "none");
  addTerm(list, "Notes", model.notes.join("; "));
  if (drift) addTerm(list, "Drift of inputs", `${formatCount(drift.windows, "window")} of ${formatCount(drift.window, "image")} tested against ${drift.reference}, ${formatCount(drift.alarms, "alarm")}`);
  if (model.measured.length) {
    section.append(make("h3", "", "Measured accuracy"));
    const table = make("table"), head = make("tr"), scroll = make("div", "scroll");
    head.append(make("th", "", "attack or certificate"), make("th", "number", "accuracy"), make("th", "number", "95% interval"), make("th", "number", "n"));
    table.append(head);
    for (const row of model.measured) {
      const line = make("tr");
      line.append(make("td", "", describeMeasured(row)), make("td", "number", formatShare(row.accuracy)), make("td", "number", `${formatShare(row.low)} to ${formatShare(row.high)}`), make("td", "number", String(row.n)));
      table.append(line);
    }
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", `Measured accuracy of ${model.name}`);
    scroll.append(table);
    section.append(scroll);
  }
  const details = make("details"), classes = make("ol", "columns");
  classes.start = 0;
  details.append(make("summary", "", formatCount(model.classes.length, "class").replace("classs", "classes")), classes);
  for (const name of model.classes) classes.append(make("li", "", name));
  section.append(details);
  return section;
}

async function loadModel() {
  try {
    state.model = await askServer("/model");
  } catch (error) {
    byId("model-name").textContent = "No model";
    showMessage(error.message);
    return;
  }
  const { model, comparison, limits, drift } = state.model;
  byId("model-name").textContent = model.name;
  document.title = `${model.name}: image classifier`;
  const beside = comparison ? `, beside ${comparison.name}` : "";
  byId("model-line").textContent = `${model.classes.length.toLocaleString("en")} classes${beside}`;
  if (limits.keeps_images) byId("upload-help").textContent = "PNG, JPEG, BMP or PPM. Images that you upload are kept on the server.";
  byId("cards").append(makeModelCard(model, limits, drift));
  if (comparison) byId("cards").append(makeModelCard(comparison, limits, null));
  byId("tab-stress").hidden = !limits.attacks;
  if (limits.attacks) prepareStress();
}

window.addEventListener("DOMContentLoaded", loadModel);
