"""Answers that are decided on the event loop, so that no thread of the pages waits for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse


class LaterResponse(StreamingHttpResponse):
    """What a view returns that has checked everything, and whose answer comes from elsewhere and
    may take long.

    decide: makes the answer, its status included; runs on the event loop, and so must neither ask
    the database nor block. It is cancelled when the client leaves. What middleware writes into the
    headers and cookies of this response goes into that answer.

    A server that is not ours (Django's own for development, the test client) sends the content of
    the answer with the status 200.
    """

    def __init__(self, decide: Callable[[], Awaitable[HttpResponseBase]]) -> None:
        self.decide = decide
        super().__init__(self._content())

    async def decided(self) -> HttpResponseBase:
        """The answer, with what middleware added."""
        answer = await self.decide()

        for name, value in self.items():
            if name.lower() != "content-type":
                answer.headers.setdefault(name, value)

        answer.cookies.update(self.cookies)
        return answer

    async def _content(self) -> AsyncIterator[bytes]:
        answer = await self.decide()

        if isinstance(answer, HttpResponse):
            yield answer.content
        elif isinstance(answer, StreamingHttpResponse):
            async for part in answer:
                yield part
