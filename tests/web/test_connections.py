"""Who has to leave when there are too many connections."""

from __future__ import annotations

import pytest

from core.web.connections import UNFINISHED_PER_ADDRESS, Connections

PROXY = "192.0.2.1"


class Client:
    def __init__(self, connections: Connections, address: str) -> None:
        self.connections = connections
        self.address = address
        self.is_open = connections.admit(self)

    def make_room(self) -> None:
        self.is_open = False
        self.connections.remove(self)


@pytest.fixture
def connections():
    return Connections(most=300, most_per_address=100, is_trusted=lambda address: address == PROXY)


def test_the_oldest_unfinished_request_of_an_address_makes_room(connections):
    other = Client(connections, "10.0.0.9")
    tricklers = [Client(connections, "10.0.0.1") for _ in range(UNFINISHED_PER_ADDRESS)]
    assert all(client.is_open for client in tricklers)
    newcomer = Client(connections, "10.0.0.1")
    assert newcomer.is_open
    assert [client.is_open for client in tricklers[:2]] == [False, True]
    assert other.is_open


def test_what_has_arrived_is_no_trickle(connections):
    clients = []
    for _ in range(100):
        clients.append(Client(connections, "10.0.0.1"))
        connections.request_arrived(clients[-1])
    assert all(client.is_open for client in clients)
    assert not Client(connections, "10.0.0.1").is_open
    assert Client(connections, "10.0.0.2").is_open


def test_a_proxy_speaks_for_many(connections):
    assert all(Client(connections, PROXY).is_open for _ in range(250))


def test_a_full_process_closes_who_waits_for_nothing_first(connections):
    busy = Client(connections, "10.0.0.1")
    connections.request_arrived(busy)
    idle = Client(connections, "10.0.0.2")
    connections.request_arrived(idle)
    connections.is_idle(idle)
    crowd = [Client(connections, f"10.1.0.{number}") for number in range(299)]
    assert busy.is_open
    assert not idle.is_open
    assert all(client.is_open for client in crowd)


def test_nothing_is_left_of_who_has_gone(connections):
    clients = [Client(connections, f"10.0.0.{number % 9}") for number in range(90)]
    for number, client in enumerate(clients):
        if number % 2:
            connections.request_arrived(client)
            connections.is_idle(client)
        connections.remove(client)
    assert connections.total == 0
    assert not any(
        (
            connections.of_address,
            connections.unfinished,
            connections.unfinished_of,
            connections.idle,
        )
    )
