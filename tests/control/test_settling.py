"""The judgement: each case of an endpoint's life, and promises that hold over any order of events on several nodes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serving.control.settling import (
    CREATING,
    DELETING,
    FAILED,
    IN_SERVICE,
    NOTHING,
    OLDER,
    OUT_OF_SERVICE,
    UPDATING,
    Interrupt,
    Observation,
    Promote,
    Refuse,
    Remove,
    Resume,
    Revert,
    Row,
    Transition,
    applied,
    judge,
    judge_all,
    wanted,
)

G = 7
SERVES = Observation(serving=G)
OLD = Observation(serving=G - 1)
ANY = Observation(serving=OLDER)
NO = Observation()
FAILS = Observation(failed=G, reason="too large")
OLD_AND_FAILS = Observation(serving=G - 1, failed=G, reason="too large")
FAILED_BEFORE = Observation(serving=G, failed=G - 1, reason="earlier")


@pytest.mark.parametrize(
    ("status", "observed", "expected"),
    [
        (CREATING, [SERVES, SERVES], Promote()),
        (CREATING, [SERVES, NO], None),
        (CREATING, [SERVES, ANY], None),
        (CREATING, [SERVES, OLD], None),
        (CREATING, [FAILED_BEFORE, SERVES], Promote()),
        (CREATING, [SERVES, FAILS], Refuse("too large")),
        (CREATING, [FAILS, NO], Refuse("too large")),
        (CREATING, [Observation(failed=G), NO], Refuse("a node could not serve it")),
        (UPDATING, [SERVES, SERVES], Promote()),
        (UPDATING, [SERVES, OLD], None),
        (UPDATING, [SERVES, OLD_AND_FAILS], Revert("too large")),
        (UPDATING, [OLD, OLD], None),
        (IN_SERVICE, [SERVES, NO], None),
        (IN_SERVICE, [SERVES, OLD], None),
        (IN_SERVICE, [SERVES, FAILS], Interrupt("too large")),
        (IN_SERVICE, [SERVES, FAILED_BEFORE], None),
        (OUT_OF_SERVICE, [SERVES, FAILS], None),
        (OUT_OF_SERVICE, [SERVES, NO], None),
        (OUT_OF_SERVICE, [SERVES, SERVES], Resume()),
        (DELETING, [NO, NO], Remove()),
        (DELETING, [OLD, NO], None),
        (DELETING, [ANY, NO], None),
        (DELETING, [FAILS, NO], Remove()),
        (FAILED, [SERVES, SERVES], None),
        (FAILED, [NO, NO], None),
    ],
)
def test_one_endpoint(status: str, observed: list[Observation], expected: Transition | None) -> None:
    observations = {f"node-{number}": one for number, one in enumerate(observed)}
    assert judge(Row("e", status, G), observations, set(observations)) == expected


def test_nodes_that_are_gone_do_not_count() -> None:
    row = Row("e", CREATING, G)
    assert judge(row, {"a": SERVES, "b": FAILS}, {"a"}) == Promote()
    assert judge(row, {"a": SERVES}, {"a", "b"}) is None
    assert judge(row, {"a": SERVES}, set()) is None
    assert judge(Row("e", DELETING, G), {"a": NO, "b": SERVES}, {"a"}) == Remove()


def test_the_rows_after() -> None:
    row = Row("e", UPDATING, G, "earlier")
    assert applied(row, Promote(), 9) == Row("e", IN_SERVICE, G)
    assert applied(row, Resume(), 9) == Row("e", IN_SERVICE, G)
    assert applied(row, Revert("why"), 9) == Row("e", IN_SERVICE, 9, "why")
    assert applied(row, Refuse("why"), 9) == Row("e", FAILED, G, "why")
    assert applied(row, Interrupt("why"), 9) == Row("e", OUT_OF_SERVICE, G, "why")
    assert applied(row, Remove(), 9) is None


def test_what_nodes_want() -> None:
    assert [wanted(status) for status in (CREATING, UPDATING)] == ["target", "target"]
    assert [wanted(status) for status in (IN_SERVICE, OUT_OF_SERVICE)] == ["current", "current"]
    assert [wanted(status) for status in (FAILED, DELETING, "SystemUpdating")] == ["nothing"] * 3


# ---------------------------------------------------------------------- any order of events

NAMES = ("a", "b")
NODES = ("x", "y", "z")
CONFIGS = (1, 2, 3, 4)

names = st.sampled_from(NAMES)
nodes = st.sampled_from(NODES)
configs = st.sampled_from(CONFIGS)
picks = st.integers(0, 5)


class Endpoint(msgspec.Struct):
    """A row of the database, whole."""

    row: Row
    target: int
    current: int | None = None


class Node(msgspec.Struct):
    """A server: `held` is what it serves, by endpoint the generation and the config; the rest it has still to write."""

    alive: bool = False
    held: dict[str, tuple[int, int]] = {}
    failed: dict[str, int] = {}


class Endpoints(RuleBasedStateMachine):
    """Creates, updates, deletes, nodes that look, fail, die and join, and judgements, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.endpoints: dict[str, Endpoint] = {}
        self.observations: dict[str, dict[str, Observation]] = {}
        self.nodes = {name: Node() for name in NODES}
        self.counter = 0
        self.broken: set[tuple[str, int]] = set()
        self.asked: dict[str, int | None] = {}
        """What callers were told last: the config that an endpoint is to have; None: it is deleted."""
        self.before: dict[str, int] = {}
        """What an endpoint served when its update was asked for."""

        self.served: set[str] = set()
        """Endpoints that were in service."""

    @initialize(broken=st.sets(st.tuples(nodes, configs)), joined=st.sets(nodes))
    def begin(self, broken: set[tuple[str, int]], joined: set[str]) -> None:
        self.broken = broken
        for node in joined | {"x"}:
            self.nodes[node].alive = True

    # -------------------------------------------------------------- what callers do

    @rule(name=names, config=configs)
    def create(self, name: str, config: int) -> None:
        if name not in self.endpoints:
            self.endpoints[name] = Endpoint(Row(name, CREATING, self.next()), config)
            self.served.discard(name)
            self.asked[name] = config

    @precondition(lambda self: self.updatable())
    @rule(pick=picks, config=configs)
    def update(self, pick: int, config: int) -> None:
        one = self.updatable()[pick % len(self.updatable())]
        assert one.current is not None
        one.row = Row(one.row.name, UPDATING, self.next())
        one.target = config
        self.before[one.row.name] = one.current
        self.asked[one.row.name] = config

    @precondition(lambda self: self.updatable() and self.live())
    @rule(pick=picks, config=configs)
    def update_to_what_fails(self, pick: int, config: int) -> None:
        self.broken.add((self.live()[pick % len(self.live())], config))
        self.update(pick, config)

    @rule(name=names)
    def delete(self, name: str) -> None:
        one = self.endpoints.get(name)
        if one is not None and one.row.status != DELETING:
            one.row = Row(name, DELETING, self.next())
            self.asked[name] = None

    # -------------------------------------------------------------- what nodes do

    @rule(node=nodes, name=names)
    def act(self, node: str, name: str) -> None:
        """A node does what is asked of one endpoint, and has told nobody yet."""
        self.work(node, name)

    @rule(node=nodes)
    def tell(self, node: str) -> None:
        """A node writes what it made of all endpoints."""
        if self.nodes[node].alive:
            self.write(node)

    @rule(node=nodes)
    def settle(self, node: str) -> None:
        """A node judges; the database lets one do so at a time."""
        if self.nodes[node].alive:
            self.judge()

    @rule(node=nodes)
    def look(self, node: str) -> None:
        """All of it."""
        for name in NAMES:
            self.work(node, name)
        self.tell(node)
        self.settle(node)

    @rule()
    def look_everywhere(self) -> None:
        for node in self.live():
            self.look(node)

    @rule(node=nodes)
    def die(self, node: str) -> None:
        """And is known to be gone; what it wrote stays."""
        self.nodes[node] = Node()

    @rule(node=nodes)
    def start(self, node: str) -> None:
        """A node starts, for the first time or again: it serves nothing and says so before it counts."""
        if not self.nodes[node].alive:
            for by_node in self.observations.values():
                by_node.pop(node, None)
            self.nodes[node] = Node(alive=True)

    @rule(node=nodes, config=configs)
    def fall_ill(self, node: str, config: int) -> None:
        self.broken.add((node, config))

    @precondition(lambda self: self.broken)
    @rule()
    def be_mended(self) -> None:
        self.broken.clear()

    # -------------------------------------------------------------- what holds at any moment

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        for name, config in self.asked.items():
            one = self.endpoints.get(name)
            if config is None:
                assert one is None or one.row.status == DELETING
            else:
                assert one is not None
                assert one.row.status != DELETING

    @invariant()
    def an_endpoint_has_what_was_asked_or_what_it_had(self) -> None:
        for name, one in self.endpoints.items():
            config = self.asked[name]
            if one.row.status in (CREATING, UPDATING, FAILED):
                assert one.target == config
            elif one.row.status in (IN_SERVICE, OUT_OF_SERVICE) and one.current != config:
                assert one.current == one.target == self.before[name]
                assert one.row.status == OUT_OF_SERVICE or one.row.failure_reason
            if one.row.status == FAILED:
                assert one.row.failure_reason
                assert name not in self.served

    def teardown(self) -> None:
        """Nothing new is asked, and nodes answer: all comes to rest, as it should be."""
        if not any(node.alive for node in self.nodes.values()):
            self.nodes["x"].alive = True
            for by_node in self.observations.values():
                by_node.pop("x", None)
        for _ in range(8):
            self.look_everywhere()
        live = self.live()
        for name, one in self.endpoints.items():
            held = {node: self.nodes[node].held.get(name) for node in live}
            assert one.row.status in (IN_SERVICE, OUT_OF_SERVICE, FAILED)
            if one.row.status == IN_SERVICE:
                assert one.current is not None
                assert set(held.values()) == {(one.row.generation, one.current)}
            elif one.row.status == FAILED:
                assert set(held.values()) == {None}
            else:
                assert any((node, one.current) in self.broken for node in live)
        for node in live:
            assert set(self.nodes[node].held) <= set(self.endpoints)

    # -------------------------------------------------------------- how

    def next(self) -> int:
        self.counter += 1
        return self.counter

    def updatable(self) -> list[Endpoint]:
        return [one for one in self.endpoints.values() if one.row.status in (IN_SERVICE, OUT_OF_SERVICE)]

    def live(self) -> list[str]:
        return [name for name, node in self.nodes.items() if node.alive]

    def work(self, name: str, endpoint: str) -> None:
        node, one = self.nodes[name], self.endpoints.get(endpoint)
        if not node.alive:
            return
        what = wanted(one.row.status) if one is not None else "nothing"
        config = None if one is None or what == "nothing" else one.target if what == "target" else one.current
        if one is None or config is None:
            node.held.pop(endpoint, None)
            node.failed.pop(endpoint, None)
            return
        generation = one.row.generation
        if endpoint in node.held and node.held[endpoint][1] == config:
            node.held[endpoint] = (generation, config)
            node.failed.pop(endpoint, None)
        elif (name, config) in self.broken:
            node.failed[endpoint] = generation
        else:
            node.held[endpoint] = (generation, config)
            node.failed.pop(endpoint, None)

    def write(self, name: str) -> None:
        node = self.nodes[name]
        for endpoint in self.endpoints:
            serving = node.held.get(endpoint, (NOTHING, 0))[0]
            failed = node.failed.get(endpoint, NOTHING)
            self.observations.setdefault(endpoint, {})[name] = Observation(
                serving, failed, "broken" if failed else None
            )

    def judge(self) -> None:
        live = self.live()
        rows = [one.row for one in self.endpoints.values()]
        for row, transition in judge_all(rows, self.observations, live):
            one = self.endpoints[row.name]
            holding = [self.nodes[node].held.get(row.name, (NOTHING, 0)) for node in live]
            after = applied(row, transition, self.next() if isinstance(transition, Revert) else row.generation)
            if isinstance(transition, Promote | Resume):
                assert {generation for generation, _ in holding} == {row.generation}
            if after is None:
                del self.endpoints[row.name]
                self.observations.pop(row.name, None)
                continue
            one.row = after
            if isinstance(transition, Promote):
                one.current = one.target
                self.served.add(row.name)
            if isinstance(transition, Revert):
                assert one.current == self.before[row.name]
                one.target = self.before[row.name]


TestEndpoints = Endpoints.TestCase
TestEndpoints.settings = settings(max_examples=200, stateful_step_count=40, deadline=None, derandomize=True)
