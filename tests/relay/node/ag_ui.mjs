// Reads bodies of AG-UI as a front end does: with HttpAgent of the real @ag-ui/client.
//
//     node ag_ui.mjs FOLDER PACKAGE < jobs.json > verdicts.json
//
// A job is {name, body, breaks, messages, thread, run, replay}: see ai.mjs. With `replay` the page
// connects once more, without what it has of the answer, and gets that body.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { readFileSync } from "node:fs";

const [folder, name] = process.argv.slice(2);
const { HttpAgent } = await import(pathToFileURL(createRequire(`${folder}/`).resolve(name)));

// The client rejects once more, and nobody waits for it, when a body breaks.
process.on("unhandledRejection", () => {});
console.error = () => {};

const warnings = [];
console.warn = (...words) => warnings.push(words.join(" "));

const pause = () => new Promise((resolve) => setImmediate(resolve));

function response(job, before) {
  const pieces = [job.body].flat().map((piece) => new TextEncoder().encode(piece));
  let at = 0;
  const body = new ReadableStream({
    async pull(controller) {
      await before(at);
      if (at < pieces.length) controller.enqueue(pieces[at++]);
      else if (job.breaks) controller.error(new TypeError("network error"));
      else controller.close();
    },
  });
  return new Response(body, { status: 200, headers: { "content-type": "text/event-stream" } });
}

// `HttpAgent` does not reconnect by itself.
class Agent extends HttpAgent {
  connect(input) {
    return this.run(input);
  }
}

const isRefusal = (message) => message.metadata?.refusal === true;
const joined = (messages) => messages.map((message) => message.content ?? "").join("");

async function play(job) {
  warnings.length = 0;
  const requests = [];
  const trail = [];
  const given = job.messages ?? [{ id: "user-1", role: "user", content: "Hello" }];
  const own = new Set(given.map((message) => message.id));
  const made = (role) =>
    agent.messages.filter((message) => !own.has(message.id) && (role ?? message.role) === message.role);
  const text = () => joined(made("assistant").filter((message) => !isRefusal(message)));
  const before = async (at) => {
    if (!Array.isArray(job.body)) return;
    for (let turn = 0; turn < 3; turn++) await pause();
    trail.push({ at, isWhole: seen.finished !== null, text: text() });
  };
  const seen = { finished: null, error: null, failed: null, announced: [], calls: [], custom: [] };
  const agent = new Agent({
    url: "http://relay/agent",
    threadId: job.thread ?? "thread-1",
    initialMessages: given,
    fetch: async (url, init) => {
      requests.push(JSON.parse(init.body));
      return response(requests.length > 1 ? { body: job.replay } : job, before);
    },
  });
  let result = null;
  let rejected = null;
  const subscriber = {
    onRunFinishedEvent: ({ event, outcome, pendingToolCallIds }) => {
      const { usage = null, result = null } = event;
      seen.finished = { outcome, usage, result, pending: pendingToolCallIds ?? null };
    },
    onRunErrorEvent: ({ event: { message, code = null, usage = null } }) => {
      seen.error = { message, code, usage };
    },
    onRunFailed: ({ error }) => {
      seen.failed = error.message;
    },
    onNewMessage: ({ message }) => {
      if (message.role !== "activity") seen.announced.push(message.id);
    },
    onNewToolCall: ({ toolCall }) => {
      seen.calls.push(toolCall.id);
    },
    onCustomEvent: ({ event: { name, value } }) => {
      seen.custom.push({ name, value });
    },
  };
  try {
    ({ result } = await agent.runAgent({ runId: job.run ?? "run-1" }, subscriber));
    if (job.replay !== undefined) {
      agent.messages = agent.messages.filter((message) => own.has(message.id));
      ({ result } = await agent.connectAgent({ runId: job.run ?? "run-1" }, subscriber));
    }
  } catch (error) {
    rejected = error.message;
  }
  const whole = text();
  return {
    name: job.name,
    ...seen,
    result: result ?? null,
    rejected,
    kept: agent.messages.filter((message) => own.has(message.id)).map((message) => message.id),
    roles: made().map((message) => message.role),
    text: whole,
    refusal: joined(made("assistant").filter(isRefusal)),
    thinking: joined(made("reasoning")),
    early: trail.filter((look) => look.isWhole).map((look) => look.at),
    odd: trail.filter((look) => !whole.startsWith(look.text)).map((look) => look.at),
    tools: made("assistant").flatMap((message) => message.toolCalls ?? []).map((call) => ({
      id: call.id, name: call.function.name, arguments: call.function.arguments,
    })),
    warnings: [...warnings],
    requests,
  };
}

const verdicts = [];
for (const job of JSON.parse(readFileSync(0, "utf8"))) verdicts.push(await play(job));
process.stdout.write(JSON.stringify(verdicts));
