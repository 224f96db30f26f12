"""`Memory`: which entries it removes, and that floods of keys neither fill it nor remove the entries of other networks."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
import trio
from hypothesis import example, given, settings, strategies as st
from trio.testing import MockClock

from smtp_trio import Peer
from smtp_trio._server.client_memory import Memory, address_of, group_of, subnet_of


class Model:
    """A slow `Memory`: a list of (key, group, value, time), from the oldest to the newest."""

    def __init__(self, max_entries: int, lifetime: float) -> None:
        self.max_entries, self.lifetime = max_entries, lifetime
        self.entries: list[tuple[int, str, int, float]] = []
        #: When each group got its present size.
        self.resized: dict[str, int] = {}
        self.time = 0

    def size(self, group: str) -> int:
        return sum(each[1] == group for each in self.entries)

    def get(self, key: int, now: float) -> int | None:
        return next((each[2] for each in self.entries if each[0] == key and now - each[3] < self.lifetime), None)

    def put(self, key: int, group: str, value: int, now: float) -> None:
        self.discard(key)
        for _ in range(2):
            if self.entries and now - self.entries[0][3] >= self.lifetime:
                self.discard(self.entries[0][0])
        if len(self.entries) == self.max_entries:
            # Of the groups with the most entries, the one that has had them for the longest time.
            group_to_cut = min({each[1] for each in self.entries}, key=lambda g: (-self.size(g), self.resized[g]))
            self.discard(next(each[0] for each in self.entries if each[1] == group_to_cut))
        self.entries.append((key, group, value, now))
        self.touch(group)

    def discard(self, key: int) -> None:
        for each in self.entries:
            if each[0] == key:
                self.entries.remove(each)
                self.touch(each[1])
                return

    def touch(self, group: str) -> None:
        self.time += 1
        self.resized[group] = self.time


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 12), st.sampled_from("abcd")),
        st.tuples(st.just("discard"), st.integers(0, 12), st.just("")),
        st.tuples(st.just("sleep"), st.integers(0, 9), st.just("")),
    ),
    max_size=60,
)


@given(OPERATIONS, st.integers(1, 8))
@example([("put", 1, "a"), ("put", 2, "a"), ("put", 1, "b"), ("put", 3, "b")], 2)
@settings(max_examples=200)
def test_memory_is_like_a_simple_model(operations: list[tuple[str, int, str]], max_entries: int) -> None:
    async def main() -> None:
        memory: Memory[int] = Memory(max_entries, 10)
        model = Model(max_entries, 10)
        for number, (name, key, group) in enumerate(operations):
            now = trio.current_time()
            if name == "put":
                memory.put(key, group, number)
                model.put(key, group, number, now)
            elif name == "discard":
                memory.discard(key)
                model.discard(key)
            else:
                await trio.sleep(key)
            assert len(memory) == len(model.entries) <= max_entries
            now = trio.current_time()
            assert [memory.get(key) for key in range(13)] == [model.get(key, now) for key in range(13)]

    trio.run(main, clock=MockClock(autojump_threshold=0))


FLOODS: dict[str, Callable[[int], str]] = {
    "from one address": lambda number: "192.0.2.1",
    "from an IPv4 network": lambda number: f"192.0.2.{number % 256}",
    "from an IPv6 network": lambda number: f"2001:db8:{number % 65536:x}:{number // 65536:x}::1",
    "from 50 networks": lambda number: f"203.0.{number % 50}.1",
}


@pytest.mark.slow
@pytest.mark.parametrize("flood", FLOODS)
async def test_flood_of_100000_keys(flood: str, autojump_clock: MockClock) -> None:
    """The number of entries has a limit, and no other network loses an entry."""
    memory: Memory[int] = Memory(2000, 3600)
    honest = {(network, number): f"10.{network}.0.1" for network in range(200) for number in range(5)}
    for key, host in honest.items():
        memory.put(key, group_of(Peer(host, 25, "tcp")), 1)
    for number in range(100_000):
        memory.put(number, group_of(Peer(FLOODS[flood](number), 25, "tcp")), 2)
    assert len(memory) == 2000
    assert all(memory.get(key) for key in honest)
    assert sum(memory.get(number) is not None for number in range(100_000)) == 1000
    assert memory.get(99_999) == 2


@pytest.mark.slow
async def test_flood_from_100000_networks(autojump_clock: MockClock) -> None:
    """When each network has one entry, the oldest is removed; a network with more loses entries first."""
    memory: Memory[int] = Memory(1000, 3600)
    for number in range(3):
        memory.put(("busy", number), "busy", number)
    memory.put("one", "one", 0)
    for number in range(998):
        memory.put(number, f"network {number}", number)
    assert [memory.get(("busy", number)) for number in range(3)] == [None, None, 2]
    assert memory.get("one") == 0
    for number in range(998, 101_000):
        memory.put(number, f"network {number}", number)
        assert len(memory) == 1000
    assert memory.get("one") is None
    assert [memory.get(number) for number in (99_999, 100_000, 100_999)] == [None, 100_000, 100_999]


async def test_octets_of_an_entry(autojump_clock: MockClock) -> None:
    """As the documentation states: less than 1000 octets, also when each entry is that of another network."""
    tracemalloc.start()
    try:
        memory: Memory[float] = Memory(1000, 3600)
        for number in range(2000):
            memory.put(number.to_bytes(16, "big"), f"network {number}", 1.0 + number)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 1000 * len(memory)


async def test_expired_entries_are_removed_a_few_at_a_time(autojump_clock: MockClock) -> None:
    """So no operation takes long, and expired entries go faster than new ones come."""
    memory: Memory[int] = Memory(1000, 60)
    for number in range(1000):
        memory.put(number, "old", number)
    await trio.sleep(60)
    assert memory.get(0) is None
    sizes = []
    for number in range(1000, 1003):
        memory.put(number, "new", number)
        sizes.append(len(memory))
    assert sizes == [999, 998, 997]
    for number in range(1003, 2000):
        memory.put(number, "new", number)
    assert len(memory) == 1000
    assert memory.get(1000) == 1000
    assert memory.get(1999) == 1999


@pytest.mark.parametrize(
    ("host", "kind", "address", "subnet", "group"),
    [
        ("192.0.2.7", "tcp", "c0000207/32", "c00002/24", "c00002/24"),
        ("2001:db8:1:2:3:4:5:6", "tcp", "20010db800010002/64", "20010db800010002/64", "20010db8/32"),
        ("::ffff:192.0.2.7", "tcp", "c0000207/32", "c00002/24", "c00002/24"),
        ("fe80::1%eth0", "tcp", "fe80000000000000/64", "fe80000000000000/64", "fe800000/32"),
        ("127.0.0.1", "tcp", "7f000001/32", "7f0000/24", "7f0000/24"),
        ("", "unix", "unix", "unix", "unix"),
        ("", "memory", "memory", "memory", "memory"),
        ("host.test", "memory", "host.test", "host.test", "host.test"),
        ("host:test", "memory", "host:test", "host:test", "host:test"),
    ],
)
def test_networks(host: str, kind: str, address: str, subnet: str, group: str) -> None:
    peer = Peer(host, None, kind)  # type: ignore[arg-type]
    assert (address_of(peer), subnet_of(peer), group_of(peer)) == (address, subnet, group)
