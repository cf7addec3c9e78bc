// A chat page with the AI SDK's useChat. The server speaks the protocol "ui-message", and has three
// addresses: POST answers {id, messages}, GET answers/ID for going on, POST answers/ID/stop.

import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";
import { useEffect, useLayoutEffect, useRef, useState } from "react";
import { createRoot } from "react-dom/client";
import "../../page/chat.css";
import { Markdown } from "../../page/markdown.js";

// ---- what a reload has to find again: the messages, and the answer that runs -----------------------

const stored = (name) => JSON.parse(sessionStorage.getItem(name) ?? "null");
const store = (name, value) => sessionStorage.setItem(name, JSON.stringify(value));

// Every answer has an id of its own, which the page makes: a chat has many answers, and the server
// keeps each of them for a while.
function newAnswer() {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(16)), (n) => n.toString(16).padStart(2, "0")).join("");
  store("answer", id);
  return id;
}

const transport = new DefaultChatTransport({
  api: "answers",
  prepareSendMessagesRequest: ({ messages }) => ({ body: { id: newAnswer(), messages } }),
  prepareReconnectToStreamRequest: () => ({ api: `answers/${stored("answer")}` }),
});

// ---- the page --------------------------------------------------------------------------------------

const WAITS = [0, 500, 2000, 5000]; // ms before each further connection

function Chat() {
  const failures = useRef(0);
  // Of a reload, and asked once: useChat goes on each time that this becomes true.
  const [isReloaded] = useState(() => stored("answer") !== null);
  const { messages, sendMessage, regenerate, resumeStream, stop, status, error } = useChat({
    messages: stored("messages") ?? [],
    resume: isReloaded, // GET answers/ID: the whole answer again, or 204
    throttle: 50,
    transport,
    onFinish({ message, isAbort, isError, isDisconnect }) {
      // A cut connection may look like a clean end: only `complete` says that an answer is whole.
      const isCut = isDisconnect || (!isAbort && !isError && message.metadata?.complete === false);
      if (isCut && failures.current < WAITS.length) setTimeout(resumeStream, WAITS[failures.current++]);
      else store("answer", null);
    },
  });
  const last = messages.at(-1);
  const isRunning = status === "submitted" || status === "streaming";
  const isCut = !isRunning && !error && last?.role === "assistant" && last.metadata?.complete === false;
  const [isStopped, setStopped] = useState(false);

  useEffect(() => {
    if (status === "ready" && !isCut) failures.current = 0;
    store("messages", messages);
  }, [status]);

  async function halt() {
    const id = stored("answer");
    setStopped(true);
    await stop(); // ends the reading; the server goes on with the answer until it is told
    await fetch(`answers/${id}/stop`, { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}", keepalive: true });
    store("answer", null);
  }

  function again() {
    setStopped(false);
    regenerate();
  }

  return (
    <>
      <header><h1>Chat with useChat</h1></header>
      <main id="log" role="log" aria-label="Conversation" tabIndex="0">
        {!messages.length && <p id="empty">What would you like to know?</p>}
        {messages.map((message) => (
          <Message key={message.id} message={message} busy={isRunning && message === last} />
        ))}
        {isRunning && <p className="typing"><i /><i /><i /></p>}
        {error && (
          <div className="error" role="alert">
            <p>{error.message}</p>
            <button type="button" onClick={again}>Try again</button>
          </div>
        )}
        {!isRunning && !error && last?.role === "assistant" && (
          <footer>
            <span className="usage">{summary(last, isStopped)}</span>
            <button type="button" className="regenerate quiet" onClick={again}>Regenerate</button>
          </footer>
        )}
      </main>
      <Composer isRunning={isRunning} onStop={halt} onSend={(text) => { setStopped(false); sendMessage({ text }); }} />
    </>
  );
}

function Message({ message, busy }) {
  const texts = (type) => message.parts.filter((part) => part.type === type).map((part) => part.text).join("");
  const thinking = texts("reasoning");
  return (
    <article className={message.role === "user" ? "question" : "answer"} aria-busy={busy || undefined}>
      {thinking && <details className="thinking"><summary>Thinking</summary><p>{thinking}</p></details>}
      {message.role === "user"
        ? <p className="text">{texts("text")}</p>
        : <MarkdownText text={texts("text")} />}
    </article>
  );
}

function MarkdownText({ text }) {
  const element = useRef(null);
  const markdown = useRef(null);
  useLayoutEffect(() => {
    markdown.current ??= new Markdown(element.current);
    markdown.current.show(text);
  }, [text]);
  return <div className="text" ref={element} />;
}

function Composer({ isRunning, onSend, onStop }) {
  const [text, setText] = useState("");
  function submit(event) {
    event.preventDefault();
    if (!text.trim() || isRunning) return;
    onSend(text.trim());
    setText("");
  }
  const enter = (event) => event.key === "Enter" && !event.shiftKey && !event.nativeEvent.isComposing && submit(event);
  return (
    <div id="bottom">
      <form id="composer" onSubmit={submit}>
        <textarea id="prompt" rows="1" aria-label="Message" placeholder="Message" value={text}
          onChange={(event) => setText(event.target.value)} onKeyDown={enter} />
        {isRunning
          ? <button id="stop" type="button" onClick={onStop} aria-label="Stop">■</button>
          : <button id="send" disabled={!text.trim()} aria-label="Send">↑</button>}
      </form>
    </div>
  );
}

function summary({ metadata }, isStopped) {
  const { input_tokens: read, output_tokens: written } = metadata?.usage ?? {};
  return [
    isStopped && "stopped",
    read != null && `${read} tokens read`,
    written != null && `${written} written`,
  ].filter(Boolean).join(" · ");
}

createRoot(document.body).render(<Chat />);
