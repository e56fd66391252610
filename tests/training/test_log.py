"""The log by pieces, and a search of it that goes on where it ended."""

import pytest

import jobs.log
from engine.contract.rundir import LOG
from jobs.log import log_read, log_search


@pytest.fixture
def logged(make_train):
    run = make_train(status="finished")
    run.directory.mkdir(parents=True, exist_ok=True)

    def logged(text: str | bytes):
        (run.directory / LOG).write_bytes(text.encode() if isinstance(text, str) else text)
        return run

    return logged


def searched(run, words: str) -> list[str]:
    """Text of all matches, call after call; each is the line that the log has at its offset."""
    found, at = [], 0
    while at is not None:
        matches, following, size = log_search(run, words, at)
        assert following is None or at < following < size
        for match in matches:
            assert (
                log_read(run, match.offset).text.startswith(match.text.removeprefix("…")[:20])
                or "…" in match.text
            )
        found += [match.text for match in matches]
        at = following
    return found


def test_lines_are_found_once_whatever_their_case(logged):
    run = logged("step 1\nWarning: a warning\n\nStep 2 é\nstéep\n")
    assert searched(run, "STEP") == ["step 1", "Step 2 é"]
    assert searched(run, "warning") == ["Warning: a warning"]
    assert searched(run, "é") == ["Step 2 é", "stéep"]
    assert searched(run, "nothing") == []


def test_no_line_is_lost_or_doubled_at_the_border_of_a_block_or_a_call(logged, monkeypatch):
    monkeypatch.setattr(jobs.log, "BLOCK_BYTES", 50)
    monkeypatch.setattr(jobs.log, "SEARCH_BYTES", 120)
    monkeypatch.setattr(jobs.log, "MOST_MATCHES", 3)
    lines = [
        f"line {number} {'needle' if number % 3 else 'hay'} {'x' * (number % 30)}"
        for number in range(200)
    ]
    wanted = [line for line in lines if "needle" in line]
    assert searched(logged("\n".join(lines) + "\n"), "needle") == wanted
    assert searched(logged("\n".join(lines)), "Needle") == wanted


def test_a_line_without_an_end_is_searched_too(logged, monkeypatch):
    monkeypatch.setattr(jobs.log, "BLOCK_BYTES", 1000)
    run = logged("a" * 700 + "needle" + "b" * 900 + "\nneedle\n")
    found = searched(run, "needle")
    assert found[0].startswith("…a")
    assert "needlebbb" in found[0]
    assert found[-1] == "needle"
    assert max(map(len, found)) <= 301


def test_bytes_that_are_no_text_and_no_log_at_all(logged, make_train):
    assert searched(logged(b"\xff\xfe needle \x00\n"), "needle") == ["\ufffd\ufffd needle \x00"]
    assert log_search(make_train(), "x") == ([], None, 0)
    assert log_search(logged("abc\n"), "abc", offset=10**9) == ([], None, 4)


def test_the_api_searches_for_its_owner_and_says_what_it_wants(client, alice, bob, logged):
    run = logged("first\nsecond <b>\n")
    address = f"/api/v1/trains/{run.pk}/log/search/"
    client.force_login(alice)
    assert client.get(address, {"q": "SEC"}).json() == {
        "matches": [{"offset": 6, "text": "second <b>"}],
        "next": None,
        "size": 17,
    }
    for query in ({}, {"q": "x" * 201}, {"q": "x", "offset": "-1"}, {"q": "x", "offset": "a"}):
        assert client.get(address, query).status_code == 400
    client.force_login(bob)
    assert client.get(address, {"q": "sec"}).status_code == 404
