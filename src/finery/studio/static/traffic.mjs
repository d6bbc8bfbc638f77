// Shares of traffic that always sum to 100: one is moved, the others give or take in proportion.

// `shares` with the one at `index` set to `wanted`: whole numbers, largest remainders first.
export function moved(shares, index, wanted) {
  if (shares.length === 1) return [100];
  const value = Math.min(100, Math.max(0, Math.round(wanted) || 0));
  const rest = shares.reduce((sum, share, i) => (i === index ? sum : sum + share), 0);
  const left = 100 - value;
  const exact = shares.map((share, i) => (i === index ? 0 : rest ? (share / rest) * left : left / (shares.length - 1)));
  const found = exact.map(Math.floor);
  let missing = left - found.reduce((sum, share) => sum + share, 0);
  const order = exact.map((share, i) => [share - found[i], i]).filter(([, i]) => i !== index);
  for (const [, i] of order.sort((a, b) => b[0] - a[0] || a[1] - b[1])) if (missing-- > 0) found[i] += 1;
  found[index] = value;
  return found;
}

export function begin() {
  dress(document.getElementById("traffic"));
  document.addEventListener("htmx:afterSwap", () => {
    const card = document.getElementById("traffic");
    if (!card) return;
    dress(card);
    refresh(card);
  });
}

// Who gets what may change elsewhere: by a canary, another page, a new deployment.
function refresh(card) {
  const now = document.getElementById("state")?.dataset.trafficMark;
  if (!now || now === card.dataset.trafficMark || card.dataset.asked === now) return;
  if (card.dataset.touched) {
    card.querySelector("[data-sum]").textContent = "The traffic was changed elsewhere. Load the page anew to change it.";
    return;
  }
  card.dataset.asked = now;
  window.htmx.ajax("GET", card.dataset.traffic || `${location.pathname}/traffic`, { target: card, swap: "outerHTML" });
}

function dress(card) {
  if (!card?.dataset.traffic || card.dataset.dressed) return;
  card.dataset.dressed = "yes";
  const boxes = [...card.querySelectorAll("[data-share]")];
  const slides = [...card.querySelectorAll("[data-slide]")];
  const sum = card.querySelector("[data-sum]");
  let shares = boxes.map((box) => Number(box.value));

  function show(except) {
    for (const [i, share] of shares.entries()) {
      slides[i].value = String(share);
      if (boxes[i] !== except) boxes[i].value = String(share);
    }
    sum.textContent = `The shares sum to ${shares.reduce((total, share) => total + share, 0)}.`;
  }

  function move(index, wanted, except) {
    shares = moved(shares, index, wanted);
    card.dataset.touched = "yes";
    show(except);
  }

  for (const [i, slide] of slides.entries()) {
    slide.hidden = false;
    slide.addEventListener("input", () => move(i, Number(slide.value)));
    boxes[i].addEventListener("input", () => move(i, Number(boxes[i].value), boxes[i]));
    boxes[i].addEventListener("change", () => move(i, Number(boxes[i].value)));
  }
  for (const control of card.querySelectorAll("select, [name=mirrored]")) {
    control.addEventListener("input", () => { card.dataset.touched = "yes"; });
  }
}
