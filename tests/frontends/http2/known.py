"""What the transports do other than RFC 9113 says, as seen: rules by section and name, attacks by name."""

from __future__ import annotations

from typing import Final

Symptoms = dict[str, str]

BROKEN: Final[dict[str, Symptoms]] = {
    "grpcio": {
        "4.1 unknown flags": "closed",
        "4.3 Huffman code of the end of strings": "ignored",
        "4.3 Huffman padding of a byte": "ignored",
        "4.3 table size update after a field": "ignored",
        "5.1 DATA on an idle stream": "ignored",
        "5.1 RST_STREAM on an idle stream": "ignored",
        "5.1 WINDOW_UPDATE on an idle stream": "ignored",
        "5.1 DATA after END_STREAM": "answered as if nothing were wrong",
        "5.1 HEADERS after END_STREAM": "answered as if nothing were wrong",
        "5.1 DATA after RST_STREAM": "ignored",
        "5.1 HEADERS after RST_STREAM": "ignored",
        "5.1.1 even stream": "ignored",
        "5.1.1 streams that go down": "ignored",
        "6.1 DATA on stream 0": "ignored",
        "6.1 DATA with too much padding": "ignored",
        "6.1 DATA with no length of its padding": "ignored",
        "6.1 padding": "RST_STREAM PROTOCOL_ERROR",
        "6.2 HEADERS on stream 0": "ignored",
        "6.2 HEADERS with padding and priority": "RST_STREAM NO_ERROR, closed",
        "6.3 PRIORITY on stream 0": "ignored",
        "6.3 PRIORITY of 4 bytes": "ignored",
        "6.4 RST_STREAM on stream 0": "ignored",
        "6.6 PUSH_PROMISE": "ignored",
        "6.7 PING on a stream": "ignored",
        "6.8 GOAWAY on a stream": "ignored",
        "6.9.1 window of the connection past 2**31 - 1": "ignored",
        "6.9.1 window of a stream past 2**31 - 1": "ignored",
        "6.9.2 SETTINGS that lift a window past 2**31 - 1": "ignored",
        "8.1.1 content-length above the body": "answered as if nothing were wrong",
        "8.1.1 content-length below the body": "answered as if nothing were wrong",
        "8.1.1 two lengths": "answered as if nothing were wrong",
        "8.2.1 field 'zero': 'a\\x00b'": "answered as if nothing were wrong",
        "8.2.1 field 'line-feed': 'a\\nb'": "answered as if nothing were wrong",
        "8.2.1 field 'carriage-return': 'a\\rb'": "answered as if nothing were wrong",
        "8.2.1 field 'space-before': ' a'": "answered as if nothing were wrong",
        "8.2.1 field 'space-after': 'a '": "answered as if nothing were wrong",
        "8.2.2 connection-specific connection": "answered as if nothing were wrong",
        "8.2.2 connection-specific keep-alive": "answered as if nothing were wrong",
        "8.2.2 connection-specific proxy-connection": "answered as if nothing were wrong",
        "8.2.2 connection-specific transfer-encoding": "answered as if nothing were wrong",
        "8.2.2 connection-specific upgrade": "answered as if nothing were wrong",
        "8.3 pseudo-header after a field": "answered as if nothing were wrong",
        "8.3 pseudo-header of answers": "answered as if nothing were wrong",
        "8.3 :method twice": "answered as if nothing were wrong",
        "8.3 :scheme twice": "answered as if nothing were wrong",
        "8.3 :path twice": "answered as if nothing were wrong",
        "8.3.1 no :method": "RST_STREAM INTERNAL_ERROR",
        "8.3.1 no :scheme": "RST_STREAM INTERNAL_ERROR",
        "8.3.1 no :path": "RST_STREAM INTERNAL_ERROR",
    },
    "h2corn": {
        "6.5.2 INITIAL_WINDOW_SIZE of 2**31": "GOAWAY PROTOCOL_ERROR, closed",
    },
}
"""Rules that are not kept, by transport, with what came instead. The server goes on serving after each."""

OVERRUN: Final[dict[str, Symptoms]] = {
    "grpcio": {
        "rapid reset": "grpc-status 1 (CANCELLED)",
        "rapid reset of whole calls": "grpc-status 1 (CANCELLED)",
        "malformed requests": "grpc-status 1 (CANCELLED)",
        "RST_STREAMs unread": "grpc-status 1 (CANCELLED)",
        "DATA on reset streams": "grpc-status 1 (CANCELLED)",
        "half-open streams": "grpc-status 1 (CANCELLED)",
        "cut connections": "grpc-status 1 (CANCELLED)",
        "compressed bomb": "the server was still busy",
    },
    "h2corn": {},
}
"""Attacks that are felt, by transport, with what the fault reads; whether it shows in a moment depends on the machine.

grpcio ends some calls of others where 1,000 wait to be taken up (`grpc.server.max_pending_requests`), and inflates on
for callers who have left.
"""

PATIENT: Final[dict[str, Symptoms]] = {
    "grpcio": {
        "answers": "held without bound: only requests count against max_in_flight_bytes, and the library queues answers",
    },
    "h2corn": {
        "endless_headers": "waited for up to max_header_bytes: each CONTINUATION begins the timeout anew",
    },
}
"""What stalling clients get away with, by transport."""

LOGGED: Final[Symptoms] = {"grpcio": "ExecuteBatchError"}
"""Errors that are logged though only a caller left, by transport."""
