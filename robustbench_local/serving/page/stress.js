"use strict";
// The stress test: an attack on one image, on every served model.

const SPEED_LIMIT = /^speed limit \(/i;
const stress = { controller: null, hasRun: false };
const CORRUPTIONS = ["gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"];

function addOption(select, value, text) {
  const option = make("option", "", text);
  option.value = value;
  select.append(option);
}

function addGroup(select, label) {
  const group = make("optgroup");
  group.label = label;
  select.append(group);
  return group;
}

function prepareStress() {
  const { model, limits } = state.model;
  const balls = addGroup(byId("threat"), "Small perturbations, by norm");
  addOption(balls, "Linf", "Linf: each pixel changes by at most eps");
  addOption(balls, "L2", "L2: the whole perturbation has length eps");
  const common = addGroup(byId("threat"), "Common corruptions");
  for (const name of CORRUPTIONS) addOption(common, name, name.replaceAll("_", " "));
  addOption(byId("target"), "", "any other class");
  if (model.classes.some((name) => SPEED_LIMIT.test(name))) addOption(byId("target"), "speed limits", "a speed limit (any of them)");
  addOption(byId("label"), "", "what the model predicts");
  for (const id of ["target", "label"]) {
    const group = addGroup(byId(id), "Classes");
    model.classes.forEach((name, index) => addOption(group, String(index), name));
  }
  byId("steps").max = limits.max_attack_steps;
  if (model.access !== "gradients") {
    for (const option of byId("attack").options) option.disabled = option.value !== "square";
    byId("attack").value = "square";
  }
  updateForm();
}

function isBall() {
  return ["Linf", "L2"].includes(byId("threat").value);
}

function updateForm() {
  const norm = byId("threat").value, eps = byId("eps");
  const isLinf = norm === "Linf";
  if (isBall() && eps.dataset.norm !== norm) {
    eps.dataset.norm = norm;
    [eps.max, eps.step] = isLinf ? [16, 0.5] : [3, 0.05];
    eps.value = isLinf ? 8 : 0.5;
  }
  document.querySelector(".for-ball").hidden = !isBall();
  document.querySelector(".for-corruption").hidden = isBall();
  byId("steps-part").hidden = byId("attack").value === "fgsm";
  byId("eps-text").textContent = isLinf ? `${eps.value}/255` : Number(eps.value).toFixed(2);
  eps.setAttribute("aria-valuetext", byId("eps-text").textContent);
  byId("steps-text").textContent = byId("steps").value;
  byId("severity-text").textContent = `${byId("severity").value} of 5`;
}

function collectQuery() {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(collectFields())) {
    for (const item of Array.isArray(value) ? value : [value]) query.append(name, item);
  }
  return query;
}

function collectFields() {
  const fields = { threat: byId("threat").value, seed: "0" };
  if (byId("label").value) fields.label = byId("label").value;
  if (!isBall()) return { ...fields, severity: byId("severity").value };
  const eps = Number(byId("eps").value), target = byId("target").value;
  fields.attack = byId("attack").value;
  fields.eps = String(fields.threat === "Linf" ? eps / 255 : eps);
  fields.steps = byId("steps").value;
  if (target === "speed limits") {
    fields.target = state.model.model.classes.flatMap((name, index) => (SPEED_LIMIT.test(name) ? [String(index)] : []));
  } else if (target) fields.target = [target];
  return fields;
}

function chooseStressImage(file) {
  state.image = file;
  stress.hasRun = false;
  byId("stress-name").textContent = file.name || "Camera picture";
  const thumb = byId("stress-thumb");
  if (thumb.src) URL.revokeObjectURL(thumb.src);
  thumb.src = URL.createObjectURL(file);
  thumb.hidden = false;
  byId("stress-run").disabled = false;
  byId("stress-results").replaceChildren();
  byId("stress-progress").textContent = "";
}

function describeShift(before, after) {
  const share = (answer) => (answer.probability === null ? "" : ` (${formatShare(answer.probability)})`);
  return `${describeAnswer(before)}${share(before)} → ${describeAnswer(after)}${share(after)}`;
}

function describeSizes(result) {
  const found = result.measured;
  const parts = [`Linf ${(255 * found.linf).toFixed(1)}/255`, `L2 ${found.l2.toFixed(2)}`, formatCount(found.forward_passes + found.backward_passes, "pass").replace("passs", "passes")];
  if (found.success_8bit !== null) parts.push(found.success_8bit ? "also succeeds as an 8-bit file" : "lost when rounded to 8 bits");
  return parts.join(", ");
}

function makeResult(result, origin) {
  const card = make("article", "card");
  card.append(make("h2", "", result.model));
  const isBad = ["success", "misclassified"].includes(result.outcome);
  card.append(make("p", `verdict ${isBad ? "bad" : result.outcome === "failure" ? "good" : ""}`, result.statement));
  if (result.label) card.append(make("p", "small soft", `Label used: ${result.label.name} (${origin === "chosen" ? "chosen" : "predicted for the clean image"}).`));
  if (!result.pictures) return card;
  card.append(make("p", "", describeShift(result.clean, result.adversarial)));
  const pictures = make("div", "pictures");
  pictures.append(
    makePicture(result.pictures.clean, "Image", true),
    makePicture(result.pictures.adversarial, "Attacked image", true),
    makePicture(result.pictures.difference, `Difference × ${result.pictures.amplification}, around gray`, true),
  );
  card.append(pictures, make("p", "small soft", `${describeSizes(result)}.`));
  if (result.transferred) {
    const told = `${describeAnswer(result.transferred.answer)} (${formatShare(result.transferred.answer.probability)})`;
    card.append(make("p", "small", `The image made against ${result.transferred.from}: ${told}. That attacker does not know this model, so it says little about its robustness.`));
  }
  return card;
}

async function runStress() {
  if (!state.image) return;
  if (stress.controller) stress.controller.abort();
  const controller = stress.controller = new AbortController();
  byId("stress-progress").textContent = "Attack at work …";
  byId("stress-results").setAttribute("aria-busy", "true");
  try {
    const options = { method: "POST", body: buildForm(state.image), signal: controller.signal };
    const found = await askServer(`/attack?${collectQuery()}`, options);
    byId("stress-results").replaceChildren(...found.results.map((result) => makeResult(result, found.label_origin)));
    byId("stress-progress").textContent = "Attack finished.";
    byId("stress-progress").scrollIntoView({ block: "nearest" });
    stress.hasRun = true;
  } catch (error) {
    if (error.name === "AbortError") return;
    byId("stress-results").replaceChildren(make("p", "problem", error.message));
    byId("stress-progress").textContent = "";
  }
  byId("stress-results").removeAttribute("aria-busy");
}

byId("stress-file").addEventListener("change", (event) => {
  if (event.target.files.length) chooseStressImage(event.target.files[0]);
  event.target.value = "";
});
byId("stress-form").addEventListener("input", updateForm);
byId("stress-form").addEventListener("change", (event) => {
  updateForm();
  if (stress.hasRun && event.target.type !== "file") runStress();
});
byId("stress-form").addEventListener("submit", (event) => { event.preventDefault(); runStress(); });
