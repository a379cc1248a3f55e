"""Answers leave in one piece, and always leave."""

import asyncio
from typing import Any, cast

import pytest

from api.wire import Joining

pytestmark = pytest.mark.anyio

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
