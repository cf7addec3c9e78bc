// Reads bodies of Chat Completions as OpenAI's own client does.
//
//     node openai.mjs FOLDER PACKAGE < jobs.json > verdicts.json
//
// A job is {name, body, breaks, by}: `by` is "stream" (the helper that puts the answer together) or
// "create" (the bare chunks). See ai.mjs.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { readFileSync } from "node:fs";

const [folder, name] = process.argv.slice(2);
const { default: OpenAI } = await import(pathToFileURL(createRequire(`${folder}/`).resolve(name)));

async function play(job) {
  const bytes = new TextEncoder().encode(job.body);
  let isSent = false;
  const body = new ReadableStream({
    pull(controller) {
      if (!isSent) controller.enqueue(bytes);
      else if (job.breaks) controller.error(new TypeError("network error"));
      else controller.close();
      isSent = true;
    },
  });
  const headers = { "content-type": "text/event-stream" };
  const client = new OpenAI({
    apiKey: "none",
    maxRetries: 0,
    fetch: async () => new Response(body, { status: 200, headers }),
  });
  const request = { model: "m", messages: [{ role: "user", content: "Hello" }], stream_options: { include_usage: true } };
  const verdict = { name: job.name, error: null, text: "", thinking: "", refusal: "", tools: [], finish: null, usage: null };
  const runner = client.chat.completions.stream(request);
  runner.on("chunk", (chunk) => {
    const delta = chunk.choices[0]?.delta;
    verdict.text += delta?.content ?? "";
    verdict.thinking += delta?.reasoning_content ?? "";
    verdict.refusal += delta?.refusal ?? "";
    verdict.usage = chunk.usage ?? verdict.usage;
    verdict.finish = chunk.choices[0]?.finish_reason ?? verdict.finish;
  });
  try {
    const completion = await runner.finalChatCompletion();
    const message = completion.choices[0].message;
    verdict.whole = message.content ?? "";
    verdict.tools = (message.tool_calls ?? []).map((call) => ({
      id: call.id,
      name: (call.function ?? call.custom)?.name ?? null,
      arguments: call.function?.arguments ?? call.custom?.input ?? null,
    }));
  } catch (error) {
    verdict.error = error.message;
  }
  return verdict;
}

const verdicts = [];
for (const job of JSON.parse(readFileSync(0, "utf8"))) verdicts.push(await play(job));
process.stdout.write(JSON.stringify(verdicts));
