"""Wire: an answer leaves in one piece. Uvicorn writes its head and its body apart, each a call of
the system for the server and a packet that wakes the client."""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Http(HttpToolsProtocol):
    """Uvicorn's HTTP/1.1, whose answers leave in one piece. lost: called at the end."""

    def __init__(self, *arguments: Any, lost: Callable[[], None] | None = None, **more: Any):
        super().__init__(*arguments, **more)
        self._lost = lost

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as Uvicorn's
        # Written at once: uvloop waits for the end of its turn, and for all that is done in it.
        transport.set_write_buffer_limits(high=0)
        self._joining = Joining(transport)
        super().connection_made(self._joining)  # type: ignore[arg-type]  # it has what is used

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._lost:
            self._lost()

    def on_response_complete(self) -> None:
        self._joining.flush()  # no body comes after the head of an answer to HEAD
        super().on_response_complete()


class Joining:
    """A transport that holds the head of an answer until the body comes, which mostly is at once;
    else it leaves in the next turn of the event loop."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._loop = transport, asyncio.get_running_loop()
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n"):
            self._head = data
            self._loop.call_soon(self.flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        if self._head and not self._transport.is_closing():
            self.write(b"")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
