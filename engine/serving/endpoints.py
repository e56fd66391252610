"""The endpoints that all backends of ours have, and how they are opened."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

from aiohttp import web

from engine.chat.template import TemplateProblem
from engine.serving.requests import BadRequest, TemplateRequest, TokenizeRequest, request_read
from engine.serving.token_bytes import piece_of
from engine.serving.variants import Variant, Variants

MOST_BODY_BYTES = 64 * 2**20
# Seconds until the server listens.
START_SECONDS = 30

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Endpoints:
    """Tokens and chat templates by transformers, for whoever knows the key. Subclasses answer."""

    def __init__(self, variants: Variants, key: str) -> None:
        self.variants = variants
        self.key = key

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self._guard], client_max_size=MOST_BODY_BYTES)
        application.add_routes(
            [
                web.get("/health", self.health),
                web.post("/v1/chat/completions", self.chat),
                web.post("/v1/completions", self.completions),
                web.post("/tokenize", self.tokenize),
                web.post("/apply-template", self.apply_template),
            ]
        )
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        is_known = secrets.compare_digest(
            given.encode(errors="replace"), f"Bearer {self.key}".encode()
        )
        if request.path != "/health" and not is_known:
            error = {"code": 401, "message": "Invalid API Key", "type": "authentication_error"}
            return web.json_response({"error": error}, status=401)

        try:
            return await handler(request)
        except BadRequest as error:
            return web.json_response(error.body, status=400)
        except TemplateProblem as error:
            problem = BadRequest(error.message)
            return web.json_response(problem.body, status=400)

    async def health(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "ok"})

    async def tokenize(self, request: web.Request) -> web.StreamResponse:
        asked = request_read(TokenizeRequest, await body_read(request))
        variant = self.variant(asked.adapter)
        # As in answers, where the template alone says how a conversation begins.
        begins = asked.add_special and not asked.rendered
        ids = await asyncio.to_thread(
            variant.ids, asked.content, begins=begins, marks=asked.parse_special
        )
        if not asked.with_pieces:
            return web.json_response({"tokens": ids})

        pieces = [{"id": token, "piece": piece_of(variant.tokenizer, token)} for token in ids]
        return web.json_response({"tokens": pieces})

    async def apply_template(self, request: web.Request) -> web.StreamResponse:
        asked = request_read(TemplateRequest, await body_read(request))
        variant = self.variant(asked.adapter)
        prompt = await asyncio.to_thread(variant.prompt, asked.messages, asked.tools)
        return web.json_response({"prompt": prompt})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        raise NotImplementedError

    async def completions(self, request: web.Request) -> web.StreamResponse:
        raise NotImplementedError

    def variant(self, adapter: str) -> Variant:
        variant = self.variants.by_key.get(adapter)
        if variant is None:
            raise BadRequest(f"This server has no adapter {adapter!r}.")

        return variant


async def body_read(request: web.Request) -> Any:
    try:
        return await request.json()
    except ValueError as error:
        raise BadRequest("The request is no JSON.") from error


def listen(application: web.Application) -> str:
    """Answer on the loopback interface from now on, in a thread; returns the address."""
    started: Future[str] = Future()
    threading.Thread(target=_serve, args=(application, started), daemon=True).start()
    return started.result(START_SECONDS)


def _serve(application: web.Application, started: Future[str]) -> None:
    async def run() -> None:
        # A client that leaves ends what was made for it.
        runner = web.AppRunner(application, handler_cancellation=True, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        started.set_result(f"http://{host}:{port}")
        await asyncio.Event().wait()

    try:
        asyncio.run(run())
    except BaseException as error:
        if not started.done():
            started.set_exception(error)
        raise
