// One message to several models, their answers side by side as they are made. Everything that a
// model says becomes text nodes: nothing of it is ever read as HTML.

export function begin() {
  for (const place of document.querySelectorAll("[data-chat]")) new Chat(place).start();
}

function made(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// The events of a stream of server-sent events, one JSON value each.
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data:")) yield JSON.parse(part.slice(5));
  }
}

export function speed(done) {
  const said = [`${done.completion_tokens} tokens`];
  if (done.first_seconds !== null) said.push(`first after ${done.first_seconds.toFixed(2)} s`);
  if (done.tokens_per_s !== null) said.push(`then ${done.tokens_per_s.toFixed(1)} tokens/s`);
  return said.join(" · ");
}

class Column {
  constructor(place, chat) {
    this.place = place;
    this.chat = chat;
    this.voice = place.dataset.column;
    this.turns = place.querySelector("[data-turns]");
    this.speed = place.querySelector("[data-speed]");
    this.messages = [];
    place.querySelector("[data-save]").addEventListener("click", () => chat.save(this));
    place.querySelector("[data-download]").addEventListener("click", () => this.download());
  }

  get row() {
    return [...(this.system ? [{ role: "system", content: this.system }] : []), ...this.messages];
  }

  say(role, text) {
    this.turns.querySelector("[data-empty]")?.remove();
    const lines = made("span", { class: "lines" }, text);
    this.turns.append(made("div", { class: `said ${role}` }, made("span", { class: "role" }, role === "user" ? "you" : role), lines));
    this.turns.scrollTop = this.turns.scrollHeight;
    return lines;
  }

  // One answer; what it says when it is over, for whoever cannot see it grow.
  async ask(text, settings, signal) {
    this.system = settings.system;
    const asked = [...this.row, { role: "user", content: text }];
    this.say("user", text);
    const lines = this.say("assistant", "");
    lines.parentElement.classList.add("growing");
    this.turns.setAttribute("aria-busy", "true");
    this.speed.textContent = "…";
    let answer = "", end = "stopped";
    try {
      for await (const event of this.events(asked, settings, signal)) {
        if (event.text) {
          const isAtEnd = this.turns.scrollTop + this.turns.clientHeight > this.turns.scrollHeight - 40;
          answer += event.text;
          lines.append(event.text);
          if (isAtEnd) this.turns.scrollTop = this.turns.scrollHeight;
        }
        if (event.done) end = speed(event.done) + (event.done.finish_reason === "length" ? " · cut off" : "");
        if (event.error) throw new Error(event.error);
      }
      if (end === "stopped" && !signal.aborted) throw new Error("The answer broke off.");
    } catch (error) {
      if (!signal.aborted) {
        this.fail(lines, error);
        return `${this.voice}: ${error.message}`;
      }
    } finally {
      lines.parentElement.classList.remove("growing");
      this.turns.removeAttribute("aria-busy");
    }
    this.speed.textContent = end;
    if (!answer) {
      lines.classList.add("muted");
      lines.textContent = end === "stopped" ? "(stopped before the first word)" : "(an empty answer)";
    }
    // A turn without an answer is no part of the conversation: the next one is asked without it.
    if (answer) this.messages.push({ role: "user", content: text }, { role: "assistant", content: answer });
    this.offer();
    return `${this.voice} says: ${answer}`;
  }

  async *events(messages, settings, signal) {
    const { temperature, top_p, max_tokens, seed } = settings;
    const body = new URLSearchParams({ voice: this.voice, messages: JSON.stringify(messages), temperature, top_p, max_tokens, seed });
    const headers = { "x-finery-token": this.chat.token, "hx-request": "true" };
    const answer = await fetch(this.chat.address, { method: "POST", body, headers, signal });
    if (!answer.ok || !answer.headers.get("content-type").startsWith("text/event-stream")) {
      const told = new DOMParser().parseFromString(await answer.text(), "text/html");
      throw new Error(told.body.textContent.trim() || `The service answered with ${answer.status}.`);
    }
    yield* events(answer.body);
  }

  fail(lines, error) {
    const text = error instanceof TypeError ? "The service does not answer." : error.message;
    lines.parentElement.append(made("span", { class: "bad-text lines wrong" }, text));
    this.speed.textContent = "failed";
    this.offer();
  }

  offer() {
    for (const button of this.place.querySelectorAll("[data-save], [data-download]")) button.hidden = !this.messages.length;
  }

  reset() {
    this.messages = [];
    this.speed.textContent = "";
    this.turns.replaceChildren(made("p", { class: "empty", "data-empty": "" }, "No message yet."));
    this.offer();
  }

  download() {
    const content = new Blob([`${JSON.stringify({ messages: this.row })}\n`], { type: "application/jsonl" });
    const link = made("a", { href: URL.createObjectURL(content), download: `${this.voice.replaceAll("/", "-")}.jsonl` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }
}

class Chat {
  constructor(place) {
    this.place = place;
    this.address = place.dataset.chat;
    this.most = Number(place.dataset.most);
    this.token = JSON.parse(document.body.getAttribute("hx-headers"))["x-finery-token"];
    this.columns = [...place.querySelectorAll("[data-column]")].map((one) => new Column(one, this));
    this.boxes = [...place.querySelectorAll("[data-voice]")];
    this.find = (name) => place.querySelector(`[data-${name}]`);
    this.text = place.querySelector("textarea#said");
  }

  start() {
    for (const box of this.boxes) box.addEventListener("change", () => this.choose());
    this.find("ask").addEventListener("submit", (event) => { event.preventDefault(); this.send(); });
    this.text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.find("ask").requestSubmit();
    });
    this.find("stop").addEventListener("click", () => this.stopping?.abort());
    this.find("reset").addEventListener("click", () => this.reset());
    this.find("close").addEventListener("click", () => this.find("saving").close());
    this.find("settings").addEventListener("input", () => this.summary());
    this.choose();
    this.summary();
  }

  get chosen() {
    const names = this.boxes.filter((box) => box.checked).map((box) => box.value);
    return this.columns.filter((column) => names.includes(column.voice));
  }

  choose() {
    const chosen = this.chosen;
    for (const box of this.boxes) box.disabled = !box.checked && chosen.length >= this.most;
    for (const column of this.columns) column.place.hidden = !chosen.includes(column);
    this.find("send").disabled = !chosen.length;
    this.find("note").textContent = chosen.length ? "" : "Choose who answers.";
    const query = chosen.map((column) => `voice=${column.voice.split("/").map(encodeURIComponent).join("/")}`);
    history.replaceState(null, "", query.length ? `?${query.join("&")}` : location.pathname);
  }

  get settings() {
    const fields = [...this.find("settings").querySelectorAll("[name]")];
    return Object.fromEntries(fields.map((field) => [field.name, field.type === "checkbox" ? field.checked : field.value.trim()]));
  }

  summary() {
    const { temperature, top_p, max_tokens, seed, system } = this.settings;
    this.find("summary").textContent = `temperature ${temperature}, top_p ${top_p}, ${max_tokens} tokens, seed ${seed}${system ? ", a system prompt" : ""}`;
  }

  async send() {
    const text = this.text.value.trim(), chosen = this.chosen;
    if (!text || !chosen.length || this.stopping) return;
    if (!this.find("settings").querySelectorAll(":invalid").length) this.text.value = "";
    else { this.find("settings").closest("details").open = true; this.find("settings").querySelector(":invalid").reportValidity(); return; }
    const settings = this.settings;
    this.stopping = new AbortController();
    this.busy(true);
    this.spoken(chosen.length > 1 ? `${chosen.length} models answer.` : `${chosen[0].voice} answers.`);
    const ask = (column) => column.ask(text, settings, this.stopping.signal);
    const said = [];
    if (settings.in_turn) for (const column of chosen) { if (!this.stopping.signal.aborted) said.push(await ask(column)); }
    else said.push(...await Promise.all(chosen.map(ask)));
    this.stopping = null;
    this.busy(false);
    this.spoken(said.join(". "));
    this.text.focus();
  }

  busy(is) {
    this.find("send").hidden = is;
    this.find("stop").hidden = !is;
    this.find("reset").disabled = is;
    for (const box of this.boxes) box.disabled = is;
    if (is) this.find("stop").focus(); else this.choose();
  }

  spoken(text) {
    this.find("spoken").textContent = text;
  }

  reset() {
    for (const column of this.columns) column.reset();
    this.spoken("The conversation starts over.");
    this.text.focus();
  }

  save(column) {
    const dialog = this.find("saving");
    dialog.querySelector("[name=messages]").value = JSON.stringify(column.row);
    this.find("saved").replaceChildren();
    dialog.showModal();
  }
}
