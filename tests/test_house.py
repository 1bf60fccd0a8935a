"""The house keeps its own rules: floors, words, and documents that say what the code does."""

from __future__ import annotations

import ast
import configparser
import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hub.config import Settings, settings_page
from hub.errors import CLOSINGS, REFUSALS
from hub.metrics import Metrics
from hub.terms import Limits

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "hub").rglob("*.py"))
SERVER_MODULES = [path for path in MODULES if path.relative_to(ROOT / "hub").parts[0] not in ("client", "folder")]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
PROTOCOL = ROOT / "docs/protocol.md"


def name_of(path):
    return str(path.relative_to(ROOT))


def tree_of(path):
    return ast.parse(path.read_text("utf-8"))


def section(text, title):
    """The lines below a heading that begins with ``title``, up to the next heading that is not deeper."""
    match = re.search(rf"^(#+) (?:[0-9.]+ )?{title}.*\n((?:.*\n)*?)(?=^#{{1,6}} |\Z)", text, re.M)
    assert match, f"no section {title!r}"
    level = len(match[1])
    rest = text[match.end(1) :]
    end = re.search(rf"\n#{{1,{level}}} ", rest)
    return rest[: end.start()] if end else rest


# --- the code --------------------------------------------------------------------------------


def test_the_import_contracts_are_kept():
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def test_the_floors_that_are_drawn_are_the_floors_that_are_kept():
    drawing = section((ROOT / "ARCHITECTURE.md").read_text("utf-8"), "Floors").split("```")[1]
    drawn = [re.split(r" {2,}", line)[0] for line in drawing.strip().splitlines()]
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter", "utf-8")
    assert drawn == contracts["importlinter:contract:floors"]["layers"].split("\n")[1:]


def test_every_room_that_claims_to_be_without_io_is_held_to_it():
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter", "utf-8")
    held = set(contracts["importlinter:contract:no-doors"]["source_modules"].split())
    claims = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in MODULES
        if "without I/O" in (ast.get_docstring(tree_of(path)) or "").partition("\n\n")[0]
    }
    assert len(claims) > 10
    assert {name for name in claims if name not in held and name.rpartition(".")[0] not in held} == set()


def test_settings_are_read_only_where_a_hub_is_put_together():
    readers = {name_of(path) for path in MODULES if re.search(r"hub\.config\b", path.read_text("utf-8"))}
    readers = {name for name in readers if not name.startswith(("hub/admin/", "hub/backup/", "hub/doctor/"))}
    assert readers <= {"hub/cli.py", "hub/commands.py", "hub/keepers.py", "hub/running.py"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is(path):
    docstring = ast.get_docstring(tree_of(path))
    assert docstring, "no docstring"
    first = docstring.partition("\n\n")[0].replace("\n", " ")
    assert first.endswith((".", ":")), f"not a sentence: {first!r}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_function_is_longer_than_a_screen(path):
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno + 1 > 60
    ]
    # The composition of everything is one list, and is read as one.
    assert [line for line in long if not line.startswith("running_hub:")] == []


@pytest.mark.parametrize("path", SERVER_MODULES, ids=name_of)
def test_no_server_module_can_decrypt(path):
    assert not re.search(r"nacl\.(secret|public|aead)|crypto_(aead|secretbox|box)", path.read_text("utf-8"))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_log_line_has_a_constant_name(path):
    """A name made from data would carry it past the list of allowed fields."""
    for node in ast.walk(tree_of(path)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_log(node.func.value)):
            continue
        assert len(node.args) == 1 and isinstance(node.args[0], ast.Constant), f"line {node.lineno}"


def _is_log(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and ast.unparse(node.func) == "log.get"


def test_every_log_field_that_is_used_is_allowed():
    from hub.log import FIELDS

    used = {
        keyword.arg
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_log(node.func.value)
        for keyword in node.keywords
    }
    assert used - FIELDS.keys() - {"exc_info"} == set()


def test_no_server_module_but_the_commands_reads_the_environment():
    readers = {name_of(path) for path in SERVER_MODULES if re.search(r"os\.(environ|getenv)", path.read_text("utf-8"))}
    assert readers <= {"hub/commands.py", "hub/doctor/cli.py"}  # a patient with faults is examined all the same


AVOIDED = {
    "event": r"\b(change_events?|new_events?|events?_log|event_id|append_events?)\b",
    "epoch alone": r"\b(?<!key_)epoch\b(?!\.)",
    "tenant": r"\btenants?\b",
    "channel": r"\bchannel_id\b",
}


@pytest.mark.parametrize("word", AVOIDED)
def test_words_that_the_vocabulary_avoids_name_nothing_in_the_code(word):
    pattern = re.compile(AVOIDED[word])
    found = {
        f"{name_of(path)}: {name}"
        for path in MODULES
        for node in ast.walk(tree_of(path))
        for name in _names(node)
        if pattern.search(name)
    }
    assert found == set()


def _names(node):
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.arg(arg=name) | ast.Name(id=name) | ast.Attribute(attr=name):
            yield name


def test_every_setting_has_an_effect():
    """A setting that nobody reads is a promise without a keeper."""
    text = "".join(path.read_text("utf-8") for path in SERVER_MODULES if path.name != "config.py")
    methods = ast.unparse(next(n for n in ast.walk(tree_of(ROOT / "hub/config.py")) if _is_settings(n)))
    unread = [
        field.name
        for field in dataclasses.fields(Settings)
        if not re.search(rf"settings\.{field.name}\b", text) and f"self.{field.name}" not in methods
    ]
    assert unread == []


def _is_settings(node):
    return isinstance(node, ast.ClassDef) and node.name == "Settings"


def test_every_number_is_produced_somewhere():
    text = "".join(path.read_text("utf-8") for path in SERVER_MODULES if path.name != "metrics.py")
    mute = [
        name
        for name, metric in vars(Metrics()).items()
        if metric.name not in ("hub_build_info", "hub_start_time_seconds")
        and not re.search(rf"metrics\.{name}\.(add|set|observe|read_from)", text)
    ]
    assert mute == []


# --- the database ----------------------------------------------------------------------------


def tables_of(sql):
    """Table name -> set of column names."""
    plain = re.sub(r"--[^\n]*|/\*.*?\*/", "", sql, flags=re.S)
    found = {}
    for match in re.finditer(r"create (?:unlogged )?table (?:if not exists )?(\w+)\s*\(", plain, re.I):
        if re.match(r"\s*partition of", plain[match.end() :], re.I):
            continue
        parts = _parts(plain[match.end() :])
        keys = {"primary", "unique", "foreign", "check", "constraint", "exclude"}
        names = [part.split()[0].strip('"').lower() for part in parts if part.split()]
        found[match[1].lower()] = {name for name in names if name not in keys}
    return found


def _parts(text):
    """What stands between the commas up to the closing bracket."""
    depth, parts, part = 1, [], ""
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            break
        if letter == "," and depth == 1:
            parts.append(part)
            part = ""
        else:
            part += letter
    return [*parts, part]


def test_both_databases_have_the_same_tables_and_columns():
    postgres = tables_of((ROOT / "schema.sql").read_text("utf-8"))
    sqlite = tables_of((ROOT / "hub/store/sqlite_schema.sql").read_text("utf-8"))
    assert len(sqlite) >= 10
    assert postgres == sqlite


def test_every_table_and_index_says_what_it_is_for():
    for path in (ROOT / "schema.sql", ROOT / "hub/store/sqlite_schema.sql"):
        lines = path.read_text("utf-8").splitlines()
        for above, line in itertools.pairwise(lines):
            if re.match(r"create (unique |unlogged )?(table|index)", line, re.I) and "partition of" not in line.lower():
                assert above.lstrip().startswith("--"), f"{path.name}: {line}"


# --- the documents ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_link_leads_somewhere(path):
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text("utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_the_page_of_settings_is_the_one_the_code_makes():
    assert (ROOT / "docs/settings.md").read_text("utf-8") == settings_page(), "run `make docs`"


def test_every_error_is_in_the_protocol_and_the_other_way_round():
    rows = re.findall(r"^\|.*$", section(PROTOCOL.read_text("utf-8"), "Errors"), re.M)
    closings, refusals = set(), set()
    for row in rows:
        if name := re.match(r"\|(?:[^|`]*\|)?\s*`([a-z_]+)`", row):
            number = re.search(r"(?<!\d)4[05]\d\d(?!\d)", row.partition("`")[0] + "".join(row.split("|")[2:3]))
            (closings if number else refusals).add((name[1], int(number[0]) if number else 0))
    assert refusals == {(code, 0) for code in REFUSALS}
    assert closings == {(name, kind.code) for name, kind in CLOSINGS.items()}


def test_every_limit_is_in_the_protocol_with_its_default():
    text = section(PROTOCOL.read_text("utf-8"), "Limits")
    rows = {match[1]: match[2] for match in re.finditer(r"^\| `([a-z_]+)` \| ([0-9,]+) \|", text, re.M)}
    assert rows == {field.name: f"{field.default:,}" for field in dataclasses.fields(Limits)}


def test_the_readmes_commands_are_what_make_can_do():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    for path in DOCUMENTS:
        commands = re.findall(r"^(?:HUB_\w+=\S+ )?make ([a-z]+)|`make ([a-z]+)", path.read_text("utf-8"), re.M)
        assert {a or b for a, b in commands} <= targets, path.name
    for name in ("serve", "test"):
        assert f"make {name}" in (ROOT / "README.md").read_text("utf-8")
        assert re.search(rf"make (-s )?{name}\b", (ROOT / ".ci/run").read_text("utf-8"))


def test_the_documents_name_only_commands_that_exist():
    from hub.admin.cli import COMMANDS, OPERATOR_COMMANDS
    from hub.cli import _parser

    known = next(a for a in _parser()._actions if hasattr(a, "choices") and a.choices).choices
    operators = {f"admin {name}" for name in COMMANDS} | {f"admin operator {name}" for name in OPERATOR_COMMANDS}
    for path in DOCUMENTS:
        if path.name == "CHANGELOG.md":
            continue  # it also tells what is gone
        lines = re.findall(r"(?:`|^\$? ?)(?:\.venv/bin/)?hub ([a-z][a-z -]*)", path.read_text("utf-8"), re.M)
        for words in (line.split() for line in lines):
            assert words[0] in known, f"{path.name}: hub {words}"
            if words[0] == "admin" and len(words) > 1 and words[1] != "operator":
                assert " ".join(words[:2]) in operators, f"{path.name}: hub {words}"
            if words[:2] == ["admin", "operator"] and len(words) > 2:
                assert " ".join(words[:3]) in operators, f"{path.name}: hub {words}"


def test_every_decision_is_short_and_says_what_it_costs():
    for path in sorted((ROOT / "docs/decisions").glob("0*.md")):
        text = path.read_text("utf-8")
        assert len(text.splitlines()) <= 40, path.name
        for part in ("**Question.**", "**Choice.**", "**Why.**", "**Cost.**", "**What would change our mind.**"):
            assert part in text, f"{path.name}: {part}"


# --- the vectors -----------------------------------------------------------------------------

VECTORS = {
    "crypto.json": ("space", "names", "digest", "auth", "email_tag", "otp", "key_code", "pair", "padme"),
    "values.json": (),
    "ed25519.json": (),
}


@pytest.mark.parametrize("name", VECTORS)
def test_the_vectors_are_complete(name):
    vectors = json.loads((ROOT / "vectors" / name).read_text("utf-8"))
    text = json.dumps(vectors)
    assert vectors
    for part in VECTORS[name]:
        assert f'"{part}' in text, part


# --- what may not be in the repository -------------------------------------------------------


def test_no_pinned_requirement_is_without_a_hash_or_names_an_address():
    for name in ("requirements.txt", "requirements-dev.txt"):
        text = (ROOT / name).read_text("utf-8")
        blocks = re.split(r"\n(?=[a-z0-9])", text, flags=re.I)
        assert len(blocks) > 10
        for block in blocks:
            assert re.match(r"[A-Za-z0-9_.-]+==\S+", block) and "--hash=sha256:" in block, block[:60]
        assert not re.search(r"https?:|file:|--index|--find", text)


def test_what_runs_is_a_subset_of_what_is_tested():
    def pins(name):
        return set(re.findall(r"^([a-z0-9_.-]+==[^\s;]+)", (ROOT / name).read_text("utf-8"), re.M))

    assert pins("requirements.txt") <= pins("requirements-dev.txt")


# --- the tests themselves --------------------------------------------------------------------


def run_tests(folder, body, **env):
    """What this suite's own rules say about a suite that consists of ``body``."""
    (folder / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text("utf-8"))
    (folder / "pyproject.toml").write_text("[tool.pytest]\nstrict = true\n")
    (folder / "test_it.py").write_text(body)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder]
    return subprocess.run(command, cwd=folder, env={**os.environ, **env}, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("required, status", [("", 0), ("chromium, redis", 0), ("redis, postgres", 1), ("all", 1)])
def test_a_skip_is_a_failure_where_it_is_not_allowed(tmp_path, required, status):
    body = "import pytest\ndef test_it(): pytest.skip('no Postgres here')\n"
    done = run_tests(tmp_path, body, HUB_TEST_REQUIRE=required)
    assert done.returncode == status, done.stdout
    assert "used: Python" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_that_outlives_the_tests_fails_them(tmp_path):
    body = """
import subprocess, sys
left = []
def test_it():
    left.append(subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE))
"""
    done = run_tests(tmp_path, body, HUB_TEST_REQUIRE="")
    assert done.returncode == 1
    assert "left behind by the tests: process" in done.stdout


def test_a_run_without_tests_is_no_success(tmp_path):
    assert run_tests(tmp_path, "").returncode == 5
