"""JSON bodies that nobody means well with, and parameters that are none."""

from __future__ import annotations

import pytest

from tests.routes import addresses

DEEP = b'{"a":' * 20_000 + b"1" + b"}" * 20_000
POSTS = sorted({path for _, path in addresses() if path.startswith("/api/")})


@pytest.fixture
def caller(client, alice):
    client.force_login(alice)
    client.raise_request_exception = False
    return client


def send(client, method, path, body):
    return getattr(client, method)(path, body, content_type="application/json")


@pytest.mark.parametrize(
    "body", [DEEP, DEEP.replace(b"{", b"[").replace(b'"a":', b""), b"[]", b"null", b"1", b'"x"']
)
def test_no_body_is_a_server_error(caller, body):
    """Every address of the API, by everybody: those that ask for a password read a body from
    anybody."""
    failures = []
    for path in POSTS:
        for method in ("post", "patch", "put", "delete"):
            for signed_in in (True, False):
                client = caller if signed_in else type(caller)(raise_request_exception=False)
                if (answer := send(client, method, path, body)).status_code >= 500:
                    failures.append(f"{method} {path} {answer.status_code}")
    assert failures == []


def test_it_says_what_is_wrong_with_a_body(caller):
    answer = send(caller, "post", "/api/v1/trains/", DEEP)
    assert answer.status_code == 400
    assert "cannot be read as JSON" in answer.json()["error"]["message"]


def test_a_body_that_is_too_large_is_not_read(caller, settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    answer = send(caller, "post", "/api/v1/trains/", b'"' + b"x" * 2000 + b'"')
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    "query",
    [
        "page_size=null",
        "page_size=",
        "page_size=0",
        "page_size=-1",
        "page_size=1e3",
        f"page_size={'9' * 5000}",
        "until=",
        "since=",
        "until=yesterday",
        "archived=perhaps",
        "archived=",
        "status=",
        "status=odd",
        "ordering=password",
        "ordering=",
    ],
)
@pytest.mark.parametrize("path", ["trains", "datasets", "models"])
def test_a_parameter_that_is_none_is_refused(caller, path, query):
    name = query.partition("=")[0]
    if (path == "trains" and name == "archived") or (
        path != "trains" and name in ("until", "since")
    ):
        pytest.skip("no such parameter")
    answer = caller.get(f"/api/v1/{path}/?{query}")
    assert answer.status_code == 400
    assert name in answer.json()["error"]["fields"]


@pytest.mark.parametrize("path", ["trains", "datasets", "models"])
def test_the_page_of_a_list_takes_a_form_that_was_left_blank(caller, path):
    assert (
        caller.get(f"/{path}/?until=&since=&status=&archived=&search=&ordering=").status_code == 200
    )
    assert caller.get(f"/api/v1/{path}/?search=&page_size=200").status_code == 200


@pytest.mark.parametrize("ids", ["9" * 5000, "foo", "1,," + "0" * 5000, "-1"])
def test_ids_that_are_none_are_refused(caller, ids):
    assert caller.get(f"/trains/live/?ids={ids}").status_code == 400
    assert caller.get(f"/api/v1/trains/compare/?ids={ids}").status_code == 400


@pytest.mark.parametrize(
    "reference", ["/" + "a" * 3000, "/" + "a/" * 1500, "/\x00", "/" + "é" * 2000]
)
def test_a_folder_that_cannot_be_is_refused(caller, settings, tmp_path, reference):
    settings.MODEL_ROOTS = [tmp_path]
    for name in (reference, f"{tmp_path}{reference}"):
        body = {"source": "folder", "reference": name}
        answer = caller.post("/api/v1/models/", body, content_type="application/json")
        assert answer.status_code == 400
        assert caller.post("/models/new/", body).status_code in (200, 400)


OK = {"200", "201", "202", "204"}


def test_every_operation_names_its_refusals(caller):
    document = caller.get(
        "/api/v1/schema/", headers={"Accept": "application/vnd.oai.openapi+json"}
    ).json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            named = set(operation["responses"])
            wanted = {"400", "403", "404", "429", "503"} | (
                {"413", "507"} if method != "get" else set()
            )
            assert wanted <= named, (method, path)
            for status in named - OK:
                reference = operation["responses"][status]["content"]["application/json"]["schema"][
                    "$ref"
                ]
                assert reference.endswith("/Error"), (method, path, status)
