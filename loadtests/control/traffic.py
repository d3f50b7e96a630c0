"""Control traffic at full speed, a program of its own: `python -m loadtests.control.traffic PORT KIND ARCHIVE_URL`.

`records` describes and lists endpoints and makes, describes and deletes models and configs; `endpoints` makes endpoints,
waits for them and deletes them; `none` only burns CPU as the others do. It prints a line once it is at work, ends with
its standard input, and then prints as JSON how many calls were answered from that line on.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable

from loadtests.control import calls
from loadtests.control.archives import IMAGE
from loadtests.control.calls import Raw
from loadtests.control.context import in_service

THREADS = 2
BEGUN = "begun"
ENDPOINT = "fraud-000"

Turn = Callable[[Raw, str, str], int]


def records(raw: Raw, name: str, url: str) -> int:
    """One turn through the resources that nothing runs for; gives its number of calls."""
    raw.call("DescribeEndpoint", EndpointName=ENDPOINT)
    raw.call("ListEndpoints", MaxResults=100)
    raw.call("CreateModel", **calls.model(name, IMAGE, url))
    raw.call("DescribeModel", ModelName=name)
    raw.call("CreateEndpointConfig", **calls.config(name, name))
    raw.call("DescribeEndpointConfig", EndpointConfigName=name)
    raw.call("ListEndpointConfigs", MaxResults=100)
    raw.call("DeleteEndpointConfig", EndpointConfigName=name)
    raw.call("DeleteModel", ModelName=name)
    return 9


def endpoints(raw: Raw, name: str, url: str) -> int:
    """One endpoint from its config to its end."""
    raw.call("CreateModel", **calls.model(name, IMAGE, url))
    raw.call("CreateEndpointConfig", **calls.config(name, name))
    raw.call("CreateEndpoint", EndpointName=name, EndpointConfigName=name)
    in_service(raw, name)
    raw.call("DeleteEndpoint", EndpointName=name)
    raw.gone(name)
    raw.call("DeleteEndpointConfig", EndpointConfigName=name)
    raw.call("DeleteModel", ModelName=name)
    return 8


def none(raw: Raw, name: str, url: str) -> int:
    """No call at all, only work for the core."""
    json.loads(json.dumps(list(range(2000))))
    return 0


TURNS: dict[str, Turn] = {"records": records, "endpoints": endpoints, "none": none}


def main(port: int, kind: str, url: str) -> int:
    """Runs until standard input ends; exits with 1 when a call failed."""
    stopped = threading.Event()
    begun = threading.Barrier(THREADS, lambda: print(BEGUN, flush=True))
    counts = [0] * THREADS
    failures: list[str] = []

    def loop(number: int) -> None:
        turn = 0
        try:
            with Raw(port) as raw:
                TURNS[kind](raw, f"{kind}-{number}", url)
                begun.wait()
                while not turn or not stopped.is_set():
                    counts[number] += TURNS[kind](raw, f"{kind}-{number}-{turn}", url)
                    turn += 1
        except Exception as error:  # told to whoever started this program
            failures.append(repr(error))
            begun.abort()

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stopped.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"calls": sum(counts), "failures": failures}))
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
