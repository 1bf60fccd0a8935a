"""The files that a browser gets: the client at /client/, the dashboard, the demo, and the page at /.

They are read once, at the start, and held in memory: a request is looked up in a
table of the paths that exist and touches no disk, so there is no path that leads out
of it, however it is spelt.  What is no plain file of a known kind, is a link, or goes
beyond the limits below is left out of the table, and the hub's log says so.

Every answer carries the same strict policy: a page runs scripts and styles of this hub
alone, speaks with this hub alone, and stands in nobody's frame.  Other origins get nothing:
an app that seals its data takes no code from a hub it need not trust.  In the dashboard,
text cannot become markup or script either: it makes no trusted types.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Container, Iterator, Sequence
from html import escape
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from hub import __version__
from hub.terms import PATH

FILE_BYTES_MAX = 524_288  # of one file; a larger one would not be down a phone's line in time
FILES_MAX = 200
ALL_BYTES_MAX = 8_388_608  # of all files together, as they lie there
UNDER_WAY_BYTES_MAX = 33_554_432  # handed to sockets that have not taken them yet; beyond it visitors wait
GZIP_WORTH = 0.9  # a gzipped form is kept when it is smaller than this share
YEAR_S = 31_536_000

DASHBOARD = "/dashboard/"

KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}
# These lie beside the pages for those who read the source.
NOT_PAGES = {".md", ".map"}
NOT_PAGE_NAMES = {"package.json", "test", "node_modules"}

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_HASHED = re.compile(r"/client/(?:[A-Za-z0-9_.-]+/)*[A-Za-z0-9_.-]+-[0-9A-Z]{8}\.js")  # as build.mjs names chunks


class Answer(NamedTuple):
    """What to say to a GET; ``headers`` without those that every answer of the hub has."""

    status: HTTPStatus
    headers: dict[str, str]
    body: bytes


class File(NamedTuple):
    """One file as it is sent."""

    kind: str
    body: bytes
    gzipped: bytes  # empty: not worth it
    tag: str  # of the contents, without quotes
    immutable: bool  # its name holds its hash


class Pages:
    """All files, by path."""

    def __init__(self, client: Path | None, demo: Path | None, dashboard: Path | None = None) -> None:
        """``None`` is a folder that is not served; one that does not exist is empty."""
        self.left_out: list[str] = []
        self._files: dict[str, File] = {}
        self._bytes = 0
        for prefix, folder in (("/client/", client), (DASHBOARD, dashboard), ("/demo/", demo)):
            if folder:
                self._take(prefix, folder)
        self._folders = {f"/{path.split('/')[1]}" for path in self._files}
        self._files["/"] = _file("/", KINDS[".html"], _home(self._folders))
        self._files["/home.css"] = _file("/home.css", KINDS[".css"], HOME_STYLE)
        if "/client" in self._folders and "/client/" not in self._files:
            self._files["/client/"] = _file("/client/", KINDS[".txt"], self._list_of_client())

    @classmethod
    def of_this_hub(cls, *, serve_demo: bool) -> Pages:
        """What came with the program: in the package when installed, beside it in a checkout."""
        demo = _folder("web/demo", "clients/demo") if serve_demo else None
        return cls(_folder("web/client", "clients/js/dist"), demo, _folder("web/dashboard", "clients/dashboard"))

    def answer(
        self, path: str, *, if_none_match: str = "", accept_encoding: str = "", hub_urls: Sequence[str] = ()
    ) -> Answer | None:
        """The answer to a GET for ``path``, given without its query; None when nothing is there.

        ``if_none_match`` and ``accept_encoding`` are the headers as they came; ``hub_urls`` are the addresses that a
        page may dial.
        """
        if path in self._folders:
            return Answer(HTTPStatus.PERMANENT_REDIRECT, {"Location": f"{path}/", **_guards(path, hub_urls)}, b"")
        file = self._files.get(path)
        if file is None:
            return None
        zipped = bool(file.gzipped) and takes_gzip(accept_encoding)
        tag = f'"{file.tag}-gzip"' if zipped else f'"{file.tag}"'
        headers = {
            "ETag": tag,
            "Cache-Control": f"public, max-age={YEAR_S}, immutable" if file.immutable else "no-cache",
            **({"Vary": "Accept-Encoding"} if file.gzipped else {}),
            **_guards(path, hub_urls),
        }
        if names_tag(if_none_match, tag):
            return Answer(HTTPStatus.NOT_MODIFIED, headers, b"")
        headers["Content-Type"] = file.kind
        if zipped:
            headers["Content-Encoding"] = "gzip"
        return Answer(HTTPStatus.OK, headers, file.gzipped if zipped else file.body)

    @property
    def paths(self) -> list[str]:
        """Every path that has a file."""
        return sorted(self._files)

    def _take(self, prefix: str, folder: Path) -> None:
        for path in _plain_files(folder, self.left_out):
            name = path.relative_to(folder).as_posix()
            if path.suffix in NOT_PAGES:
                continue
            size = path.stat().st_size
            fits = size <= FILE_BYTES_MAX and self._bytes + size <= ALL_BYTES_MAX and len(self._files) < FILES_MAX
            if not fits or path.suffix not in KINDS:
                self.left_out.append(prefix + name)
                continue
            self._bytes += size
            file = _file(prefix + name, KINDS[path.suffix], path.read_bytes())
            self._files[prefix + name] = file
            if path.name == "index.html":
                self._files[prefix + name.removesuffix("index.html")] = file

    def _list_of_client(self) -> bytes:
        lines = [f"{len(file.gzipped or file.body):>8}  {path}" for path, file in sorted(self._files.items())]
        listed = "\n".join(line for line in lines if "/client/" in line)
        return f"sync-hub {__version__}, the client for browsers; bytes as they are sent\n\n{listed}\n".encode()


def takes_gzip(accept_encoding: str) -> bool:
    """Whether a client that sent this header takes gzip."""
    weights: dict[str, bool] = {}
    for part in accept_encoding.lower().split(","):
        coding, _, parameters = part.partition(";")
        weights[coding.strip()] = not re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", parameters)
    return weights.get("gzip", weights.get("*", False))


def names_tag(if_none_match: str, tag: str) -> bool:
    """Whether the header names ``tag``, or any."""
    named = {part.strip().removeprefix("W/") for part in if_none_match.split(",")}
    return tag in named or if_none_match.strip() == "*"


def _plain_files(folder: Path, left_out: list[str]) -> Iterator[Path]:
    """The files below ``folder`` with plain names, in order; links are not followed."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name in NOT_PAGE_NAMES:
            continue
        if path.is_symlink():
            left_out.append(str(path))
        elif not _PLAIN_NAME.fullmatch(path.name):
            if not path.name.startswith("."):
                left_out.append(str(path))
        elif path.is_dir():
            yield from _plain_files(path, left_out)
        elif path.is_file():
            yield path


def _file(path: str, kind: str, body: bytes) -> File:
    gzipped = gzip.compress(body, 9, mtime=0)
    worth = len(gzipped) < len(body) * GZIP_WORTH
    tag = hashlib.sha256(body).hexdigest()[:16]
    return File(kind, body, gzipped if worth else b"", tag, bool(_HASHED.fullmatch(path)))


def _guards(path: str, hub_urls: Sequence[str]) -> dict[str, str]:
    """What the page at ``path`` may do, and who may use it."""
    # 'self' covers the socket in every browser but older ones of Apple; an IPv6 address cannot be written here.
    sockets = [f"{parts.scheme}://{parts.netloc}" for parts in map(urlsplit, hub_urls) if "[" not in parts.netloc]
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data: blob:",
        "font-src": "'self'",
        "connect-src": " ".join(["'self'", *sockets]),
        "worker-src": "'self'",
        "manifest-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    if path.startswith(DASHBOARD):
        # The demo cannot have this: a page registers its service worker by a plain text.
        policy |= {"require-trusted-types-for": "'script'", "trusted-types": "'none'"}
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Referrer-Policy": "no-referrer",
        "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }


def _folder(packed: str, in_checkout: str) -> Path:
    here = Path(str(files("hub")))
    return here / packed if (here / packed).is_dir() else here.parent / in_checkout


def _home(folders: Container[str]) -> bytes:
    named = (("/dashboard", "Your account"), ("/demo", "Try the demo"))
    links = " ".join(f'<a class="button" href="{path}/">{name}</a>' for path, name in named if path in folders)
    ways = f"<p>{links}</p>\n" if links else ""
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>sync-hub</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/home.css">
<main>
<h1>sync-hub</h1>
<p>This hub keeps people's apps in step across their devices, and cannot read a word of it.</p>
{ways}<dl>
<dt>Devices connect to</dt><dd><code>{escape(PATH)}</code></dd>
<dt>For apps</dt><dd><a href="/client/">the client for browsers</a>, <a href="/.well-known/sync-hub">this hub's
terms</a>; the guide is <code>docs/app-authors.md</code> in the source</dd>
<dt>For whoever runs it</dt><dd><code>docs/operating.md</code>, <code>docs/settings.md</code></dd>
</dl>
<footer>sync-hub {escape(__version__)}</footer>
</main>
</html>
""".encode()


HOME_STYLE = b"""\
:root { color-scheme: light dark; font: 1.0625rem/1.6 ui-serif, Georgia, serif; }
main { max-width: 34rem; margin: 14vh auto 4rem; padding: 0 1.5rem; }
h1 { font-weight: 500; letter-spacing: -0.02em; margin: 0; }
.button { display: inline-block; padding: 0.5rem 1.1rem; border: 1px solid; border-radius: 0.5rem; color: inherit;
  text-decoration: none; }
.button:hover { text-decoration: underline; }
:focus-visible { outline: 2px solid; outline-offset: 3px; }
dl { margin: 2rem 0; font-size: 0.9375rem; }
dt { opacity: 0.7; }
dd { margin: 0 0 0.75rem; }
footer { opacity: 0.7; font-size: 0.875rem; }
"""
