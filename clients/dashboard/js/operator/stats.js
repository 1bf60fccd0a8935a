/**
 * The whole hub in numbers, and what deserves a look.
 */

import { h } from "../dom.js";
import { ago, bytes, number } from "../format.js";
import { facts, part, section, tag } from "../part.js";
import { client, now } from "../session.js";
import { t } from "../text.js";

export function stats() {
  const figures = part(() => client.operate("stats", {}), drawFigures);
  const insight = part(() => client.operate("insight", {}), drawInsight);
  return [figures, insight];
}

/** @param {any} s */
function drawFigures(s) {
  const figure = (/** @type {string} */ name, /** @type {string} */ value) => [t(`stats.${name}`), value];
  return h("div", { class: "card big" }, facts(
    ...["accounts", "suspended", "operators", "devices", "spaces", "collections"].map((name) => /** @type {any} */ (figure(name, number(s[name])))),
    [t("stats.used"), bytes(s.used_bytes)],
    s.sessions !== null && [t("stats.sessions"), number(s.sessions)],
    [t("stats.quota"), bytes(s.quota_bytes)],
    [t("stats.sign_up"), s.sign_up],
    [t("stats.allowed"), number(s.allowed)],
    [t("stats.blocked"), number(s.blocked)],
    [t("stats.backup"), s.last_backup_at ? ago(s.last_backup_at, now()) : t("stats.no_backup")],
    [t("stats.version"), s.version],
  ));
}

/** @param {{ findings: any[] }} found */
function drawInsight({ findings }) {
  const rows = findings.map((finding) =>
    h(
      "li",
      null,
      tag(t(`insight.${finding.weight}`), finding.weight === "warn" ? "warn" : ""),
      h("span", { class: "text" }, finding.sentence),
      finding.account_id && h("a", { href: `#/operator/accounts/${finding.account_id}` }, t("insight.look", { id: finding.account_id.slice(0, 8) })),
    ),
  );
  return section(
    t("insight.title"),
    rows.length ? h("ul", { class: "findings" }, rows) : h("p", { class: "hint" }, t("insight.none")),
  );
}
