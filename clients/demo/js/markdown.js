/**
 * Shows markdown: reads the text into a small tree, then builds elements from it.
 *
 * It knows what prose needs: headings, paragraphs, emphasis, quotes, lists, code, links, rules. No HTML
 * passes through: a tag in the text is shown as it was typed, and a link goes to http, https or mailto.
 */

import { h } from "./dom.js";

/** @typedef {{ kind: string, children?: Node[], text?: string, level?: number, href?: string, start?: number }} Node */

const DEPTH_MAX = 8; // quotes in quotes; deeper is shown as text
const SAFE_LINK = /^(?:https?:|mailto:)/i;
const RULE = /^ {0,3}(?:(?:\* *){3,}|(?:- *){3,}|(?:_ *){3,})$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s+(.*?))?(?:\s+#+)?\s*$/;
const FENCE = /^ {0,3}(`{3,}|~{3,})/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:\s+|$)/;

// One after another, the first that fits stands: code, escape, link, strong, emphasis, struck, address.
const INLINE = new RegExp(
  [
    "(`+)(?!`)([^]{0,2000}?[^`])\\1(?!`)",
    "\\\\([!-/:-@[-`{-~])",
    '\\[([^\\]\\n]{1,500})\\]\\(\\s*<?([^\\s<>()]{1,2000}(?:\\([^\\s()]{0,200}\\)[^\\s<>()]{0,200})?)>?(?:\\s+"[^"\\n]{0,200}")?\\s*\\)',
    "(\\*\\*|__)(?=\\S)([^]{0,2000}?\\S)\\6",
    "(\\*|(?<![\\p{L}\\p{N}])_)(?=\\S)([^]{0,2000}?[^\\s*_])\\8(?![\\p{L}\\p{N}_])",
    "~~(?=\\S)([^]{0,2000}?\\S)~~",
    "<((?:https?:|mailto:)[^\\s<>]{1,2000})>",
  ].join("|"),
  "gu",
);

/**
 * The elements that show this text.
 * @param {string} text
 * @param {number} [firstLevel]  which heading `#` is; below a page's own title it is 2
 * @returns {HTMLElement[]}
 */
export function render(text, firstLevel = 2) {
  return parse(text).map((node) => toElement(node, firstLevel));
}

/**
 * The text as a tree of blocks.
 * @param {string} text
 * @returns {Node[]}
 */
export function parse(text) {
  return blocks(text.replace(/\r\n?/g, "\n").split("\n"), 0);
}

/**
 * @param {string[]} lines
 * @param {number} depth
 * @returns {Node[]}
 */
function blocks(lines, depth) {
  /** @type {Node[]} */
  const found = [];
  for (let at = 0; at < lines.length;) {
    const line = lines[at];
    const heading = HEADING.exec(line);
    const fence = FENCE.exec(line);
    const item = ITEM.exec(line);
    if (!line.trim()) at++;
    else if (heading) {
      found.push({ kind: "heading", level: heading[1].length, children: inline(heading[2] ?? "") });
      at++;
    } else if (RULE.test(line)) {
      found.push({ kind: "rule" });
      at++;
    } else if (fence) at = takeFence(lines, at, fence[1], found);
    else if (QUOTE.test(line) && depth < DEPTH_MAX) at = takeQuote(lines, at, depth, found);
    else if (item && depth < DEPTH_MAX) at = takeList(lines, at, depth, found);
    else at = takeParagraph(lines, at, found);
  }
  return found;
}

/** @param {string[]} lines @param {number} at @param {string} fence @param {Node[]} found */
function takeFence(lines, at, fence, found) {
  let end = at + 1;
  while (end < lines.length && !lines[end].trim().startsWith(fence)) end++;
  found.push({ kind: "codeblock", text: lines.slice(at + 1, end).join("\n") });
  return end + 1;
}

/** @param {string[]} lines @param {number} at @param {number} depth @param {Node[]} found */
function takeQuote(lines, at, depth, found) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end++;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  found.push({ kind: "quote", children: blocks(inner, depth + 1) });
  return end;
}

/** @param {string[]} lines @param {number} at @param {number} depth @param {Node[]} found */
function takeList(lines, at, depth, found) {
  const first = /** @type {RegExpExecArray} */ (ITEM.exec(lines[at]));
  const ordered = /\d/.test(first[2]);
  /** @type {Node[]} */
  const items = [];
  while (at < lines.length) {
    const item = ITEM.exec(lines[at]);
    if (!item || /\d/.test(item[2]) !== ordered || RULE.test(lines[at])) break;
    const inner = [lines[at].slice(item[0].length)];
    const indent = new RegExp(`^ {${Math.min(item[0].length, item[1].length + 2)}}`);
    for (at++; at < lines.length; at++) {
      const deeper = indent.test(lines[at]);
      const blankInside = !lines[at].trim() && at + 1 < lines.length && indent.test(lines[at + 1]);
      if (!deeper && !blankInside) break;
      inner.push(lines[at].replace(/^ {1,4}/, (spaces) => spaces.slice(Math.min(spaces.length, item[0].length))));
    }
    const children = blocks(inner, depth + 1);
    if (children[0]?.kind === "paragraph") children[0].kind = "plain";
    items.push({ kind: "item", children });
    const blank = at < lines.length && !lines[at].trim() && at + 1 < lines.length && ITEM.test(lines[at + 1]);
    if (blank) at++;
  }
  found.push({
    kind: ordered ? "ordered" : "bullets",
    start: ordered ? parseInt(first[2], 10) : undefined,
    children: items,
  });
  return at;
}

/** @param {string[]} lines @param {number} at @param {Node[]} found */
function takeParagraph(lines, at, found) {
  let end = at + 1;
  const ends = (/** @type {string} */ line) =>
    !line.trim() || HEADING.test(line) || FENCE.test(line) || QUOTE.test(line) || RULE.test(line) || ITEM.test(line);
  while (end < lines.length && !ends(lines[end])) end++;
  found.push({ kind: "paragraph", children: inline(lines.slice(at, end).join("\n").trim()) });
  return end;
}

/**
 * @param {string} text
 * @param {number} [depth]
 * @returns {Node[]}
 */
function inline(text, depth = 0) {
  /** @type {Node[]} */
  const found = [];
  let at = 0;
  if (depth < DEPTH_MAX) {
    for (const match of text.matchAll(INLINE)) {
      found.push(...breaks(text.slice(at, match.index)), ...inlineOf(match, depth));
      at = match.index + match[0].length;
    }
  }
  return [...found, ...breaks(text.slice(at))];
}

/** @param {RegExpExecArray} match @param {number} depth @returns {Node[]} */
function inlineOf(match, depth) {
  const [, , code, escaped, label, href, , strong, , emphasis, struck, address] = match;
  const deeper = (/** @type {string} */ text) => inline(text, depth + 1);
  if (code !== undefined) return [{ kind: "code", text: code.replace(/^ (.*[^ ].*) $/s, "$1") }];
  if (escaped !== undefined) return [{ kind: "text", text: escaped }];
  if (strong !== undefined) return [{ kind: "strong", children: deeper(strong) }];
  if (emphasis !== undefined) return [{ kind: "emphasis", children: deeper(emphasis) }];
  if (struck !== undefined) return [{ kind: "struck", children: deeper(struck) }];
  if (address !== undefined) return [{ kind: "link", href: address, children: [{ kind: "text", text: address }] }];
  if (SAFE_LINK.test(href)) return [{ kind: "link", href, children: deeper(label) }];
  return [{ kind: "text", text: match[0] }];
}

/** Two spaces or a backslash at the end of a line break it. @param {string} text @returns {Node[]} */
function breaks(text) {
  const lines = text.split(/(?: {2,}|\\)\n/);
  return lines.flatMap((line, at) => [
    ...(at ? [{ kind: "break" }] : []),
    ...(line ? [{ kind: "text", text: line }] : []),
  ]);
}

const TAGS = {
  paragraph: "p",
  quote: "blockquote",
  bullets: "ul",
  ordered: "ol",
  item: "li",
  strong: "strong",
  emphasis: "em",
  struck: "s",
};

/** @param {Node} node @param {number} firstLevel @returns {any} */
function toElement(node, firstLevel) {
  const children = (node.children ?? []).map((child) => toElement(child, firstLevel));
  switch (node.kind) {
    case "text":
      return node.text;
    case "plain":
      return children;
    case "rule":
      return h("hr");
    case "break":
      return h("br");
    case "code":
      return h("code", null, node.text);
    case "codeblock":
      return h("pre", { tabindex: "0" }, h("code", null, node.text));
    case "heading":
      return h(`h${Math.min(6, (node.level ?? 1) + firstLevel - 1)}`, null, children);
    case "link":
      return h("a", { href: node.href, target: "_blank", rel: "noopener noreferrer" }, children);
    case "ordered":
      return h("ol", { start: node.start === 1 ? null : node.start }, children);
  }
  return h(TAGS[/** @type {keyof typeof TAGS} */ (node.kind)], null, children);
}
