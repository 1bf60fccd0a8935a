"""Composes a hub from its settings and runs it: the one room with all the keys.

Everything else takes plain arguments and knows promises; here the promises get
their keepers.  ``hub serve`` and the tests start a hub through the same door.
"""

from __future__ import annotations

import asyncio
import secrets as random_source
import shutil
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from hub import __version__, log
from hub import secrets as hub_secrets
from hub.accounts import Accounts
from hub.appender import Appender
from hub.bus import Bus
from hub.codes import SignUp
from hub.config import Settings
from hub.control import listening
from hub.errors import StoreUnavailable
from hub.fanout import Fanout
from hub.http import Http
from hub.keepers import DATABASE_WITHIN_S, make_bus, open_store
from hub.limiter import CodeLimits
from hub.mail import Mailer
from hub.mail.console import ConsoleMailer
from hub.mail.smtp import SmtpMailer
from hub.metrics import Metrics
from hub.operating import LAST_BACKUP, House, Operating
from hub.secrets import Secrets
from hub.server import HubServer
from hub.services import Services
from hub.static import Pages
from hub.store import Store
from hub.terms import Span

UPKEEP_EVERY_S = 60.0
COMPACT_CHANGES_MAX = 2_000  # in one transaction, so that appends never wait long for it


@dataclass(frozen=True, slots=True)
class RunningHub:
    """A hub that serves, and what a caller may want of it."""

    server: HubServer
    accounts: Accounts
    store: Store
    metrics: Metrics
    host: str
    port: int
    secrets_made: bool  # True on the very first start

    @property
    def url(self) -> str:
        """Where a browser or a client on this machine finds it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@asynccontextmanager
async def running_hub(
    settings: Settings,
    *,
    terminal: TextIO = sys.stdout,
    mailer: Mailer | None = None,
    code_limits: CodeLimits | None = None,
    upkeep_every_s: float = UPKEEP_EVERY_S,
) -> AsyncIterator[RunningHub]:
    """A hub that serves inside the ``with`` block, and has told every session good-bye after it.

    Raises ``BadSecrets``, ``BadSetting``, ``SchemaTooNew``, ``SchemaTooOld``, ``StoreUnavailable`` or ``OSError``
    (port in use) with a sentence, and leaves nothing running.
    """
    # Until the secrets are known lines are written under a key of the moment.
    log.set_up(form=settings.log_format, level=settings.log_level, key=random_source.token_bytes(32), stream=sys.stderr)
    async with AsyncExitStack() as stack:
        store = await open_store(settings, within_s=DATABASE_WITHIN_S)
        stack.push_async_callback(store.close)
        made = not settings.secrets_path().exists()
        empty = await store.count_accounts() == 0
        secrets = hub_secrets.load_or_make(settings.secrets_path(), random_source.token_bytes, store_is_empty=empty)
        log.set_up(form=settings.log_format, level=settings.log_level, key=secrets.internal_key, stream=sys.stderr)
        metrics = Metrics(version=__version__, python=sys.version.split()[0], started_at=time.time())
        metrics.disk_free.read_from(lambda: _free_bytes(settings.data_dir))
        bus = make_bus(settings, secrets, metrics)
        stack.push_async_callback(bus.close)
        await bus.open()
        mails = mailer or make_mailer(settings, terminal)
        accounts = _accounts(settings, store, bus, mails, secrets, metrics, code_limits)
        stack.push_async_callback(accounts.close)
        await accounts.open()
        appender = Appender(store, bus, metrics, wall=time.time)
        operating = operating_of(settings, store, bus, secrets, sessions=lambda: int(metrics.sessions.get()))
        server = _server(settings, store, bus, accounts, operating, appender, metrics, hub_secrets.mark(secrets))
        # Devices may dial at once; they are answered when the port's number is known to all.
        port = await server.listen(settings.host, settings.port, settings.hub_urls, _tls(settings))
        hub = RunningHub(server, accounts, store, metrics, settings.host, port, made)
        await _listen_here(stack, settings, operating)
        work = [appender.run(), server.watch(), _every(upkeep_every_s, lambda: upkeep(hub, settings))]
        async with _background(work, server, appender):
            yield hub


def _accounts(
    settings: Settings,
    store: Store,
    bus: Bus,
    mailer: Mailer,
    secrets: Secrets,
    metrics: Metrics,
    code_limits: CodeLimits | None,
) -> Accounts:
    return Accounts(
        store,
        bus,
        mailer,
        secrets,
        policy=settings.policy(),
        limits=settings.limits(),
        sign_up=SignUp(settings.sign_up, settings.allowlist),
        code_limits=code_limits or CodeLimits(hub=(Span(settings.codes_per_hour, 3_600.0),)),
        clock=time.time,
        random=random_source.token_bytes,
        mailed=metrics.codes.add,
    )


def operating_of(
    settings: Settings, store: Store, bus: Bus, secrets: Secrets, *, sessions: Callable[[], int | None] = lambda: None
) -> Operating:
    """The operator's verbs on an open store and bus; ``sessions``: how many this process serves."""
    policy = settings.policy()
    house = House(
        name=settings.hub_name,
        sign_up=settings.sign_up,
        quota_bytes=policy.quota_bytes,
        deletion_delay_s=policy.deletion_delay_s,
        keeps_own_file=not settings.database_url,
        sessions=sessions,
    )
    return Operating(store, bus, secrets, house, random=random_source.token_bytes)


def _server(
    settings: Settings,
    store: Store,
    bus: Bus,
    accounts: Accounts,
    operating: Operating,
    appender: Appender,
    metrics: Metrics,
    mark: str,
) -> HubServer:
    limits, policy = settings.limits(), settings.policy()
    pages = Pages.of_this_hub(serve_demo=settings.serve_demo)
    for path in pages.left_out:
        log.get().warning("a file is not served: it is a link, too large or of no known kind", path=path)
    http = Http(
        metrics=metrics,
        store_ping=store.ping,
        limits=limits,
        sign_up=settings.sign_up,
        metrics_for=settings.metrics,
        trusted_proxies=settings.trusted_proxies if settings.behind_proxy else (),
        allowed_origins=settings.allowed_origins,
        pages=pages,
        mark=mark,
    )
    services = Services(
        store=store,
        bus=bus,
        accounts=accounts,
        operating=operating,
        appender=appender,
        metrics=metrics,
        limits=limits,
        quota_bytes=policy.quota_bytes,
        wall=time.time,
    )
    return HubServer(
        store=store,
        bus=bus,
        services=services,
        fanout=Fanout(bus, metrics, sessions_per_account_max=limits.sessions_per_account_max),
        http=http,
        metrics=metrics,
        sign_up=settings.sign_up,
        limits=limits,
        policy=policy,
        sessions_max=settings.sessions_max,
    )


def make_mailer(settings: Settings, terminal: TextIO) -> Mailer:
    """SMTP when a server is configured, else the terminal."""
    if not settings.smtp_host:
        return ConsoleMailer(terminal, settings.hub_name)
    return SmtpMailer(
        settings.smtp_host,
        settings.smtp_port,
        security=settings.smtp_security,
        sender=settings.smtp_from,
        username=settings.smtp_username,
        password=settings.smtp_password,
        hub_name=settings.hub_name,
    )


async def _listen_here(stack: AsyncExitStack, settings: Settings, operating: Operating) -> None:
    """Let ``hub admin`` on this machine ask this process, until the stack ends."""
    # Of several replicas none can close all sessions; whoever operates them goes through database and bus.
    if settings.redis_url or not settings.data_dir.is_dir():
        return
    try:
        await stack.enter_async_context(listening(settings.data_dir, operating.do_here))
    except OSError as exc:  # not every file system has sockets; the devices are served all the same
        log.get().warning("hub admin cannot ask this hub: its folder takes no socket", exc_info=exc)


async def upkeep(hub: RunningHub, settings: Settings) -> None:
    """What the hub does by itself now and then: compaction, due deletions, forgetting."""
    now = time.time()
    await hub.accounts.upkeep(now)
    await hub.server.note_seen(int(now // 86_400))
    hub.metrics.last_backup.set(float(await hub.store.recall(LAST_BACKUP) or 0))
    replaced_before = now - settings.policy().history_window_s
    while dropped := await hub.store.compact(replaced_before, COMPACT_CHANGES_MAX):
        hub.metrics.compacted.add(dropped)
        await asyncio.sleep(0.05)  # let appends through between two rounds


def _free_bytes(folder: Path) -> float:
    """Where a hub keeps nothing of its own the folder may be missing: then of the disk it would be on."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if not settings.tls_certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    return context


async def _every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Call ``work`` for ever, ``seconds`` apart; a failed round is logged and the next one comes."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except StoreUnavailable:
            log.get().warning("background work was put off: the store does not answer")
        except Exception as exc:
            log.get().error("background work failed", exc_info=exc)


@asynccontextmanager
async def _background(work: Sequence[Awaitable[None]], server: HubServer, appender: Appender) -> AsyncIterator[None]:
    """Run ``work`` beside the block; if any of it dies, so does the block, loudly."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in work]
    owner = asyncio.current_task()
    assert owner is not None

    def died(task: asyncio.Future[None]) -> None:
        if not task.cancelled():
            log.get().error("a background task died; the hub stops", exc_info=task.exception())
            owner.cancel()

    for task in tasks:
        task.add_done_callback(died)
    try:
        yield
    finally:
        server.refuse_new()
        if not any(task.done() for task in tasks):
            await appender.drain()
        await server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
