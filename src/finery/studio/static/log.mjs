// A log that is followed: server-sent events from a place in bytes, only while it is looked at.

const MOST = 2_000_000; // characters that stay on the page

export function begin() {
  for (const place of document.querySelectorAll("[data-log]")) follow(place);
}

function follow(place) {
  const text = place.querySelector("[data-text]");
  const stick = place.querySelector("[data-stick]");
  const status = place.querySelector("[data-status]");
  const address = place.dataset.log;
  let at = place.dataset.at;
  let stream = null;
  let ended = !address;
  const toEnd = () => { if (stick.checked) text.scrollTop = text.scrollHeight; };
  toEnd();

  function open() {
    if (ended || stream || document.hidden) return;
    stream = new EventSource(`${address}&at=${at}`);
    stream.addEventListener("open", () => { status.textContent = "live"; });
    stream.addEventListener("error", () => { status.textContent = "waiting for the service"; });
    stream.addEventListener("text", (event) => {
      at = event.lastEventId;
      text.append(JSON.parse(event.data));
      while (text.textContent.length > MOST && text.firstChild !== text.lastChild) text.firstChild.remove();
      toEnd();
    });
    stream.addEventListener("end", () => {
      ended = true;
      close();
      status.textContent = "ended";
    });
  }

  function close() {
    stream?.close();
    stream = null;
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", open);
  stick.addEventListener("change", toEnd);
  text.addEventListener("wheel", (event) => { if (event.deltaY < 0) stick.checked = false; }, { passive: true });
  open();
}
