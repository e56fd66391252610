"""Pages that stream, slowly."""

from __future__ import annotations

import asyncio
import threading

from django.contrib.auth.decorators import login_not_required
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

from core.web.later import LaterResponse

GO_ON = asyncio.Event()
THREADS: set[str] = set()
CANCELLED: list[str] = []


@login_not_required
def page(request):
    THREADS.add(threading.current_thread().name)
    return HttpResponse(
        f"{request.method} {len(request.body)}", headers={"Client": str(request.headers)}
    )


async def words():
    yield b"first "
    try:
        await GO_ON.wait()
    except asyncio.CancelledError:
        CANCELLED.append("words")
        raise
    yield b"last"


@login_not_required
def live(request):
    return StreamingHttpResponse(words())


def rows():
    for number in range(3):
        yield f"{number} {threading.current_thread().name}\n"


@login_not_required
def export(request):
    return StreamingHttpResponse(rows())


@login_not_required
def later(request):
    kind = request.GET.get("kind", "")

    async def decide():
        try:
            await GO_ON.wait()
        except asyncio.CancelledError:
            CANCELLED.append(kind)
            raise
        if kind == "broken":
            raise RuntimeError("a fault")
        if kind == "stream":
            return StreamingHttpResponse(words(), status=206)
        return HttpResponse("at last", status=409)

    response = LaterResponse(decide)
    response["From-The-View"] = "yes"
    response.set_cookie("seen", "1")
    return response


urlpatterns = [
    path("page/", page),
    path("live/", live),
    path("export/", export),
    path("later/", later),
]
