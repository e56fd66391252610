"""Files and bytes through both kinds of storage: whole or not at all, whatever happens on the way."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from engine.messages.failures import DISK_FULL, explain
from engine.storage import backends
from engine.storage.errors import (
    ObjectBroken,
    ObjectMissing,
    StorageAway,
    StorageFull,
    StorageRefused,
)
from engine.storage.settings import StorageSettings
from engine.storage.store import FileChanged, Store
from engine.storage.trees import tree_fetch, tree_of, tree_put
from tests.storage.servers import KEY, SECRET, Proxy

MB = 1 << 20
ODD_NAMES = (
    "plain.txt",
    "two words.txt",
    "#?%2F*[a]&=+.bin",
    "älter/größer/模型.safetensors",
    ".hidden/.file",
    "a/b/c/d/e",
    "new\nline",
    "back\\slash",
    "CASE",
    "case",
    "x" * 240,
    os.fsdecode(b"not-utf8-\xff\xfe"),
)


def write_folder(folder: Path) -> Path:
    for number, name in enumerate(ODD_NAMES):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape") * number)

    (folder / "empty").touch()
    (folder / "link").symlink_to(folder / "plain.txt")
    return folder


@pytest.mark.parametrize("size", [0, 1, 5 * MB + 1, 33 * MB])
def test_a_file_comes_back_as_it_went(store, tmp_path, size):
    source, target = tmp_path / "source", tmp_path / "target"
    block = os.urandom(MB)
    source.write_bytes((block * (size // MB + 1))[:size])

    digest = store.put_file(source, "a/file")
    assert (digest.size, digest.sha256) == (size, hashlib.sha256(source.read_bytes()).hexdigest())
    assert store.digest("a/file") == digest

    assert store.get_file("a/file", target) == digest
    assert target.read_bytes() == source.read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


def test_large_files_travel_in_parts(s3, tmp_path):
    settings = s3.settings()
    source = tmp_path / "source"
    source.write_bytes(os.urandom(2 * backends.PART_BYTES + 1))
    Store(settings).put_file(source, "large")
    assert f"POST /{settings.url.removeprefix('s3://')}/large?uploads" in s3.log.read_text()


def test_a_folder_comes_back_whatever_its_names_are(store, tmp_path):
    source, target = write_folder(tmp_path / "source"), tmp_path / "target"
    tree = tree_of(source)
    assert len(tree) == len(ODD_NAMES) + 2
    tree_put(store, source, tree, "objects")
    # Files of the same contents are there once.
    assert len(store.list("objects")) == len(set(tree.values()))

    tree_fetch(store, tree, "objects", target)
    assert tree_of(target) == tree


@pytest.mark.parametrize(
    "name", ["../up", "/root", "a//b", "a/../b", "", ".digests/a", "a?b", "a\n"]
)
def test_a_name_that_leads_elsewhere_is_refused(store, name):
    for call in (store.exists, store.delete, store.get_bytes, store.list):
        with pytest.raises(ValueError, match="no name of an object"):
            call(name)


def test_names_are_listed_and_deleted(store):
    for name in ("a/1", "a/b/2", "ab/3"):
        store.put_bytes(name.encode(), name)

    assert store.list("a") == ["a/1", "a/b/2"]
    assert store.list("none") == []
    store.delete("a/1")
    store.delete("a/1")
    assert (store.exists("a/1"), store.exists("ab/3")) == (False, True)

    store.delete_folder("a")
    assert store.list("a") == []
    with pytest.raises(ObjectMissing, match="has no a/1"):
        store.get_bytes("a/1")


def test_more_names_than_one_answer_holds_are_listed(store, monkeypatch):
    monkeypatch.setattr(backends, "NAMES_AT_ONCE", 2)
    for number in range(5):
        store.put_bytes(b"", f"many/{number}")

    assert store.list("many") == [f"many/{number}" for number in range(5)]


def test_a_folder_that_cannot_be_listed_does_not_look_empty(tmp_path, monkeypatch):
    store = Store(StorageSettings(f"file://{tmp_path}"), patience=0)
    store.put_bytes(b"1", "a/b/1")
    scan = os.scandir

    for number, kind in (
        (errno.ESTALE, StorageAway),
        (errno.EACCES, StorageRefused),
        (errno.ELOOP, OSError),
    ):

        def scan_with_error(path, number=number):
            if Path(path).name == "b":
                raise OSError(number, os.strerror(number))

            return scan(path)

        for folder in ("a", "a/b"):
            with monkeypatch.context() as patch:
                patch.setattr(os, "scandir", scan_with_error)
                with pytest.raises(kind):
                    store.list(folder)

    assert store.list("a") == ["a/b/1"]
    assert store.list("a/b/1") == []


def test_what_was_there_is_replaced(store):
    store.put_bytes(b"first", "name")
    store.put_bytes(b"second, longer", "name")
    assert store.get_bytes("name") == b"second, longer"


@pytest.mark.long
@pytest.mark.parametrize("content", [b"hal", b"HALF AN OBJECT", b""])
def test_half_an_object_is_fetched_again_and_then_refused(store, put_past, tmp_path, content):
    store.put_bytes(b"half an object", "name")
    put_past("name", content)
    with pytest.raises(ObjectBroken, match=r"name in the storage at .* is not whole: "):
        store.get_file("name", tmp_path / "target")

    assert list(tmp_path.glob("*target*")) == []
    assert list(tmp_path.glob("*.tmp")) == []
    with pytest.raises(ObjectBroken):
        store.get_bytes("name")


def test_an_object_that_becomes_whole_is_taken(store, put_past, tmp_path):
    """As one that is written just now may be."""
    store.put_bytes(b"half an object", "name")
    put_past("name", b"half")
    timer = threading.Timer(0.3, put_past, ("name", b"half an object"))
    timer.start()
    store.get_file("name", tmp_path / "target")
    timer.join()
    assert (tmp_path / "target").read_bytes() == b"half an object"


def test_a_file_that_changes_while_it_is_sent_is_not_kept(store, tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.write_bytes(b"before")
    put = store._backend.put

    def put_and_change(*values):
        put(*values)
        source.write_bytes(b"after!")

    monkeypatch.setattr(store._backend, "put", put_and_change)
    with pytest.raises(FileChanged):
        store.put_file(source, "name")

    assert not store.exists("name")


def test_a_full_disk_here_is_no_trouble_of_the_storage(store, settings_of_storage, tmp_path):
    """In a process that may write only files of some bytes."""
    store.put_bytes(b"x" * 100_000, "name")
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from engine.storage.settings import StorageSettings\n"
        "from engine.storage.store import Store\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    store = Store(StorageSettings.from_environment())\n"
        f"    store.get_file('name', Path({str(tmp_path / 'target')!r}))\n"
        "except OSError as error:\n"
        "    print(error.errno)\n"
    )
    environment = os.environ | settings_of_storage.as_environment()
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "27", ran.stderr
    assert list(tmp_path.glob("*.tmp")) == []
    assert explain(OSError(28, "No space left on device")) == DISK_FULL


def test_a_storage_that_is_full_says_so(tmp_path, monkeypatch):
    def write(content, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backends, "_write", write)
    with pytest.raises(StorageFull, match="is full"):
        Store(StorageSettings(f"file://{tmp_path}")).put_bytes(b"1", "name")


def test_a_folder_that_is_not_mounted_is_away_and_nothing_is_written_beneath(tmp_path):
    root = tmp_path / "mounted"
    store = Store(StorageSettings(f"file://{root}"), patience=0)
    with pytest.raises(StorageAway, match="is not there"):
        store.put_bytes(b"1", "name")

    assert not root.exists()
    timer = threading.Timer(0.2, root.mkdir)
    timer.start()
    store.with_patience(20).check()
    timer.join()


def test_a_server_that_comes_back_in_time_costs_nothing(s3, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(6 * MB))
    with Proxy(s3.port) as line:
        store = Store(s3.settings(line.url), patience=30)
        store.put_file(source, "before")

        line.away()
        seen = line.seen
        timer = threading.Timer(1.0, line.away, (False,))
        timer.start()
        store.get_file("before", tmp_path / "target")
        timer.join()
        assert line.seen > seen + 1
        assert (tmp_path / "target").read_bytes() == source.read_bytes()


def test_a_file_that_takes_longer_than_the_patience_is_tried_again(tmp_path, monkeypatch):
    store = Store(StorageSettings(f"file://{tmp_path}"), patience=0.05)
    put = store._backend.put
    tries = []

    def put_late(*values):
        tries.append(values)
        if len(tries) == 1:
            time.sleep(2 * store.patience)
            raise backends.Away("broke off")

        put(*values)

    monkeypatch.setattr(store._backend, "put", put_late)
    store.put_bytes(b"1", "name")
    assert len(tries) == 2
    assert store.get_bytes("name") == b"1"


def test_a_line_that_breaks_in_the_middle_of_a_file_is_taken_up_again(s3, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(33 * MB))
    with Proxy(s3.port) as line:
        store = Store(s3.settings(line.url), patience=0)
        store.put_file(source, "name")
        # Without the second try that the library makes at once.
        store._backend.files.retries = 1

        line.cut()
        line.seen, line.cut_after = 0, 5 * MB
        store.get_file("name", tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == source.read_bytes()


def test_a_server_that_stays_away_is_named_without_its_key(s3):
    settings = s3.settings()
    s3_away = StorageSettings(
        settings.url, "http://somebody:password@127.0.0.1:9", "us-east-1", KEY, SECRET
    )
    began = time.monotonic()
    with pytest.raises(StorageAway) as caught:
        Store(s3_away, patience=1).put_bytes(b"1", "name")

    assert time.monotonic() - began < 30
    text = f"{caught.value.message} {caught.value.advice} {caught.value!r} {s3_away!r}"
    assert f"{settings.url} (http://127.0.0.1:9) cannot be reached" in text
    assert KEY not in caught.value.message
    assert SECRET not in text


def test_a_server_that_says_nothing_is_given_up(s3, monkeypatch):
    monkeypatch.setattr(backends, "SECONDS_BESIDE", 2)
    with Proxy(s3.port) as line:
        store = Store(s3.settings(line.url), patience=0)
        line.stalls = True
        with pytest.raises(StorageAway, match="does not answer in time"):
            store.put_bytes(b"1", "name")

        line.stalls = False
        line.cut()
        store.with_patience(20).put_bytes(b"1", "name")


def test_a_transfer_that_creeps_is_given_up(s3, tmp_path, monkeypatch):
    """It says something now and then, so that no single wait is long."""
    monkeypatch.setattr(backends, "SECONDS_BESIDE", 1)
    monkeypatch.setattr(backends, "SLOWEST_BYTES_PER_SECOND", 1 << 30)
    with Proxy(s3.port) as line:
        settings = s3.settings()
        Store(settings).put_bytes(os.urandom(MB), "name")
        store = Store(s3_through(settings, line), patience=0)
        line.creeps = True
        with pytest.raises(StorageAway, match="does not answer in time"):
            store.get_file("name", tmp_path / "target")


def s3_through(settings: StorageSettings, line: Proxy) -> StorageSettings:
    return StorageSettings(settings.url, line.url, settings.region, KEY, SECRET)


def test_a_bucket_that_is_not_there_is_refused_at_once(s3):
    settings = StorageSettings("s3://no-such-bucket/a", s3.url, "us-east-1", KEY, SECRET)
    store = Store(settings)
    for call in (store.check, lambda: store.put_bytes(b"1", "name"), lambda: store.list("a")):
        began = time.monotonic()
        with pytest.raises(StorageRefused, match="has no bucket no-such-bucket"):
            call()

        assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("code", "status", "kind", "words"),
    [
        ("SignatureDoesNotMatch", 403, StorageRefused, "does not accept this key"),
        ("AccessDenied", 403, StorageRefused, "does not allow this with this key"),
        ("RequestTimeTooSkewed", 403, StorageRefused, "clock of this machine is wrong"),
        ("SlowDown", 503, StorageAway, "answers with an error"),
        ("InternalError", 500, StorageAway, "answers with an error"),
        ("XMinioStorageFull", 507, StorageFull, "is full"),
    ],
)
def test_what_a_server_answers_is_told_in_words(code, status, kind, words, tmp_path):
    """A server that answers every request so: moto takes any key."""
    with refusing(code, status) as url:
        settings = StorageSettings("s3://bucket", url, "us-east-1", KEY, SECRET)
        with pytest.raises(kind, match=words) as caught:
            Store(settings, patience=0).put_bytes(b"1", "name")

        assert SECRET not in str(caught.value)


class refusing:  # noqa: N801 - a block
    def __init__(self, code: str, status: int) -> None:
        import http.server

        body = f"<Error><Code>{code}</Code><Message>No.</Message></Error>".encode()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(status)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *values):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"": "gs://bucket"}, "file:///FOLDER or s3://BUCKET"),
        ({"": "file://relative"}, "file:///FOLDER or s3://BUCKET"),
        ({"": "s3://key:secret@bucket/a"}, "file:///FOLDER or s3://BUCKET"),
        ({"": "s3://bucket", "_ENDPOINT": "minio:9000"}, "no http or https address"),
        ({"": "s3://bucket", "_KEY": "alone"}, "belong together"),
        ({"": "s3://bucket", "_CACHE_GB": "much"}, "number of gigabytes"),
        ({"": "s3://bucket", "_CACHE_GB": "inf"}, "number of gigabytes"),
        ({"": "s3://bucket", "_CACHE_GB": "0"}, "number of gigabytes"),
    ],
)
def test_settings_that_cannot_be_read_are_refused(given, words):
    environment = {f"DEEPEXTENSION_STORAGE{name}": value for name, value in given.items()}
    with pytest.raises(ValueError, match=words):
        StorageSettings.from_environment(environment)


@pytest.mark.long
def test_settings_go_through_the_environment(settings_of_storage):
    assert StorageSettings.from_environment({}) is None
    environment = settings_of_storage.as_environment()
    assert StorageSettings.from_environment(environment) == settings_of_storage


def test_a_killed_upload_leaves_nothing_to_be_seen(store, settings_of_storage, tmp_path):
    """The process dies in the middle of the copy."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(40 * MB))
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from engine.storage.settings import StorageSettings\n"
        "from engine.storage.store import Store\n"
        "store = Store(StorageSettings.from_environment())\n"
        "store.check()\n"
        "print('now', flush=True)\n"
        "while True:\n"
        f"    store.put_file(Path({str(source)!r}), 'name')\n"
        "    store.delete('name')\n"
    )
    environment = os.environ | settings_of_storage.as_environment()
    process = subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.15)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()

    if store.exists("name"):
        store.get_file("name", tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == source.read_bytes()


def test_what_killed_uploads_leave_in_a_folder_goes_after_a_day(tmp_path):
    unfinished = tmp_path / backends.UNFINISHED
    unfinished.mkdir()
    old, new = unfinished / "old", unfinished / "new"
    for path in (old, new):
        path.write_bytes(b"half")

    a_day_ago = time.time() - backends.UNFINISHED_SECONDS - 60
    os.utime(old, (a_day_ago, a_day_ago))
    Store(StorageSettings(f"file://{tmp_path}")).put_bytes(b"1", "name")
    assert list(unfinished.iterdir()) == [new]
