// The fine-tuning form: what is changed is marked at once, uploads show how far they are.

function isChanged(control) {
  const was = control.dataset.was;
  if (control.type === "checkbox") return String(control.checked) !== was;
  if (control.type === "radio") return control.checked && control.value !== was;
  return control.value.trim() !== was;
}

function mark(control) {
  if (control.dataset.was === undefined) return;
  const place = control.closest(".field, tr");
  if (control.type === "radio") {
    for (const one of document.querySelectorAll(`input[name="${control.name}"]`)) {
      one.closest("tr").classList.toggle("differs", isChanged(one));
    }
  } else place?.classList.toggle("differs", isChanged(control));
}

function choose(control) {
  if (control.type !== "radio") return;
  for (const row of control.closest("tbody").rows) row.classList.toggle("chosen", row.contains(control));
}

function isTooLarge(input) {
  const most = Number(input.form.dataset.largest);
  const file = input.files?.[0];
  if (!file || file.size <= most) return false;
  input.value = "";
  const text = document.createElement("p");
  text.className = "fault-text";
  text.setAttribute("role", "alert");
  text.textContent = `${file.name} is larger than ${Math.round(most / 1e9)} GB: use the SDK or the command line.`;
  input.closest(".field").append(text);
  return true;
}

document.addEventListener("input", (event) => mark(event.target));
document.addEventListener("change", (event) => { mark(event.target); choose(event.target); });
document.addEventListener("htmx:confirm", (event) => {
  const input = event.target;
  if (input.matches?.("[data-upload]") && (isTooLarge(input) || !input.files.length)) event.preventDefault();
});
document.addEventListener("htmx:xhr:progress", (event) => {
  const bar = event.target.closest?.(".field")?.querySelector("progress.sending");
  if (!bar || !event.detail.lengthComputable) return;
  bar.hidden = false;
  bar.value = event.detail.loaded / event.detail.total;
});
document.addEventListener("htmx:afterSettle", (event) => {
  const asked = event.detail.requestConfig?.elt;
  if (event.target.id !== "fine-tune" || asked?.value !== "look") return;
  const place = document.getElementById("faults") ?? document.getElementById("review");
  place?.focus({ preventScroll: true });
  place?.scrollIntoView({ block: "start" });
});
document.addEventListener("submit", (event) => {
  if (event.target.id === "fine-tune") event.target.classList.add("htmx-request");
});
// Back from the run's page by the browser's history: the form is ready again.
window.addEventListener("pageshow", () => {
  document.getElementById("fine-tune")?.classList.remove("htmx-request");
});
