// What every page needs: copying, confirming, times that tick, and the islands of the page.

const units = [[86400, "d"], [3600, "h"], [60, "min"]];

function ago(seconds) {
  if (seconds < 60) return "just now";
  const [unit, word] = units.find(([least]) => seconds >= least);
  return `${Math.floor(seconds / unit)} ${word} ago`;
}

function took(seconds) {
  const s = Math.max(0, Math.round(seconds));
  const two = (n) => String(n).padStart(2, "0");
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${two(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

function tick() {
  const now = Date.now();
  for (const time of document.querySelectorAll("[data-when]")) {
    const moment = new Date(time.dateTime);
    time.textContent = ago((now - moment) / 1000);
    time.title = moment.toLocaleString();
  }
  for (const span of document.querySelectorAll("[data-since]")) {
    span.textContent = took((now - new Date(span.dataset.since)) / 1000);
  }
}

async function copy(button) {
  await navigator.clipboard.writeText(button.dataset.copy);
  const before = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = before; }, 1500);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
});
document.addEventListener("submit", (event) => {
  const asked = event.target.dataset.confirm;
  if (asked && !window.confirm(asked)) event.preventDefault();
});
document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submit]")) event.target.form.requestSubmit();
});
document.addEventListener("htmx:sendError", () => {
  const place = document.getElementById("messages");
  if (place) place.replaceChildren(said("The service does not answer. This page goes on when it does."));
});
document.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.successful) document.querySelector("#messages .lost")?.remove();
});
document.addEventListener("htmx:afterSwap", tick);

// A part that is shown anew keeps the keyboard's place in it.
const nameOf = (one) => one.id || one.getAttribute("href") || one.textContent;
let kept = null;
document.addEventListener("htmx:beforeSwap", (event) => {
  const at = document.activeElement;
  const place = event.detail.target;
  kept = place.id && place !== at && place.contains(at) ? { place: place.id, name: nameOf(at) } : null;
});
document.addEventListener("htmx:afterSettle", () => {
  const place = kept && document.activeElement === document.body && document.getElementById(kept.place);
  if (place) [...place.querySelectorAll("a, button, summary, input")].find((one) => nameOf(one) === kept.name)?.focus({ preventScroll: true });
  kept = null;
});

function said(text) {
  const line = document.createElement("p");
  line.className = "message even lost";
  line.textContent = text;
  return line;
}

// A page without a session opens by itself once this browser has signed in elsewhere.
if (document.querySelector("[data-signed-out]")) {
  setInterval(async () => {
    const answer = await fetch("/studio/now").catch(() => null);
    if (answer?.ok) location.reload();
  }, 3000);
}

tick();
setInterval(tick, 1000);
if (document.querySelector("[data-curves]")) import("./charts.mjs").then((charts) => charts.begin());
if (document.querySelector("[data-log]")) import("./log.mjs").then((log) => log.begin());
if (document.querySelector("[data-traffic-mark]")) import("./traffic.mjs").then((traffic) => traffic.begin());
if (document.querySelector("[data-chat]")) import("./chat.mjs").then((chat) => chat.begin());
