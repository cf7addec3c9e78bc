// A chat page without a framework and without a build: copy it.
//
// The server has three addresses, relative to the page:
//   POST answers          {id, messages}: begin the answer `id`, and send its events
//   GET  answers/ID       the events of that answer after the header Last-Event-ID; 204: not known
//   POST answers/ID/stop  end it
// The page makes the id. So a request that is sent again, because nobody knows whether the first
// one arrived, finds the answer that runs already, and the prompt runs once.

import { Markdown } from "./markdown.js";

const SILENCE = 45_000; // ms without a byte, three heartbeats of the server: the connection is dead
const WAITS = [0, 100, 1000, 2000, 4000, 8000, 8000]; // ms before each further connection

const $ = (id) => document.getElementById(id);
const log = $("log"), form = $("composer"), prompt = $("prompt"), send = $("send"), stop = $("stop");

// ---- the conversation: in the tab's own storage, so that a reload keeps it --------------------

// A turn is {role: "user", text} or {role: "assistant", text, thinking, id, state, accepted, ...}.
// The state of an answer is "running", "done", "stopped" or "failed"; `accepted`: the server has it.
let turns = [];
try {
  turns = JSON.parse(sessionStorage.getItem("turns")) ?? [];
} catch {} // storage may be forbidden, and what it holds may be of another version of this page

function save() {
  try {
    sessionStorage.setItem("turns", JSON.stringify(turns));
  } catch {} // forbidden or full: the page works without it, but for a reload
}

// crypto.randomUUID exists on https and localhost only; this one everywhere.
const newId = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (n) => n.toString(16).padStart(2, "0")).join("");

// ---- server-sent events, by fetch ----------------------------------------------------------------

// Not by EventSource: that can only GET, connects again after a clean end too, and would run the
// prompt again each time. An event counts once its blank line has come (WHATWG HTML 9.2.6).
async function* eventsOf(body, onBytes) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", event = { type: "", data: [] }, id = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    onBytes();
    // A "\r" at the very end may be the first half of "\r\n".
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (event.data.length) yield { type: event.type || "message", data: event.data.join("\n"), id };
        event = { type: "", data: [] };
        continue;
      }
      const [, field, text] = /^([^:]*)(?:: ?)?(.*)$/s.exec(line);
      if (field === "data") event.data.push(text);
      else if (field === "event") event.type = text;
      else if (field === "id") id = text;
    }
  }
}

// ---- one answer, whatever happens to the connection ----------------------------------------------

let running = null; // the AbortController of the answer that runs

async function run(turn, view) {
  const user = (running = new AbortController());
  turn.state = "running";
  save();
  showRunning();
  view.begin();
  try {
    await follow(turn, view, user.signal);
  } catch (error) {
    if (!user.signal.aborted) {
      console.error(error);
      fail(turn, "Something went wrong in this page.");
    }
  }
  if (user.signal.aborted) turn.state = "stopped";
  save();
  view.end();
  if (running === user) running = null;
  showRunning();
}

async function follow(turn, view, signal) {
  let last = ""; // the id of the last event that was read
  let problem = "The connection to the server is lost.";
  let begun = false; // without an id all events are sent, after a reload too
  for (let failures = 0; failures < WAITS.length; failures++) {
    if (failures) view.note("Connection lost. Trying again …");
    await pause(WAITS[failures], signal);
    const connection = new AbortController();
    const abort = () => connection.abort();
    let timer = setTimeout(abort, SILENCE);
    const alive = () => { clearTimeout(timer); timer = setTimeout(abort, SILENCE); };
    signal.addEventListener("abort", abort);
    let ended = false;
    try {
      const response = await connect(turn, last, connection.signal);
      if (response.status === 204) return fail(turn, "The server no longer has this answer.");
      if (!response.ok) problem = await reason(response);
      if ([502, 503, 504].includes(response.status)) continue; // the server starts just now
      if (!response.ok) return fail(turn, problem);
      turn.accepted = true;
      save();
      for await (const event of eventsOf(response.body, alive)) {
        if (!begun) turn.text = turn.thinking = "";
        begun = true;
        if (event.id) last = event.id;
        failures = 0;
        view.note("");
        ended = take(turn, event, view);
        if (ended) return;
        view.update();
      }
      // The body has ended, but the answer has not: it was cut, however clean that looked.
    } catch (error) {
      if (signal.aborted) throw error;
      if (!(error instanceof TypeError || error.name === "AbortError")) throw error;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
      if (!ended) connection.abort();
    }
  }
  fail(turn, problem, "Reconnect");
}

function connect(turn, last, signal) {
  const headers = last ? { "Last-Event-ID": last } : {};
  if (turn.accepted) return fetch(`answers/${turn.id}`, { headers, signal, cache: "no-store" });
  return post("answers", { id: turn.id, messages: messagesBefore(turn) }, { signal, headers });
}

function post(url, body, { headers = {}, ...more } = {}) {
  const csrf = /(?:^|; )csrftoken=([^;]+)/.exec(document.cookie)?.[1]; // Django's
  headers = { ...headers, "Content-Type": "application/json", ...(csrf && { "X-CSRFToken": csrf }) };
  return fetch(url, { method: "POST", headers, body: JSON.stringify(body), ...more });
}

// What the model is sent: the turns before this answer, without those that brought nothing.
function messagesBefore(turn) {
  return turns
    .slice(0, turns.indexOf(turn))
    .filter((one) => one.text)
    .map((one) => ({ role: one.role, content: one.text }));
}

// Whether the answer has ended with this event. One that this page does not know is passed over.
function take(turn, { type, data }, view) {
  const value = JSON.parse(data);
  if (type === "token") turn.text += value.text;
  else if (type === "thinking") turn.thinking += value.text;
  else if (type === "restart") turn.text = turn.thinking = "";
  else if (type === "retry") view.note("The service is busy. Trying again …");
  else if (type === "error") fail(turn, value.message);
  else if (type === "done" && value.text_length !== characters(turn.text)) {
    fail(turn, "A part of the answer was lost on its way.", "Reconnect"); // brings all of it again
  } else if (type === "done") {
    turn.state = "done";
    turn.usage = value.usage;
    turn.finish = value.finish;
  }
  return type === "error" || type === "done";
}

// JavaScript counts UTF-16 code units, of which an emoji has two and more.
function characters(text) {
  let count = 0;
  for (const _ of text) count++;
  return count;
}

function fail(turn, message, again = "Try again") {
  turn.state = "failed";
  turn.error = { message, again };
}

async function reason(response) {
  const body = await response.json().catch(() => ({}));
  if (typeof body.error === "string") return body.error;
  return response.status < 500 ? "The server refuses this." : "The server has failed.";
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const done = (end) => () => {
      clearTimeout(timer);
      removeEventListener("online", wake);
      signal.removeEventListener("abort", leave);
      end();
    };
    const wake = done(resolve), leave = done(() => reject(signal.reason));
    const timer = setTimeout(wake, ms);
    addEventListener("online", wake); // the network is back: no need to wait for the clock
    signal.addEventListener("abort", leave);
  });
}

// The reader first, then the request: a server with one worker per connection needs this one free.
async function halt() {
  const turn = turns.at(-1);
  running?.abort();
  for (const wait of [0, 500, 2000]) {
    await new Promise((resolve) => setTimeout(resolve, wait));
    const response = await post(`answers/${turn.id}/stop`, {}, { keepalive: true }).catch(() => null);
    // Once is enough, unless the request that begins the answer may still be on its way.
    if (response?.ok && turn.accepted) return;
  }
}

// ---- what is seen of an answer -------------------------------------------------------------------

function show(turn) {
  $("empty")?.remove();
  const node = $(turn.role === "user" ? "question" : "answer").content.cloneNode(true).firstElementChild;
  log.append(node);
  sizes.observe(node);
  if (turn.role === "user") {
    node.querySelector(".text").textContent = turn.text;
    return;
  }
  const part = (name) => node.querySelector(name);
  const text = new Markdown(part(".text"));
  let frame = 0;

  const draw = () => {
    cancelAnimationFrame(frame);
    frame = 0;
    text.show(turn.text);
    part(".thinking").hidden = !turn.thinking;
    part(".thinking p").textContent = turn.thinking;
  };
  const view = {
    node,
    note: (words) => { if (part(".note").textContent !== words) part(".note").textContent = words; },
    update: () => { frame ||= requestAnimationFrame(draw); }, // once a frame, however fast they come
    begin() {
      node.setAttribute("aria-busy", "true");
      part(".error").hidden = part("footer").hidden = true;
      part(".typing").hidden = false;
      draw();
      say("The answer is being written.");
    },
    end() {
      draw(); // at once: a hidden tab has no frames
      node.removeAttribute("aria-busy");
      part(".typing").hidden = true;
      part(".error").hidden = turn.state !== "failed";
      if (turn.state === "failed") {
        part(".error p").textContent = turn.error.message;
        part(".error button").textContent = turn.error.again;
      }
      part(".usage").textContent = summary(turn);
      part("footer").hidden = turn.state === "failed";
      say(turn.state === "done" ? "The answer is complete." : turn.state === "stopped" ? "Stopped." : "");
    },
  };
  part(".error button").onclick = () => {
    if (turn.error.again === "Reconnect") run(turn, view); // the same answer: not a second prompt
    else again(turn, view);
  };
  part(".regenerate").onclick = () => again(turn, view);
  return view;
}

const FINISHES = {
  length: "cut off at its greatest length",
  content_filter: "cut off by a content filter",
  refusal: "the model refused",
};

function summary(turn) {
  const { input_tokens: read, output_tokens: written } = turn.usage ?? {};
  return [
    turn.state === "stopped" && "stopped",
    turn.state === "done" && FINISHES[turn.finish],
    read != null && `${read} tokens read`,
    written != null && `${written} written`,
  ].filter(Boolean).join(" · ");
}

// Announced by screen readers, not shown.
const say = (words) => { $("status").textContent = words; };

// ---- the page ------------------------------------------------------------------------------------

// The newest text is kept in view until the user scrolls up, and again once he is back at the end.
let following = true, height = 0;
const toNewest = () => { log.scrollTop = log.scrollHeight; };
log.addEventListener("scroll", () => {
  if (log.scrollHeight - log.scrollTop - log.clientHeight < 40) following = true;
  else if (log.scrollTop < height) following = false; // a text that grows never does that
  height = log.scrollTop;
  $("newest").hidden = following;
});
// At once: the text may grow between the wheel and the scroll event, and take the view back.
log.addEventListener("wheel", (event) => {
  if (event.deltaY < 0 && log.scrollTop > 0) following = $("newest").hidden = false;
}, { passive: true });
const sizes = new ResizeObserver(() => { if (following) toNewest(); });
sizes.observe(log); // and every answer
$("newest").onclick = () => { following = true; toNewest(); prompt.focus(); };

// A phone's keyboard covers the page in Safari; elsewhere the page shrinks by itself.
visualViewport?.addEventListener("resize", () => {
  const covered = innerHeight - visualViewport.height > 80 && visualViewport.scale === 1;
  const style = document.documentElement.style;
  if (covered) style.setProperty("--height", `${visualViewport.height}px`);
  else style.removeProperty("--height");
});

function showRunning() {
  const hadFocus = document.activeElement === stop || document.activeElement === send;
  send.hidden = !!running;
  stop.hidden = !running;
  send.disabled = !prompt.value.trim();
  if (hadFocus) (running ? stop : prompt).focus();
  for (const button of log.querySelectorAll(".regenerate, .error button")) {
    button.hidden = !!running || button.closest("article") !== log.lastElementChild;
  }
}

function ask(text) {
  const question = { role: "user", text };
  turns.push(question);
  show(question);
  answer();
}

function answer() {
  const turn = { role: "assistant", text: "", thinking: "", id: newId() };
  turns.push(turn);
  following = true;
  run(turn, show(turn));
}

function again(turn, view) {
  if (running || turn !== turns.at(-1)) return;
  turns.pop();
  view.node.remove();
  prompt.focus();
  answer();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = prompt.value.trim();
  if (!text || running) return;
  prompt.value = "";
  resize();
  ask(text);
});
stop.onclick = halt;
$("new").onclick = async () => {
  if (running) await halt();
  turns = [];
  save();
  location.reload();
};

function resize() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight + 2}px`;
  send.disabled = !prompt.value.trim();
}
prompt.addEventListener("input", resize);
prompt.addEventListener("keydown", (event) => {
  // Not while a word is being composed (Chinese, Japanese, ...), and not on a phone's keyboard,
  // where Enter is the only way to a new line.
  const touch = matchMedia("(pointer: coarse)").matches;
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !touch) {
    event.preventDefault();
    form.requestSubmit();
  }
});
addEventListener("pagehide", save); // what has come of an answer is seen at once after a reload
addEventListener("keydown", (event) => { if (event.key === "Escape" && running) halt(); });

for (const turn of turns) {
  const view = show(turn);
  if (!view) continue;
  if (turn.state === "running") run(turn, view); // it goes on
  else view.end();
}
say("");
resize();
showRunning();
