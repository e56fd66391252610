"""Odd requests are refused, and none ends in an error of the server."""

import json

import pytest

ODD = (
    [],
    None,
    "x",
    7,
    {},
    {"shared": None},
    {"shared": "yes"},
    {"to": 7},
    {"to": None},
    {"to": "\x00"},
    {"to": "\ud800"},
)
PEOPLE = (
    {"is_active": None},
    {"is_active": 1},
    {"email": "\x00"},
    {"first_name": ["x"]},
    {"username": "\x00"},
    {"id": 3},
)


@pytest.mark.parametrize("name", ["datasets", "models", "trains"])
def test_sharing_and_handing_over(client, world, olga, name):
    client.force_login(olga)
    for body in ODD:
        text = json.dumps(body)
        for method, path in (("put", "sharing"), ("post", "hand-over")):
            call = getattr(client, method)
            answer = call(f"/api/v1/{name}/{world.run.pk}/{path}/", text, "application/json")
            assert answer.status_code == 400, (path, body)
            assert answer.json()["error"]["message"], (path, body)


def test_accounts(client, world, olga):
    client.force_login(olga)
    address = "/api/v1/users/alice/"
    for body in (*PEOPLE, [], None, "x"):
        text = json.dumps(body)
        assert client.patch(address, text, "application/json").status_code == 400, body
        assert client.post("/api/v1/users/", text, "application/json").status_code == 400, body
    for query in (
        "delete_data=perhaps",
        "hand_over_to=%00",
        "hand_over_to=alice",
        "delete_data=",
        "hand_over_to=",
    ):
        assert client.delete(f"{address}?{query}").status_code == 400, query
    for key in ("%00", "9" * 30, "-1", "nobody"):
        assert client.get(f"/api/v1/users/{key}/").status_code == 404, key
    assert client.get("/api/v1/users/?page=0").status_code == 404
    assert client.get("/api/v1/users/alice/").json()["is_active"]
