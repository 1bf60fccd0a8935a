"""A WebSocket server without a hub: ``websockets`` with its coroutines, as plain as its own manual writes it.

    python -m loadtest.bare --mode echo --loop uvloop --port 9000

With ``echo`` a message goes back; with ``fanout`` it goes to the two others of its group, which is the path that was
dialled, and twelve bytes go back.  It prints "up" when it listens, and ends with its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from websockets.asyncio.server import ServerConnection, serve

GROUP = 3
TOLD_BYTES = 12  # what the sender gets back with fanout
LOOPS = ("uvloop", "asyncio")
MODES = ("echo", "fanout")


async def _echo(socket: ServerConnection) -> None:
    async for message in socket:
        await socket.send(message)


def _fanout() -> object:
    groups: dict[str, list[ServerConnection]] = {}

    async def serve_one(socket: ServerConnection) -> None:
        assert socket.request is not None
        group = groups.setdefault(socket.request.path, [])
        group.append(socket)
        async for message in socket:
            await socket.send(message[:TOLD_BYTES])
            for other in group:
                if other is not socket:
                    await other.send(message)

    return serve_one


async def _serve(mode: str, port: int) -> None:
    handler = _echo if mode == "echo" else _fanout()
    async with serve(handler, "127.0.0.1", port, compression=None, backlog=4096):  # type: ignore[arg-type]
        print("up", flush=True)
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bare", description=__doc__.partition("\n")[0])
    parser.add_argument("--mode", choices=MODES, default="echo")
    parser.add_argument("--loop", choices=LOOPS, default="asyncio")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    if options.loop == "uvloop":
        import uvloop

        uvloop.run(_serve(options.mode, options.port))
    else:
        asyncio.run(_serve(options.mode, options.port))


if __name__ == "__main__":
    main()
