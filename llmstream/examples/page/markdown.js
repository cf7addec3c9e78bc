// A small part of Markdown, as nodes and never as HTML: nothing that a model writes is markup.

// Every character stays in the page, the signs in elements that chat.css does not show: so the
// text that can be copied, searched and tested is exactly the model's. Only the last line is drawn
// anew, so a long answer costs no more than it has lines.
export class Markdown {
  constructor(element) {
    this.element = element;
    this.clear();
  }

  clear() {
    this.element.replaceChildren();
    this.shown = ""; // what is drawn
    this.done = 0; // the length of its finished lines
    this.code = null; // the <pre> of the code that is open
    this.last = null; // the node of the line that is not finished
  }

  show(text) {
    if (!text.startsWith(this.shown)) this.clear(); // another text: the answer was begun anew
    if (text === this.shown) return;
    this.last?.remove();
    this.last = null;
    for (let end; (end = text.indexOf("\n", this.done)) >= 0; this.done = end + 1) {
      this.add(text.slice(this.done, end + 1), true);
    }
    if (this.done < text.length) this.last = this.add(text.slice(this.done), false);
    this.shown = text;
  }

  add(line, finished) {
    const node = document.createElement("div");
    const fence = /^ {0,3}```/.test(line);
    if (fence) {
      const [, before, after] = /^( {0,3}`{3,})(.*)$/s.exec(line);
      node.className = after.trim() ? "fence" : "sign"; // the language is shown
      node.append(sign(before), after);
    } else if (this.code) {
      node.textContent = line;
    } else {
      const [, mark, words] = /^(#{1,6} +|\s*[-*+] +|\s*\d{1,3}[.)] +|> ?|)(.*)$/s.exec(line);
      if (mark.startsWith("#")) node.className = "heading";
      else if (mark.startsWith(">")) node.className = "quote";
      else if (mark) node.className = "item";
      if (/^\s*[-*+]/.test(mark)) node.append(marked("span", "bullet", mark));
      else if (/^\s*\d/.test(mark)) node.append(mark);
      else if (mark) node.append(sign(mark));
      node.append(...inline(words));
    }
    if (fence && !this.code && finished) this.element.append((this.code = document.createElement("pre")));
    (this.code ?? this.element).append(node);
    if (fence && this.code?.childElementCount > 1 && finished) this.code = null;
    return node;
  }
}

const marked = (name, className, text) =>
  Object.assign(document.createElement(name), { className, textContent: text });
const sign = (text) => marked("span", "sign", text);

// Code, bold, italic, and links to the web; whatever else a line holds is text.
const INLINE =
  /(`{1,3})(?<code>[^`\n]+)\1(?!`)|\*\*(?<bold>[^\s*](?:[^*\n]*[^\s*])?)\*\*|\*(?<italic>[^\s*](?:[^*\n]*[^\s*])?)\*|\[(?<words>[^\[\]\n]+)\]\((?<url>https?:\/\/[^\s()]+)\)/g;

function* inline(text) {
  let at = 0;
  for (const found of text.matchAll(INLINE)) {
    yield text.slice(at, found.index);
    at = found.index + found[0].length;
    const { code, bold, italic, words, url } = found.groups;
    const inner = code ?? bold ?? italic ?? words;
    const start = found[0].indexOf(inner);
    yield sign(found[0].slice(0, start));
    if (words) yield Object.assign(marked("a", "", words), { href: url, target: "_blank", rel: "noopener noreferrer" });
    else yield marked(code ? "code" : bold ? "strong" : "em", "", inner);
    yield sign(found[0].slice(start + inner.length));
  }
  yield text.slice(at);
}
