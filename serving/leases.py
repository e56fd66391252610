"""Leases of model servers, from the gateway (serving.gateway), on the event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp
from django.conf import settings

from core.web.at_end import at_end
from serving.targets import Placement

# How long the gateway may take to say that a lease was lost, once its server is.
LOST_SECONDS = 2.0
CONNECT_SECONDS = 5.0
# A server closes connections that rest for longer.
REST_SECONDS = 2.0
NOT_THERE = (
    "The gateway of the model servers is not running. It restarts by itself within seconds; if it "
    "does not, ask your operator."
)

Event = dict[str, Any]
Loop = asyncio.AbstractEventLoop


class GatewayGone(Exception):
    """The gateway is not there, or ended meanwhile."""


_gateways: WeakKeyDictionary[Loop, aiohttp.ClientSession] = WeakKeyDictionary()
_servers: WeakKeyDictionary[Loop, aiohttp.ClientSession] = WeakKeyDictionary()


def gateway_session() -> aiohttp.ClientSession:
    """One for each event loop: a process of the web server has one."""
    loop = asyncio.get_running_loop()
    session = _gateways.get(loop)
    if session is None or session.closed:
        # A lease is a connection: none is used twice.
        connector = aiohttp.UnixConnector(str(settings.GATEWAY_SOCKET), limit=0, force_close=True)
        session = _gateways[loop] = _session(connector)

    return session


def server_session() -> aiohttp.ClientSession:
    loop = asyncio.get_running_loop()
    session = _servers.get(loop)
    if session is None or session.closed:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=REST_SECONDS)
        session = _servers[loop] = _session(connector)

    return session


def _session(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    # Answers take as long as they take. Proxies of the environment are none of theirs.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
    return aiohttp.ClientSession(
        connector=connector, timeout=timeout, trust_env=False, auto_decompress=False
    )


@at_end
async def sessions_close() -> None:
    """Those of this event loop, before it ends."""
    loop = asyncio.get_running_loop()
    for sessions in (_gateways, _servers):
        session = sessions.pop(loop, None)
        if session is not None:
            await session.close()


class Lease:
    """What the gateway tells of one: an iterator over its events."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def events(self) -> AsyncGenerator[Event, None]:
        """Raises GatewayGone where they end without a last one."""
        try:
            async for line in self.response.content:
                yield json.loads(line)
        except (aiohttp.ClientError, OSError) as error:
            raise GatewayGone(NOT_THERE) from error

    async def why_lost(self) -> Event | None:
        """What the gateway says of a server that ended in the middle; None where it says
        nothing."""
        with suppress(TimeoutError, aiohttp.ClientError, OSError, ValueError):
            async with asyncio.timeout(LOST_SECONDS):
                async for line in self.response.content:
                    event: Event = json.loads(line)
                    if event["phase"] == "lost":
                        return event

        return None


@dataclass(frozen=True)
class Terms:
    """load: whether the model is loaded for it. background: whether all others have their turn
    before. marks: whether the ids of the template's marks are wanted. answers: whether somebody is
    answered by it; counting keeps no train waiting."""

    load: bool = True
    background: bool = False
    marks: bool = False
    answers: bool = True

    @property
    def query(self) -> str:
        return "&".join(f"{name}={value:d}" for name, value in asdict(self).items())


@asynccontextmanager
async def lease(placement: Placement, terms: Terms = Terms()) -> AsyncIterator[Lease]:
    """One of that placement, given back at the end however that comes. Raises GatewayGone."""
    url = f"http://gateway/lease?{terms.query}"
    try:
        response = await gateway_session().post(url, json=placement.to_json())
    except (aiohttp.ClientError, OSError) as error:
        raise GatewayGone(NOT_THERE) from error

    try:
        yield Lease(response)
    finally:
        # Not `release`: the gateway must see at once that nobody holds it.
        response.close()


async def gateway_post(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The gateway's reply. Raises GatewayGone."""
    try:
        async with gateway_session().post(f"http://gateway{path}", json=body) as response:
            reply: dict[str, Any] = await response.json()
            return reply
    except (aiohttp.ClientError, OSError) as error:
        raise GatewayGone(NOT_THERE) from error
