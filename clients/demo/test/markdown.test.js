/** Reading markdown; what is built from it is text and elements, never markup. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { parse, render } from "../js/markdown.js";

/** A page that is just enough: elements that can be written down. */
class Fake {
  constructor(/** @type {string} */ tag) {
    this.tag = tag;
    /** @type {any[]} */
    this.children = [];
    /** @type {Record<string, string>} */
    this.attributes = {};
  }
  append(/** @type {any[]} */ ...children) {
    this.children.push(...children);
  }
  setAttribute(/** @type {string} */ name, /** @type {string} */ value) {
    this.attributes[name] = String(value);
  }
  /** @returns {string} */
  toString() {
    const attributes = Object.entries(this.attributes)
      .map(([name, value]) => ` ${name}=${JSON.stringify(value)}`)
      .join("");
    return `<${this.tag}${attributes}>${this.children.map(String).join("")}</${this.tag}>`;
  }
}
/** @type {any} */ (globalThis).document = { createElement: (/** @type {string} */ tag) => new Fake(tag) };
const shown = (/** @type {string} */ text) => render(text).map(String).join("");

test("paragraphs, and breaks only where they are meant", () => {
  assert.equal(shown("one\ntwo\n\nthree"), "<p>one\ntwo</p><p>three</p>");
  assert.equal(shown("one  \ntwo\\\nthree"), "<p>one<br></br>two<br></br>three</p>");
});

test("headings begin below the page's own", () => {
  assert.equal(shown("# A\n## B ##\n###### C"), "<h2>A</h2><h3>B</h3><h6>C</h6>");
  assert.equal(shown("#hash"), "<p>#hash</p>");
});

test("emphasis, also within another, and not within words", () => {
  assert.equal(shown("*soft* and **strong _both_**"), "<p><em>soft</em> and <strong>strong <em>both</em></strong></p>");
  assert.equal(shown("snake_case_name and 2 * 3 * 4"), "<p>snake_case_name and 2 * 3 * 4</p>");
  assert.equal(shown("~~gone~~ \\*kept\\*"), "<p><s>gone</s> *kept*</p>");
});

test("quotes, lists and rules", () => {
  assert.equal(shown("> He said\n> no\n\nText"), "<blockquote><p>He said\nno</p></blockquote><p>Text</p>");
  assert.equal(shown("- one\n- two\n  - deep"), "<ul><li>one</li><li>two<ul><li>deep</li></ul></li></ul>");
  assert.equal(shown("3. c\n4. d"), '<ol start="3"><li>c</li><li>d</li></ol>');
  assert.equal(shown("a\n\n***\n\nb"), "<p>a</p><hr></hr><p>b</p>");
});

test("code is shown as it is", () => {
  assert.equal(shown("`*a*` ``b`c``"), "<p><code>*a*</code> <code>b`c</code></p>");
  assert.equal(shown("```js\n<b>*x*\n```\nafter"), '<pre tabindex="0"><code><b>*x*</code></pre><p>after</p>');
});

test("links go to the web and to mail, and nowhere else", () => {
  assert.match(
    shown("[a](https://example.org/x_(y))"),
    /<a href="https:\/\/example.org\/x_\(y\)" target="_blank" rel="noopener noreferrer">a<\/a>/,
  );
  for (const bad of [
    "javascript:alert(1)",
    "JAVASCRIPT:alert(1)",
    "data:text/html,x",
    "vbscript:x",
    "//evil.example",
    "file:///etc",
  ]) {
    assert.ok(!shown(`[a](${bad})`).includes("<a"), bad);
    assert.ok(!shown(`<${bad}>`).includes("<a"), bad);
  }
});

test("tags in the text are text", () => {
  const kinds = JSON.stringify(parse("<script>alert(1)</script> <img src=x onerror=alert(1)>"));
  assert.ok(!kinds.includes('"html"'));
  assert.deepEqual(parse("<b>x</b>"), [{ kind: "paragraph", children: [{ kind: "text", text: "<b>x</b>" }] }]);
});

test("hostile texts cost bounded time", () => {
  const began = performance.now();
  for (const piece of ["*a ", "**a ", "_a ", "[a](", "`a ", "> ", "- ", "~~a ", "[[[[", "<https:", "(((("])
    parse(piece.repeat(20_000));
  assert.ok(performance.now() - began < 10_000, `${performance.now() - began} ms`);
});

test("quotes nested without end do not overflow", () => {
  assert.ok(parse(">".repeat(10_000)).length > 0);
});
