"""The client's own tests made ready for a page: bundled, with a page's stand-ins for the modules of Node."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.test_js import FOLDER, why_not

NODE = Path(__file__).parent / "node"
# Those that need nothing but the language, WebCrypto and the published vectors.
FILES = [
    *(f"{name}.test.js" for name in ("bytes", "msgpack", "codec", "header", "keycode", "keys", "sealing", "signing")),
    *(f"{name}.test.js" for name in ("values", "signals", "terms", "check", "strategies", "protocol_doc")),
]
# They load a second copy of a module under another name, which a bundle has not.
NOT_FOR_A_PAGE = ["a browser without Ed25519 makes the same keys and proofs", "a key shows its public half only"]
STAND_INS = {
    "node:test": "test.js",
    "node:assert/strict": "assert.js",
    **dict.fromkeys(("node:fs", "node:util", "node:vm"), "more.js"),
}


def why_no_suite() -> str:
    """Why it cannot be made here; empty when it can."""
    return why_not()


def build(into: Path) -> None:
    """Write ``suite.js`` and its parts into this folder."""
    tests = [FOLDER / "test" / name for name in FILES] + sorted(NODE.glob("*.test.js"))
    steps = "\n".join(f'begin("{file.name}");\nawait import("{file.as_posix()}");' for file in tests)
    entry = into / "suite.in.js"
    imports = 'import "node:util";\nimport { begin, run } from "node:test";'
    entry.write_text(f"{imports}\n{steps}\nglobalThis.run = run;\n")
    aliases = [f"--alias:{name}={NODE / file}" for name, file in STAND_INS.items()]
    aliases.append(f"--alias:dexie={FOLDER / 'node_modules/dexie/dist/modern/dexie.mjs'}")
    words = [
        FOLDER / "node_modules/.bin/esbuild", entry, "--bundle", "--splitting", "--format=esm", "--log-level=error",
        f"--outdir={into}", "--entry-names=suite", "--target=es2022", *aliases,
    ]  # fmt: skip
    done = subprocess.run(words, cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
