"""The files a browser gets: what each answer says, and that there is no way out of the table of files."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import os
import re
import socket
import ssl
import tomllib
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from hub import server, static
from hub.static import Answer, Pages, names_tag, takes_gzip
from tests.hub_rig import Place, hub_in

ROOT = Path(__file__).parent.parent
CHUNK = "leading-ABCD2345.js"
OF_THE_DASHBOARD = {"require-trusted-types-for": "'script'", "trusted-types": "'none'"}
SCRIPT = b"export const words = 'one two three four five six seven eight nine ten';\n" * 40
NOISE = os.urandom(200_000)  # does not get smaller


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A client, a demo and a dashboard as they come with the program."""
    for name, body in {
        "client/hub-client.js": SCRIPT,
        f"client/{CHUNK}": SCRIPT,
        "demo/index.html": b"<!doctype html><title>demo</title>",
        "demo/icons/icon.png": NOISE,
        "demo/app.webmanifest": b"{}",
        "dashboard/index.html": b"<!doctype html><title>dashboard</title>",
    }.items():
        (tmp_path / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / name).write_bytes(body)
    return tmp_path / "site"


def pages_of(site: Path) -> Pages:
    return Pages(site / "client", site / "demo", site / "dashboard")


def found(answer: Answer | None) -> Answer:
    assert answer is not None
    return answer


# --- the table of files ---


def test_a_file_is_sent_with_its_kind(site: Path) -> None:
    pages = pages_of(site)
    kinds = {path: found(pages.answer(path)).headers["Content-Type"] for path in pages.paths}
    assert kinds["/demo/"] == kinds["/demo/index.html"] == "text/html; charset=utf-8"
    assert kinds["/client/hub-client.js"] == "text/javascript; charset=utf-8"
    assert kinds["/demo/icons/icon.png"] == "image/png"
    assert kinds["/demo/app.webmanifest"] == "application/manifest+json"
    assert found(pages.answer("/client/hub-client.js")).body == SCRIPT


def test_a_folder_without_its_slash_leads_to_the_one_with_it(site: Path) -> None:
    for folder in ("/demo", "/client", "/dashboard"):
        answer = found(pages_of(site).answer(folder))
        assert (answer.status, answer.headers["Location"]) == (HTTPStatus.PERMANENT_REDIRECT, f"{folder}/")


def test_only_a_name_that_holds_its_hash_is_kept_without_asking(site: Path) -> None:
    for name in ("page-ABC.js", "page-ABCD23456.js", "page-ABCD2345.css", "pageABCD2345.js"):
        (site / "client" / name).write_bytes(SCRIPT)
    pages = pages_of(site)
    assert found(pages.answer(f"/client/{CHUNK}")).headers["Cache-Control"] == "public, max-age=31536000, immutable"
    for path in set(pages.paths) - {f"/client/{CHUNK}"}:
        assert found(pages.answer(path)).headers["Cache-Control"] == "no-cache", path


def test_a_demo_cannot_call_its_own_files_immutable(site: Path) -> None:
    (site / "demo" / CHUNK).write_bytes(SCRIPT)
    assert found(pages_of(site).answer(f"/demo/{CHUNK}")).headers["Cache-Control"] == "no-cache"


def test_every_answer_has_the_guards(site: Path) -> None:
    pages = pages_of(site)
    for path in (*pages.paths, "/demo", "/client", "/dashboard"):
        headers = found(pages.answer(path, hub_urls=["wss://hub.example.org/v1/ws", "ws://[::1]:8080/v1/ws"])).headers
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert policy == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "'self' data: blob:",
            "font-src": "'self'",
            "connect-src": "'self' wss://hub.example.org",
            "worker-src": "'self'",
            "manifest-src": "'self'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
            **(OF_THE_DASHBOARD if path.startswith("/dashboard/") else {}),
        }
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Permissions-Policy"] == "camera=(self), microphone=(), geolocation=()"


def test_what_is_known_is_not_sent_again(site: Path) -> None:
    pages, path = pages_of(site), "/client/hub-client.js"
    tag = found(pages.answer(path)).headers["ETag"]
    again = found(pages.answer(path, if_none_match=tag))
    assert (again.status, again.body, again.headers["ETag"]) == (HTTPStatus.NOT_MODIFIED, b"", tag)
    assert again.headers["Cache-Control"] == "no-cache"
    assert "Content-Type" not in again.headers
    (site / "client/hub-client.js").write_bytes(SCRIPT + b"//")
    assert found(pages_of(site).answer(path, if_none_match=tag)).status == HTTPStatus.OK


def test_the_gzipped_form_has_a_tag_of_its_own(site: Path) -> None:
    pages, path = pages_of(site), "/client/hub-client.js"
    plain, zipped = found(pages.answer(path)), found(pages.answer(path, accept_encoding="br, gzip"))
    assert zipped.headers["Content-Encoding"] == "gzip" and gzip.decompress(zipped.body) == plain.body == SCRIPT
    assert "Content-Encoding" not in plain.headers
    assert zipped.headers["ETag"] != plain.headers["ETag"]
    assert plain.headers["Vary"] == zipped.headers["Vary"] == "Accept-Encoding"
    for mine, other in ((plain, "gzip"), (zipped, "")):
        again = found(pages.answer(path, if_none_match=mine.headers["ETag"], accept_encoding=other))
        assert again.status == HTTPStatus.OK


def test_what_does_not_get_smaller_is_not_gzipped(site: Path) -> None:
    answer = found(pages_of(site).answer("/demo/icons/icon.png", accept_encoding="gzip"))
    assert answer.body == NOISE and "Content-Encoding" not in answer.headers and "Vary" not in answer.headers


@pytest.mark.parametrize(
    "header, yes",
    [
        ("gzip", True),
        ("GZIP;q=0.1", True),
        ("br;q=1, gzip", True),
        ("*", True),
        ("", False),
        ("br", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("*;q=0, br", False),
        ("gzip;q=0, *", False),
        ("x-gzip-like", False),
    ],
)
def test_gzip_goes_to_those_who_take_it(header: str, yes: bool) -> None:
    assert takes_gzip(header) is yes


@pytest.mark.parametrize(
    "header, yes",
    [
        ('"a"', True),
        ('W/"a"', True),
        ('"b", "a"', True),
        ("*", True),
        ("", False),
        ('"b"', False),
        ("a", False),
        ('"a-gzip"', False),
    ],
)
def test_a_tag_is_named_alone_weakly_or_in_a_list(header: str, yes: bool) -> None:
    assert names_tag(header, '"a"') is yes


WAYS_OUT = [
    "/demo/../secret.txt",
    "/demo/../../secret.txt",
    "/demo/%2e%2e/secret.txt",
    "/demo/..%2fsecret.txt",
    "/demo/%2e%2e%2fsecret.txt",
    "/demo/%252e%252e/secret.txt",
    "/demo/..\\secret.txt",
    "/demo/%5c..%5csecret.txt",
    "/demo/./index.html",
    "/demo//index.html",
    "//demo/index.html",
    "/demo/index.html/",
    "/demo/index.html%00.png",
    "/demo/%69ndex.html",
    "/DEMO/index.html",
    "/demo/icons",
    "/demo/icons/",
    "/secret.txt",
    "/client/../demo/index.html",
]


@pytest.mark.parametrize("path", WAYS_OUT)
def test_nothing_but_a_files_own_path_leads_to_it(site: Path, path: str) -> None:
    (site / "secret.txt").write_text("secret")
    assert pages_of(site).answer(path) is None


def test_links_are_not_followed_and_odd_names_not_served(site: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/secret.txt").write_text("secret")
    demo = site / "demo"
    (demo / "link.txt").symlink_to(tmp_path / "secret.txt")
    (demo / "folder").symlink_to(tmp_path / "more")
    (demo / "inside.html").symlink_to(demo / "index.html")
    (demo / "a b.txt").write_text("x")
    (demo / "app.exe").write_text("x")
    pages = pages_of(site)
    assert [path for path in pages.paths if path.startswith("/demo/")] == [
        "/demo/",
        "/demo/app.webmanifest",
        "/demo/icons/icon.png",
        "/demo/index.html",
    ]
    assert sorted(Path(path).name for path in pages.left_out) == [
        "a b.txt",
        "app.exe",
        "folder",
        "inside.html",
        "link.txt",
    ]


def test_what_lies_beside_the_pages_is_left_out_in_silence(site: Path) -> None:
    for name in (".git", "README.md", "app.js.map", "package.json", "test/app.js", "node_modules/x.js"):
        (site / "demo" / name).parent.mkdir(exist_ok=True)
        (site / "demo" / name).write_text("x")
    pages = pages_of(site)
    assert pages.left_out == []
    assert not [path for path in pages.paths if re.search(r"git|README|map|package|test|node_modules", path)]


def test_a_file_may_be_so_large_and_no_larger(site: Path) -> None:
    for name, size in (("fits.txt", static.FILE_BYTES_MAX), ("too_large.txt", static.FILE_BYTES_MAX + 1)):
        (site / "demo" / name).write_bytes(b"x" * size)
    pages = pages_of(site)
    assert len(found(pages.answer("/demo/fits.txt")).body) == static.FILE_BYTES_MAX
    assert pages.answer("/demo/too_large.txt") is None
    assert pages.left_out == ["/demo/too_large.txt"]


def test_all_files_together_may_be_so_large_and_no_larger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static, "ALL_BYTES_MAX", 100)
    (tmp_path / "a.txt").write_bytes(b"x" * 60)
    (tmp_path / "b.txt").write_bytes(b"x" * 40)
    assert Pages(None, tmp_path).left_out == []
    (tmp_path / "b.txt").write_bytes(b"x" * 41)
    assert Pages(None, tmp_path).left_out == ["/demo/b.txt"]


def test_there_may_be_so_many_files_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static, "FILES_MAX", 2)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("x")
    assert Pages(None, tmp_path).left_out == []
    (tmp_path / "c.txt").write_text("x")
    assert Pages(None, tmp_path).left_out == ["/demo/c.txt"]


def test_a_hub_without_the_files_has_only_its_first_page() -> None:
    pages = Pages(None, Path("/nowhere"))
    assert pages.paths == ["/", "/home.css"]
    assert pages.answer("/demo") is pages.answer("/client/") is None
    assert b"/demo/" not in found(pages.answer("/")).body


def test_the_first_page_leads_to_dashboard_and_demo_and_loads_nothing_from_elsewhere(site: Path) -> None:
    page = found(pages_of(site).answer("/")).body.decode()
    assert 'href="/demo/"' in page and 'href="/dashboard/"' in page
    assert not re.search(r"https?:|//|<script|style=|\son\w+=", page)


def test_the_client_has_a_list_of_its_files(site: Path) -> None:
    assert f"/client/{CHUNK}" in found(pages_of(site).answer("/client/")).body.decode()


# --- what this repository serves ---


def test_everything_this_repository_serves_is_served() -> None:
    pages = Pages.of_this_hub(serve_demo=True)
    assert pages.left_out == []
    assert {"/client/hub-client.js", "/client/LICENSES.txt", "/dashboard/"} <= set(pages.paths)
    served = sum(1 for path in pages.paths if path.startswith("/client/")) - 1
    assert served == sum(1 for path in (ROOT / "clients/js/dist").rglob("*") if path.is_file())


def test_what_is_served_from_a_checkout_is_packed_into_the_wheel() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packed = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for here, there in packed.items():
        assert (ROOT / here).exists(), here
        if here != "schema.sql":
            assert there == here.replace("clients/js/dist", "hub/web/client").replace("clients/d", "hub/web/d")
    for path in Pages.of_this_hub(serve_demo=True).paths:
        if path.startswith(("/demo/", "/dashboard/")) and not path.endswith("/"):
            name = f"clients{path}"
            assert any(name == here or name.startswith(f"{here}/") for here in packed), f"{name}: see pyproject.toml"


def test_no_page_of_ours_needs_what_the_policy_forbids() -> None:
    pages = Pages.of_this_hub(serve_demo=True)
    for path in pages.paths:
        if path.endswith((".html", "/")):
            page = found(pages.answer(path)).body.decode()
            assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|javascript:", page, re.I), path
            assert not re.search(r"(src|href)=[\"']?(https?:)?//", page), path


# --- over the socket ---


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture
async def place(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr(static, "_folder", lambda packed, _: site / packed.removeprefix("web/"))
    async with hub_in(tmp_path / "data") as place:
        yield place


async def ask(place: Place, path: str, method: str = "GET", **headers: str) -> Reply:
    def request() -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", place.hub.port, timeout=5)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        answer = connection.getresponse()
        reply = Reply(answer.status, dict(answer.getheaders()), answer.read())
        connection.close()
        return reply

    return await asyncio.to_thread(request)


async def test_a_browser_gets_the_demo_and_the_client(place: Place) -> None:
    page = await ask(place, "/demo/?from=mail")
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Connection"] == "close"
    assert (
        f"connect-src 'self' ws://127.0.0.1:{place.hub.port} ws://localhost:" in page.headers["Content-Security-Policy"]
    )
    script = await ask(place, "/client/hub-client.js", Accept_Encoding="gzip")
    assert gzip.decompress(script.body) == SCRIPT
    assert int(script.headers["Content-Length"]) == len(script.body)
    again = await ask(place, "/client/hub-client.js", Accept_Encoding="gzip", If_None_Match=script.headers["ETag"])
    assert (again.status, again.body) == (304, b"") and "Content-Length" not in again.headers


async def test_the_demo_is_one_redirect_away(place: Place) -> None:
    reply = await ask(place, "/demo")
    assert (reply.status, reply.headers["Location"], reply.body) == (308, "/demo/", b"")


async def test_head_says_what_get_would(place: Place) -> None:
    got, asked = await ask(place, "/demo/icons/icon.png"), await ask(place, "/demo/icons/icon.png", "HEAD")
    assert (got.status, got.headers, got.body) == (200, asked.headers, NOISE)
    assert (asked.status, asked.body, asked.headers["Content-Length"]) == (200, b"", str(len(NOISE)))


async def test_what_is_not_there_says_so(place: Place) -> None:
    reply = await ask(place, "/demo/nothing.html")
    assert (reply.status, reply.body) == (404, b"nothing here\n")


@pytest.mark.parametrize("path", [path for path in WAYS_OUT if "\\" not in path])
async def test_no_spelling_leads_out_of_the_folders(place: Place, site: Path, path: str) -> None:
    (site / "secret.txt").write_text("secret")
    assert (await ask(place, path)).status == 404


async def test_pages_are_only_read(place: Place) -> None:
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH"):
        reply = await ask(place, "/demo/index.html", method)
        assert (reply.status, reply.headers["Allow"], reply.body) == (405, "GET, HEAD", b"only GET\n")


async def test_an_operator_may_switch_the_demo_off(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static, "_folder", lambda packed, _: site / packed.removeprefix("web/"))
    async with hub_in(tmp_path / "data", serve_demo=False) as place:
        for path in ("/demo", "/demo/", "/demo/index.html"):
            assert (await ask(place, path)).status == 404
        assert b"/demo/" not in (await ask(place, "/")).body
        assert (await ask(place, "/client/hub-client.js")).status == 200


async def test_beyond_what_may_be_under_way_visitors_are_told_to_come_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.http.UNDER_WAY_BYTES_MAX", 2 * len(NOISE))
    slow = [await who_asks_and_does_not_read(place, "/demo/icons/icon.png") for _ in range(2)]
    refused = await ask(place, "/demo/icons/icon.png")
    assert (refused.status, refused.body) == (503, b"too many visitors\n")
    assert refused.headers["Retry-After"] == "2"
    assert (await ask(place, "/demo/index.html")).status == 200  # what is small is not counted
    assert (await ask(place, "/demo/icons/icon.png", "HEAD")).status == 200
    assert await asyncio.to_thread(everything, slow[0]) == NOISE
    await until(lambda: place.hub.server._http._under_way == len(NOISE))
    assert (await ask(place, "/demo/icons/icon.png")).status == 200
    slow[1].close()


@pytest.mark.parametrize("tls", [False, True])
async def test_a_slow_line_gets_a_whole_file_after_the_hub_has_hung_up(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    monkeypatch.setattr(static, "_folder", lambda packed, _: site / packed.removeprefix("web/"))
    monkeypatch.setattr(server, "REQUEST_WITHIN_S", 0.5)
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    key.write_bytes(certificate.private_key_pem.bytes())
    context = ssl.create_default_context()
    authority.configure_trust(context)
    settings = {"tls_certificate": chain, "tls_key": key} if tls else {}
    async with hub_in(tmp_path / "data", **settings) as place:
        hub = place.hub.server
        assert hub._server is not None
        for listening in hub._server.sockets:  # a system that gives every socket little; those it accepts inherit it
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        slow = await who_asks_and_does_not_read(place, "/demo/icons/icon.png", context if tls else None)
        await until(lambda: hub._http._under_way == 0)
        assert await asyncio.to_thread(everything, slow) == NOISE


async def who_asks_and_does_not_read(place: Place, path: str, tls: ssl.SSLContext | None = None) -> socket.socket:
    """A connection whose answer waits on the hub's side."""

    def dial() -> socket.socket:
        visitor = socket.socket()
        visitor.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        visitor.settimeout(5)
        visitor.connect(("127.0.0.1", place.hub.port))
        if tls:
            visitor = tls.wrap_socket(visitor, server_hostname="127.0.0.1")
        visitor.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        return visitor

    http = place.hub.server._http
    before = http._under_way
    visitor = await asyncio.to_thread(dial)
    await until(lambda: http._under_way > before)
    return visitor


def everything(visitor: socket.socket) -> bytes:
    """The body, read to the end."""
    with visitor:
        return b"".join(iter(lambda: visitor.recv(65_536), b"")).partition(b"\r\n\r\n")[2]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.01)
