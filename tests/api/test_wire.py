"""Answers leave in one piece, and always leave."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest
import uvicorn

from api.wire import Http, Joining

pytestmark = pytest.mark.anyio

LENGTH = [(b"content-length", b"2")]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Sent:
    """A transport that notes what is done with it."""

    def __init__(self) -> None:
        self.done: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.done.append(data)

    def close(self) -> None:
        self.done.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.done

    def get_extra_info(self, name: str) -> Any:
        return name


def joining() -> tuple[Joining, list[bytes | str]]:
    sent = Sent()
    return Joining(cast("asyncio.Transport", sent)), sent.done


async def test_a_head_and_its_body_are_written_at_once() -> None:
    """An empty body, too; what comes after is written as it comes, and so is the next answer."""
    transport, done = joining()
    for data in (HEAD, b"{}", b"more", HEAD, b""):
        transport.write(data)
    assert done == [HEAD + b"{}", b"more", HEAD]
    await asyncio.sleep(0)
    assert len(done) == 3


async def test_a_head_whose_body_is_late_does_not_wait_for_it() -> None:
    """It leaves in the next turn: whoever streams has said that an answer comes."""
    transport, done = joining()
    transport.write(HEAD)
    assert done == []
    await asyncio.sleep(0)
    assert done == [HEAD]
    transport.write(b"{}")
    assert done == [HEAD, b"{}"]


async def test_nothing_is_lost_by_closing() -> None:
    """What was written before leaves before; all else is the transport's own."""
    transport, done = joining()
    transport.write(HEAD)
    transport.close()
    assert done == [HEAD, "closed"]
    await asyncio.sleep(0)
    assert done == [HEAD, "closed"]
    assert transport.get_extra_info("peername") == "peername"


async def test_nothing_is_written_to_who_is_gone() -> None:
    """A client that leaves between an answer's head and its body is no error."""
    sent = Sent()
    transport = Joining(cast("asyncio.Transport", sent))
    transport.write(HEAD)
    sent.close()
    await asyncio.sleep(0)
    assert sent.done == ["closed"]


@contextlib.contextmanager
def answering() -> Iterator[int]:
    """A server as a worker runs it, of an application that says OK; its port."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": LENGTH})
        await send({"type": "http.response.body", "body": b"OK"})

    config = uvicorn.Config(app, http=Http, lifespan="off", log_level="warning", ws="none")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def test_answers_without_a_body_reach_who_says_no_more() -> None:
    """Whenever a client ends its side, from at once to a millisecond later."""
    with answering() as port:
        for k in range(200):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
                time.sleep(k % 10 / 10_000)
                client.shutdown(socket.SHUT_WR)
                assert client.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")


def test_answers_to_pipelined_requests_come_in_order() -> None:
    """With heads alone among them."""
    words = [b"%s / HTTP/1.1\r\nHost: h\r\n" % method for method in (b"GET", b"HEAD", b"GET")]
    with answering() as port, socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"\r\n".join(words) + b"Connection: close\r\n\r\n")
        told = b"".join(iter(lambda: client.recv(1000), b""))
    answers = told.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert [answer.split(b"\r\n\r\n")[1] for answer in answers] == [b"OK", b"", b"OK"]
