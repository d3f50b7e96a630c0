"""The least that Python can do for a request: an asyncio.Protocol on uvloop that answers a constant.

Against it the load generators meet their own limits. Argument: port.
"""

from __future__ import annotations

import asyncio
import re
import sys

import uvloop

from loadtests.bench.apps.floor import ANSWER

REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER)
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Constant(asyncio.Protocol):
    """One connection. A read as long as the last request is taken for the next one, unlooked at."""

    def __init__(self) -> None:
        self.buffer = b""
        self.length = 0

    # uvloop's transports are not registered as asyncio's.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keeps the way to answer."""
        self.write = transport.write

    def data_received(self, data: bytes) -> None:
        """Answers every whole request."""
        if len(data) == self.length and not self.buffer:
            self.write(REPLY)
            return
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            found = _LENGTH.search(self.buffer, 0, end)
            length = end + 4 + (int(found[1]) if found else 0)
            if len(self.buffer) < length:
                return
            self.length, self.buffer = length, self.buffer[length:]
            self.write(REPLY)


async def serve(port: int) -> None:
    """Serves until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Constant, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
