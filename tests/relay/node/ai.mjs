// Reads bodies of the UI message stream as `useChat` does: with AbstractChat of the real package.
//
//     node ai.mjs FOLDER PACKAGE < jobs.json > verdicts.json
//
// FOLDER has node_modules with the package. A job is {name, steps, messages}; `messages` are on the
// page before. A step is {do: "send" | "resume" | "again", body, status, breaks, stopAfter}: `body`
// is what the server answers, in one piece or, if it is a list, event by event, and then the page
// is looked at before each (`trail`); `breaks` ends it as a lost connection does; `stopAfter` is the
// event before which stop is pressed.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { readFileSync } from "node:fs";

const [folder, name] = process.argv.slice(2);
const ai = await import(pathToFileURL(createRequire(`${folder}/`).resolve(name)));

class Chat extends ai.AbstractChat {
  constructor(init) {
    const state = {
      status: "ready",
      error: undefined,
      messages: init.messages ?? [],
      pushMessage: (message) => (state.messages = state.messages.concat(message)),
      popMessage: () => (state.messages = state.messages.slice(0, -1)),
      replaceMessage: (index, message) =>
        (state.messages = state.messages.map((old, at) => (at === index ? structuredClone(message) : old))),
      snapshot: (value) => structuredClone(value),
    };
    super({ ...init, state });
  }
}

const pause = () => new Promise((resolve) => setImmediate(resolve));

// A response whose body arrives in pieces, and ends well or badly.
function response(step, before) {
  if (step.status === 204) return new Response(null, { status: 204 });
  const pieces = [step.body].flat().map((piece) => new TextEncoder().encode(piece));
  let at = 0;
  const body = new ReadableStream({
    async pull(controller) {
      await before(at);
      if (at < pieces.length) {
        controller.enqueue(pieces[at++]);
      } else if (step.breaks) {
        controller.error(new TypeError("network error")); // what Chromium says of a body that breaks
      } else {
        controller.close();
      }
    },
  });
  return new Response(body, { status: step.status ?? 200 });
}

const isRefusal = (part) => part.providerMetadata?.llmstream?.refusal === true;
const joined = (parts) => parts.map((part) => part.text).join("");
const textOf = (message) =>
  joined((message?.parts ?? []).filter((part) => part.type === "text" && !isRefusal(part)));

async function play(job) {
  const requests = [];
  const data = [];
  const ends = [];
  let step = null;
  let chat = null;
  const trail = [];
  const before = async (at) => {
    if (Array.isArray(step.body)) {
      for (let turn = 0; turn < 3; turn++) await pause();
      const message = chat.lastMessage?.role === "assistant" ? chat.lastMessage : undefined;
      const isWhole = ends.length > 0 || chat.status === "ready" || message?.metadata?.complete === true;
      trail.push({ at, isWhole, text: textOf(message) });
    }
    if (step.stopAfter !== undefined && at >= step.stopAfter) {
      chat.stop();
      await pause();
    }
  };
  const fetch = async (url, init) => {
    requests.push({ url: String(url), method: init.method, body: init.body ? JSON.parse(init.body) : null });
    return response(step, before);
  };
  chat = new Chat({
    id: job.chat ?? "chat-1",
    messages: job.messages,
    transport: new ai.DefaultChatTransport({ api: "/api/chat", fetch }),
    onData: (part) => data.push(part),
    onFinish: (end) =>
      ends.push({
        finishReason: end.finishReason ?? null,
        isAbort: end.isAbort,
        isDisconnect: end.isDisconnect,
        isError: end.isError,
      }),
  });
  for (step of job.steps) {
    if (step.do === "resume") await chat.resumeStream();
    else if (step.do === "again") await chat.sendMessage(); // the page has a tool's output
    else await chat.sendMessage({ text: step.text ?? "Hello" });
  }
  const last = chat.lastMessage;
  const parts = last?.role === "assistant" ? last.parts : [];
  const of = (type) => parts.filter((part) => part.type === type);
  const text = textOf({ parts });
  return {
    name: job.name,
    status: chat.status,
    error: chat.error?.message ?? null,
    end: ends.at(-1) ?? null,
    roles: chat.messages.map((message) => message.role),
    id: last?.id ?? null,
    text,
    refusal: joined(of("text").filter(isRefusal)),
    thinking: joined(of("reasoning")),
    // The events before which the page took the answer for whole, and had a text that is not a part.
    early: trail.filter((look) => look.isWhole).map((look) => look.at),
    odd: trail.filter((look) => !text.startsWith(look.text)).map((look) => look.at),
    streaming: parts.filter((part) => part.state === "streaming").length,
    tools: parts
      .filter((part) => part.type === "dynamic-tool" || part.type.startsWith("tool-"))
      .map(({ type, toolCallId, toolName, state, input, errorText }) => ({
        type, id: toolCallId, name: toolName ?? type.slice("tool-".length), state, input: input ?? null, errorText: errorText ?? null,
      })),
    metadata: last?.metadata ?? null,
    data,
    requests,
  };
}

const verdicts = [];
for (const job of JSON.parse(readFileSync(0, "utf8"))) verdicts.push(await play(job));
process.stdout.write(JSON.stringify(verdicts));
