"""Headers of GGUF files that claim more than their file can hold: refused before any library reads
them."""

import resource
import struct
import subprocess
import sys
import textwrap
import time

import pytest

from engine.models.inspect_gguf import GgufProblem, header_check
from tests.models_app.gguf_file import write_gguf
from tests.tiny import tiny_model

HUGE = 2**60
U32, STRING, ARRAY = 4, 8, 9


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def header(*, tensors: int = 0, keys: list[bytes] = (), infos: list[bytes] = ()) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, len(keys)) + b"".join(keys) + b"".join(infos)


def array(key: str, kind: int, count: int, content: bytes = b"") -> bytes:
    return text(key) + struct.pack("<IIQ", ARRAY, kind, count) + content


def number(key: str, value: int) -> bytes:
    return text(key) + struct.pack("<II", U32, value)


def tensor(*shape: int, dimensions: int | None = None, offset: int = 0) -> bytes:
    count = len(shape) if dimensions is None else dimensions
    return (
        text("w")
        + struct.pack("<I", count)
        + struct.pack(f"<{len(shape)}Q", *shape)
        + struct.pack("<IQ", 0, offset)
    )


NAME = text("general.architecture") + struct.pack("<I", STRING) + text("llama")

CLAIMS = {
    "values behind an empty key": header(keys=[NAME, array("", 0, HUGE)]),
    "tensors": b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0),
    "keys": b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE),
    "length of a key": header(keys=[struct.pack("<Q", HUGE) + b"key"]) + b"\0" * 64,
    "length of a text": header(keys=[text("key") + struct.pack("<IQ", STRING, HUGE)]) + b"\0" * 64,
    "values of an array": header(keys=[array("key", U32, HUGE)]),
    "texts of an array": header(keys=[array("tokens", STRING, HUGE)]) + b"\0" * 64,
    "length of a text in an array": header(
        keys=[array("tokens", STRING, 1, struct.pack("<Q", HUGE))]
    ),
    "arrays of arrays": header(keys=[array("key", ARRAY, 1, struct.pack("<IQ", ARRAY, HUGE))]),
    "length of a tensor's name": header(tensors=1, infos=[struct.pack("<Q", HUGE)]) + b"\0" * 64,
    "dimensions": header(tensors=1, infos=[tensor(2, dimensions=2**31)]) + b"\0" * 64,
    "one side of a tensor": header(tensors=1, infos=[tensor(HUGE, 2)]) + b"\0" * 64,
    "a product of sides": header(tensors=1, infos=[tensor(200, 200, 200, 200)]) + b"\0" * 64,
    "a product of 2^64": header(tensors=1, infos=[tensor(2**32, 2**32)]) + b"\0" * 64,
    "where a tensor lies": header(tensors=1, infos=[tensor(2, offset=HUGE)]) + b"\0" * 64,
    "layers": header(tensors=1, keys=[number("llama.block_count", 2**31)], infos=[tensor(2)]),
    "width": header(tensors=1, keys=[number("llama.embedding_length", 2**31)], infos=[tensor(2)]),
    "an unknown kind of value": header(keys=[text("key") + struct.pack("<I", 77)]) + b"\0" * 64,
}

# The 94 bytes of a report: two keys, the second an array of 2^60 bytes.
REPORTED = bytes.fromhex(
    "474755460300000000000000000000000200000000000000140000000000000067656e6572616c2e"
    "6172636869746563747572650800000005000000000000006c6c616d610100000000000000780900"
    "0000000000000000000000000010"
)


@pytest.fixture
def file(tmp_path):
    def write(content: bytes):
        path = tmp_path / "some.gguf"
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_beyond_the_file_is_refused(file, claim):
    with pytest.raises(GgufProblem):
        header_check(file(CLAIMS[claim]))


def test_the_reported_file_is_refused_by_what_it_claims(file):
    with pytest.raises(GgufProblem, match="1,152,921,504,606,846,976 values"):
        header_check(file(REPORTED))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    return write_gguf(
        tiny_model(folder / "tiny"), folder / "whole.gguf", quantised=True
    ).read_bytes()


def test_a_real_file_passes(file, whole):
    header_check(file(whole))


def test_any_eight_bytes_of_a_header_may_claim_anything(file, whole, tmp_path):
    """Each place of the header says 2^60 once: it is refused or means nothing, in little time and
    memory."""
    program = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        from engine.models.inspect_gguf import GgufProblem, header_check

        path, end = Path(sys.argv[1]), int(sys.argv[2])
        content = path.read_bytes()
        resource.setrlimit(resource.RLIMIT_DATA, (2**27, 2**27))
        refused = 0
        for place in range(8, end):
            path.write_bytes(content[:place] + (2**60).to_bytes(8, "little") + content[place + 8 :])
            try:
                header_check(path)
            except GgufProblem:
                refused += 1
        print(refused)
    """)
    ended = subprocess.run(
        [sys.executable, "-c", program, str(file(whole)), "600"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(ended.stdout) > 100


def test_a_file_of_the_smallest_texts_ends_soon(file):
    count = 2_000_000
    path = file(header(keys=[array("tokens", STRING, count, b"\0" * 8 * count)]))
    used, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    header_check(path)
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < 100_000, "KB"


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1])
def test_a_header_that_is_cut_off_is_refused(file, whole, share):
    with pytest.raises(GgufProblem):
        header_check(file(whole[: int(len(whole) * share)]))
