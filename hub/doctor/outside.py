"""What a device meets on its way in: the name, the certificate, the proxy, and this very hub behind it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ipaddress
import json
import secrets
import ssl
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus

from hub.doctor import proxies
from hub.doctor.inside import skewed
from hub.doctor.patient import ANSWER_WITHIN_S, Patient
from hub.doctor.report import Finding, bad, ok, warn
from hub.secrets import Secrets, mark
from hub.terms import PROTOCOL_VERSION, SUBPROTOCOL
from hub.wire import messages as m
from hub.wire.codec import decode_from_hub, encode

DISCOVERY = "/.well-known/sync-hub"
CHALLENGE_WITHIN_S = 1.0
CERTIFICATE_DAYS_FEW = 14
DATE_S = 1.0  # an HTTP date has whole seconds
SKEW_S_MUCH = 5.0
DAY_S = 86_400.0
# OpenSSL's numbers for why a certificate is not believed.
EXPIRED, NOT_YET, OTHER_NAME, OTHER_ADDRESS = 10, 9, 62, 64
SELF_SIGNED, UNKNOWN_ISSUER = (18, 19), (20, 21)
SOMEBODY = "203.0.113.9"  # an address for documents (RFC 5737): nobody has it


@dataclass(frozen=True)
class Page:
    """The answer to one GET."""

    status: int
    body: bytes


@dataclass(frozen=True)
class Way:
    """One address that devices dial."""

    url: str  # as devices sign it: wss://host/v1/ws
    host: str
    port: int
    tls: ssl.SSLContext | None

    async def get(self, path: str) -> Page | None:
        """The page, or None when there is no answer in time."""
        return await asyncio.to_thread(_get, self.host, self.port, path, self.tls, {})


def way_of(url: str, tls: ssl.SSLContext) -> Way:
    """How to dial one of ``public_urls``."""
    parts = urlsplit(url)
    secure = parts.scheme == "wss"
    return Way(url, parts.hostname or "", parts.port or (443 if secure else 80), tls if secure else None)


def _get(host: str, port: int, path: str, tls: ssl.SSLContext | None, headers: dict[str, str]) -> Page | None:
    line: http.client.HTTPConnection
    if tls:
        line = http.client.HTTPSConnection(host, port, timeout=ANSWER_WITHIN_S, context=tls)
    else:
        line = http.client.HTTPConnection(host, port, timeout=ANSWER_WITHIN_S)
    try:
        line.request("GET", path, headers=headers)
        answer = line.getresponse()
        return Page(answer.status, answer.read(100_000))
    except (OSError, http.client.HTTPException):
        return None
    finally:
        line.close()


# --- this machine's own port -----------------------------------------------------------------


async def of_here(patient: Patient) -> list[Finding]:
    """The hub on this machine, asked directly."""
    s = patient.settings
    page = await _get_here(patient, "/readyz", {})
    if page is None:
        what = "no hub answers on port {port} of this machine; what it would say is not known."
        return [warn("hub", what, "hub serve", port=s.port)]
    if page.status == http.client.SERVICE_UNAVAILABLE:
        return [bad("hub", "the hub runs, and its database does not answer it.", "see the line about the database")]
    if page.status != http.client.OK:
        return [warn("hub", "what answers on port {port} is not ready, or no hub.", "hub health", port=s.port)]
    return [ok("hub", "a hub is ready on port {port}.", port=s.port), *await _of_forwarded(patient)]


async def _get_here(patient: Patient, path: str, headers: dict[str, str]) -> Page | None:
    s = patient.settings
    host = s.host if s.host not in ("", "0.0.0.0", "::") else "127.0.0.1"
    # The certificate names the public address; here only this process is asked.
    tls = ssl._create_unverified_context() if s.tls_certificate else None
    return await asyncio.to_thread(_get, host, s.port, path, tls, headers)


async def _of_forwarded(patient: Patient) -> list[Finding]:
    """Whether the running hub believes a proxy on this machine about where a device comes from."""
    s = patient.settings
    loopback = any(ipaddress.ip_address("127.0.0.1") in ipaddress.ip_network(each) for each in s.trusted_proxies)
    if not (s.behind_proxy and loopback and s.metrics == "loopback"):
        return []
    page = await _get_here(patient, "/metrics", {"X-Forwarded-For": SOMEBODY})
    if page and page.status == http.client.OK:
        what = "the running hub does not believe a proxy on this machine about where devices come from."
        return [bad("forwarded", what, "it was started with other settings: restart it")]
    return [ok("forwarded", "the hub believes a proxy on this machine about where devices come from.")]


def of_forwarding(patient: Patient) -> list[Finding]:
    """What the settings alone tell: with TLS ended elsewhere the hub must know whom to believe."""
    s = patient.settings
    if any(url.startswith("wss:") for url in s.public_urls) and not s.tls_certificate and not s.behind_proxy:
        what = "a proxy ends TLS and behind_proxy is off: all devices count as one address, of which 64 may connect."
        return [bad("forwarded", what, *proxies.FORWARDED)]
    if s.behind_proxy and not s.trusted_proxies:
        what = "behind_proxy is on and trusted_proxies is empty: all devices count as the proxy's address."
        return [bad("forwarded", what, *proxies.FORWARDED)]
    return []


# --- from outside ----------------------------------------------------------------------------


async def of_way(patient: Patient, url: str, keys: Secrets | None, *, idle_s: float = 0.0) -> list[Finding]:
    """Everything a device meets at one address, in its order; what comes after a break is not told."""
    way = way_of(url, patient.tls)
    found = await _of_name(way)
    if way.tls and found[-1].weight != "bad":
        found += await _of_certificate(patient, way)
    if found[-1].weight != "bad":
        found += await _of_discovery(way, keys)
    if found[-1].weight != "bad":
        found += await _of_metrics(patient, way)
        found += await _of_socket(patient, way, idle_s)
    return found


async def _of_name(way: Way) -> list[Finding]:
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            loop = asyncio.get_running_loop()
            addresses = {each[4][0] for each in await loop.getaddrinfo(way.host, way.port)}
    except (OSError, UnicodeError):
        what = "no address belongs to the name {hub}."
        return [bad("dns", what, "add an A or AAAA record at whoever runs the domain", hub=way.host)]
    return [ok("dns", "{hub} leads to {count} addresses.", hub=way.host, count=len(addresses))]


async def _of_certificate(patient: Patient, way: Way) -> list[Finding]:
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            _, writer = await asyncio.open_connection(
                way.host, way.port, ssl=way.tls, server_hostname=way.host, happy_eyeballs_delay=0.25
            )
    except ssl.SSLCertVerificationError as exc:
        return [_distrusted(exc, way)]
    except ssl.SSLError:
        what = "what listens at {hub} speaks no TLS that devices know."
        return [bad("tls", what, "let the proxy end TLS 1.2 or newer on that port", hub=way.url)]
    except OSError:  # a TimeoutError is one
        what = "nothing listens at {hub}."
        return [bad("tls", what, "start the proxy, and let the firewall pass that port", hub=way.url)]
    certificate: Any = writer.get_extra_info("peercert")
    writer.transport.abort()
    begins, ends = (ssl.cert_time_to_seconds(certificate[name]) for name in ("notBefore", "notAfter"))
    left_s = ends - patient.clock()
    days = int(left_s // DAY_S)
    # Some are made for days or hours only, and renewed when a third is left.
    if days < CERTIFICATE_DAYS_FEW and left_s < (ends - begins) / 5:
        what = "the certificate of {hub} ends in {days} days."
        return [warn("tls", what, "see why it was not renewed; Caddy does it by itself", hub=way.host, days=days)]
    return [ok("tls", "the certificate of {hub} is good for {days} days.", hub=way.host, days=days)]


def _distrusted(exc: ssl.SSLCertVerificationError, way: Way) -> Finding:
    remedy = "renew it; Caddy does so by itself"
    match exc.verify_code:
        case number if number == EXPIRED:
            what = "the certificate of {hub} has expired."
        case number if number == NOT_YET:
            what, remedy = "the certificate of {hub} is not valid yet.", "set this machine's clock, or the issuer's"
        case number if number in (OTHER_NAME, OTHER_ADDRESS):
            what, remedy = "the certificate shown at {hub} is for another name.", "get one for the name devices dial"
        case number if number in SELF_SIGNED:
            what, remedy = (
                "the certificate of {hub} is signed by itself.",
                "get one from an authority that devices trust",
            )
        case number if number in UNKNOWN_ISSUER:
            what = "the certificate of {hub} comes without its chain, or from an authority nobody trusts."
            remedy = "give the proxy the whole chain (fullchain.pem)"
        case _:
            what = "the certificate of {hub} is not trusted."
    return bad("tls", what, remedy, hub=way.host)


async def _of_discovery(way: Way, keys: Secrets | None) -> list[Finding]:
    page = await way.get(DISCOVERY)
    if page is None:
        return [bad("discovery", "{hub} hangs up on a plain GET.", *proxies.REACH, hub=way.host)]
    if page.status in (502, 503, 504):
        what = "the proxy at {hub} does not reach the hub (status {status})."
        return [bad("discovery", what, *proxies.REACH, hub=way.host, status=page.status)]
    told: Any = None
    with contextlib.suppress(ValueError):
        told = json.loads(page.body)
    if page.status != http.client.OK or not isinstance(told, dict) or "urls" not in told:
        what = f"what answers at {{hub}} is no hub (status {{status}} for {DISCOVERY})."
        return [bad("discovery", what, *proxies.REACH, hub=way.host, status=page.status)]
    if keys and told.get("mark") not in (None, "", mark(keys)):
        what = "another hub answers at {hub}."
        return [bad("discovery", what, "let the name lead here, or take it out of public_urls", hub=way.host)]
    if way.url not in told["urls"]:
        what = "the hub at {hub} does not know that it goes by that name."
        return [bad("discovery", what, "add it to public_urls and restart the hub", hub=way.host)]
    return [ok("discovery", "{hub} leads to this hub.", hub=way.host)]


async def _of_metrics(patient: Patient, way: Way) -> list[Finding]:
    """The numbers are the operator's.  From this machine by a loopback name nothing can be told."""
    loop = asyncio.get_running_loop()
    addresses = [each[4][0] for each in await loop.getaddrinfo(way.host, way.port)]
    if any(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in addresses):
        return []
    page = await way.get("/metrics")
    if page is None or page.status != http.client.OK:
        return []
    what = "everybody may read the numbers of this hub at {hub}."
    lines = proxies.PRIVATE if patient.settings.metrics == "on" else (*proxies.PRIVATE, *proxies.FORWARDED)
    return [warn("numbers", what, *lines, hub=way.host)]


# --- the WebSocket ---------------------------------------------------------------------------


async def _of_socket(patient: Patient, way: Way, idle_s: float) -> list[Finding]:
    origins = patient.settings.allowed_origins
    try:
        socket = await connect(
            way.url,
            subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
            origin=origins[0] if origins else None,  # type: ignore[arg-type]
            ssl=way.tls,
            compression=None,
            proxy=None,
            open_timeout=ANSWER_WITHIN_S,
            close_timeout=1.0,
            ping_interval=None,
        )
    except InvalidStatus as exc:
        return [_not_upgraded(way, exc.response.status_code)]
    except (InvalidHandshake, InvalidMessage, OSError):  # a TimeoutError is an OSError
        what = "the proxy at {hub} passes pages on, and no WebSocket."
        return [bad("upgrade", what, *proxies.UPGRADE, hub=way.host)]
    try:
        return await _of_talk(patient, way, socket, idle_s)
    finally:
        await socket.close()


def _not_upgraded(way: Way, status: int) -> Finding:
    facts = {"hub": way.host, "status": status}
    if status == http.client.MISDIRECTED_REQUEST:
        what = "the proxy at {hub} does not hand on Host as it came (status {status})."
        return bad("host", what, *proxies.HOST, **facts)
    if status == http.client.FORBIDDEN:
        what = "{hub} refuses a WebSocket for its Origin (status {status})."
        return bad("upgrade", what, "look at allowed_origins, and at rules of the proxy", **facts)
    if status == http.client.SERVICE_UNAVAILABLE:
        what = "{hub} takes no new devices now (status {status}): the hub goes down or is full."
        return bad("upgrade", what, "hub health", **facts)
    what = "the proxy at {hub} passes pages on, and no WebSocket (status {status})."
    return bad("upgrade", what, *proxies.UPGRADE, *proxies.SUBPROTOCOL, **facts)


async def _of_talk(patient: Patient, way: Way, socket: ClientConnection, idle_s: float) -> list[Finding]:
    if socket.subprotocol != SUBPROTOCOL:
        what = "the proxy at {hub} drops Sec-WebSocket-Protocol from the answer."
        return [bad("upgrade", what, *proxies.SUBPROTOCOL, hub=way.host)]
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            await socket.send(encode(m.Hello([PROTOCOL_VERSION], secrets.token_bytes(16), secrets.token_bytes(32))))
            frame = await socket.recv(decode=False)
        took_s = loop.time() - started
        challenged = isinstance(decode_from_hub(frame), m.Challenge)
        async with asyncio.timeout(ANSWER_WITHIN_S):
            await (await socket.ping())
    except (TimeoutError, ConnectionClosed) as exc:
        return [_silent(way, exc)]
    if not challenged or took_s > CHALLENGE_WITHIN_S:
        what = "the first answer of the hub took {seconds} s through {hub}; something holds frames back."
        return [bad("buffering", what, *proxies.BUFFERING, hub=way.host, seconds=round(took_s, 1))]
    what = "a WebSocket to {hub} opens and is answered in {ms} ms."
    found = [ok("upgrade", what, hub=way.host, ms=round(took_s * 1_000, 1)), *_of_clock(patient, socket)]
    return [*found, await _of_idle(way, socket, idle_s)]


def _silent(way: Way, exc: Exception) -> Finding:
    if isinstance(exc, ConnectionClosed):
        code = exc.rcvd.code if exc.rcvd else 1006
        what = "a WebSocket to {hub} opens and is cut at once (closing {code})."
        remedy = proxies.UPGRADE if code == 1006 else (f"closing {code} is explained in docs/protocol.md, Errors",)
        return bad("upgrade", what, *remedy, hub=way.host, code=code)
    what = "a WebSocket to {hub} opens, and no frame comes back: something holds them back."
    return bad("buffering", what, *proxies.BUFFERING, hub=way.host)


def _of_clock(patient: Patient, socket: ClientConnection) -> list[Finding]:
    date = socket.response.headers.get("Date") if socket.response else None
    if not date:
        return []
    try:
        skew_s = parsedate_to_datetime(date).timestamp() + DATE_S / 2 - patient.clock()
    except ValueError:
        return []
    if abs(skew_s) > SKEW_S_MUCH:
        return [skewed("clock", "the hub's clock", skew_s)]
    return [ok("clock", "the hub's clock agrees with this machine's within a second or two.")]


async def _of_idle(way: Way, socket: ClientConnection, idle_s: float) -> Finding:
    """Say nothing for so long: the hub waits for the second device of a pairing, which never comes."""
    if not idle_s:
        what = "how long a silent WebSocket stays open was not tried; hub doctor --idle does."
        return ok("idle", what)
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        await socket.send(encode(m.OpenPairing(1, secrets.token_bytes(16))))
        async with asyncio.timeout(ANSWER_WITHIN_S):
            answer = decode_from_hub(await socket.recv(decode=False))
        if not isinstance(answer, m.Done):
            return warn("idle", "the hub lets nobody wait now; try again later.", "wait some minutes")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(idle_s):
                await socket.recv()
        async with asyncio.timeout(ANSWER_WITHIN_S):
            await (await socket.ping())
    except (TimeoutError, ConnectionClosed):
        seconds = round(loop.time() - started, 1)
        what = "a silent WebSocket to {hub} is cut after {seconds} s; it must stay open for a minute and more."
        return bad("idle", what, *proxies.IDLE, hub=way.host, seconds=seconds)
    return ok("idle", "a WebSocket to {hub} stays open through {seconds} s of silence.", hub=way.host, seconds=idle_s)
