"""Pages that stream, slowly."""

from __future__ import annotations

import asyncio
import threading

from django.contrib.auth.decorators import login_not_required
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

GO_ON = asyncio.Event()
THREADS: set[str] = set()


@login_not_required
def page(request):
    THREADS.add(threading.current_thread().name)
    return HttpResponse(
        f"{request.method} {len(request.body)}", headers={"Client": str(request.headers)}
    )


async def words():
    yield b"first "
    await GO_ON.wait()
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


urlpatterns = [path("page/", page), path("live/", live), path("export/", export)]
