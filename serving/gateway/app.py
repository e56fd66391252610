"""The gateway's HTTP endpoints, on a socket of the file system that nobody but this platform's user may
open.

    POST /lease    a Placement; JSON lines, as Gateway.lease has them, until the client leaves
                   ?load=0 where it is not to be loaded, ?background=1 to let all others pass,
                   ?marks=1 for the ids of the template's marks, ?answers=0 for counting alone
    POST /warm     a Placement
    POST /loaded   a Placement; {"context"}: tokens, 0 where it is not loaded
    POST /unload   {"base_key"}
    GET  /state
"""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import aclosing
from pathlib import Path

from aiohttp import web

from serving.gateway.gateway import Gateway
from serving.targets import Placement

GATEWAY = web.AppKey("gateway", Gateway)
LARGEST_BODY = 1 << 16
# Streams are line that it ends; after that it does not wait for their clients.
SHUTDOWN_SECONDS = 2.0


def app_make(gateway: Gateway) -> web.Application:
    app = web.Application(client_max_size=LARGEST_BODY)
    app[GATEWAY] = gateway
    app.on_startup.append(_start)
    app.on_shutdown.append(_close)
    app.add_routes(
        [
            web.post("/lease", _lease),
            web.post("/warm", _warm),
            web.post("/loaded", _loaded),
            web.post("/unload", _unload),
            web.get("/state", _state),
        ]
    )
    return app


async def app_run(gateway: Gateway, socket: Path, stopped: asyncio.Event) -> None:
    """Answer until `stopped`."""
    socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # That of a gateway that was killed.
    socket.unlink(missing_ok=True)
    # A client that leaves gives its lease back: its handler is cancelled.
    runner = web.AppRunner(
        app_make(gateway),
        handler_cancellation=True,
        shutdown_timeout=SHUTDOWN_SECONDS,
        access_log=None,
    )
    await runner.setup()
    before = os.umask(0o177)
    try:
        await web.UnixSite(runner, str(socket)).start()
    finally:
        os.umask(before)

    try:
        await stopped.wait()
    finally:
        socket.unlink(missing_ok=True)
        await runner.cleanup()


async def _start(app: web.Application) -> None:
    await app[GATEWAY].start()


async def _close(app: web.Application) -> None:
    await app[GATEWAY].close()


async def _placement(request: web.Request) -> Placement:
    try:
        return Placement(**await request.json())
    except (ValueError, TypeError) as error:
        raise web.HTTPBadRequest(text="This is no placement.") from error


async def _lease(request: web.Request) -> web.StreamResponse:
    placement = await _placement(request)
    load = request.query.get("load", "1") == "1"
    background = request.query.get("background", "0") == "1"
    marks = request.query.get("marks", "0") == "1"
    answers = request.query.get("answers", "1") == "1"
    leased = request.app[GATEWAY].lease(
        placement, load=load, background=background, answers=answers
    )
    response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
    await response.prepare(request)

    async with aclosing(leased) as events:
        async for event in events:
            # Thousands of numbers, which few want to know.
            line = event if marks else {key: event[key] for key in event if key != "marks"}
            await response.write(json.dumps(line).encode() + b"\n")

    await response.write_eof()
    return response


async def _warm(request: web.Request) -> web.Response:
    request.app[GATEWAY].warm(await _placement(request))
    return web.json_response({})


async def _loaded(request: web.Request) -> web.Response:
    context = await request.app[GATEWAY].loaded_context(await _placement(request))
    return web.json_response({"context": context})


async def _unload(request: web.Request) -> web.Response:
    body = await request.json()
    ended = await request.app[GATEWAY].unload(str(body["base_key"]))
    return web.json_response({"unloaded": ended})


async def _state(request: web.Request) -> web.Response:
    return web.json_response(request.app[GATEWAY].state())
