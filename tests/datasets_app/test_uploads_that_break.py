"""Uploads over a real connection to a real server: cut off, too large by their own word, and
whole."""

import io
import json
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.long

ROW = b'{"question": "How many legs has a spider?", "answer": "Eight."}\n'
EDGE = b"----cut-here"


def part(disposition: bytes, content: bytes) -> bytes:
    return (
        b"--"
        + EDGE
        + b"\r\nContent-Disposition: form-data; "
        + disposition
        + b"\r\n\r\n"
        + content
        + b"\r\n"
    )


def body(rows: int) -> bytes:
    file = part(b'name="file"; filename="spiders.jsonl"', ROW * rows)
    return part(b'name="name"', b"spiders") + file + b"--" + EDGE + b"--\r\n"


def head(platform, length: int) -> bytes:
    lines = [
        "POST /api/v1/datasets/ HTTP/1.1",
        f"Host: {urlsplit(platform.url).netloc}",
        f"Authorization: Token {platform.tokens['alice']}",
        f"Content-Type: multipart/form-data; boundary={EDGE.decode()}",
        f"Content-Length: {length}",
        "Connection: close",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


@pytest.fixture
def connect(platform) -> Callable[[], socket.socket]:
    platform.get("datasets/")  # signs in
    address = urlsplit(platform.url)
    return lambda: socket.create_connection((address.hostname, address.port), timeout=60)


def wait(until, what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def received(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_an_upload_that_is_cut_off_leaves_nothing_behind(platform, connect):
    before = platform.get("datasets/")["count"], set((platform.home / "datasets").glob("*"))
    content = body(100_000)
    temporary = platform.home / "tmp"

    with connect() as connection:
        connection.sendall(head(platform, len(content)) + content[: len(content) // 2])
        wait(lambda: any(temporary.glob("upload-*")), "the upload never reached the disk")

    wait(lambda: not any(temporary.glob("upload-*")), "a piece of the upload stayed on the disk")
    assert (
        platform.get("datasets/")["count"],
        set((platform.home / "datasets").glob("*")),
    ) == before


def test_what_is_too_large_by_its_own_word_is_refused_before_it_is_sent(platform, connect):
    with connect() as connection:
        connection.sendall(head(platform, 10**15))
        answer = received(connection)

    assert b" 413 " in answer.partition(b"\r\n")[0]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_large"


def test_a_slow_upload_is_taken_whole_and_checked_by_the_worker(platform, connect):
    content = body(300)
    with connect() as connection:
        connection.sendall(head(platform, len(content)))
        for start in range(0, len(content), 4096):
            connection.sendall(content[start : start + 4096])
        answer = received(connection)

    assert b" 201 " in answer.partition(b"\r\n")[0]
    made = json.loads(answer.partition(b"\r\n\r\n")[2])
    dataset = platform.poll(f"datasets/{made['id']}/", lambda row: row["status"] != "checking")
    assert (dataset["status"], dataset["name"], dataset["row_count"]) == ("ready", "spiders", 300)
    lengths = platform.poll(
        f"datasets/{made['id']}/lengths/", lambda found: found["ready"] or found["error"]
    )
    assert (lengths["error"], lengths["rows"]) == ("", 300)


def test_a_parquet_bomb_takes_no_worker_down(platform):
    file = io.BytesIO()
    text = pa.DictionaryArray.from_arrays(
        pa.array([0] * 5000, pa.int32()), pa.array(["x" * 1_000_000])
    )
    pq.write_table(pa.table({"text": text}), file, compression="zstd")

    dataset = platform.upload("bomb.parquet", file.getvalue())

    assert dataset["status"] == "failed"
    assert "a thousand times its size" in dataset["error"]
    assert platform.upload("after.jsonl", ROW)["status"] == "ready"
