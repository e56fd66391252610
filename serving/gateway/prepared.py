"""The files that model servers read: of a model folder llama.cpp's own form, of a trained adapter
that too, made once and kept in HOME/serving/<base key>/.

    base.gguf            the weights, and adapter-<key>.gguf an adapter on them
    base.json            from which files it was made, and what serves it: a Record

A file whose source has changed (path, size or time of a file) is made again. What llama.cpp cannot
read is served by transformers from its own folder, and the record says why. What it reads answers
at once, with a note, while its answers are compared with the trained model's beside it, once; where
they differ, transformers takes over."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings

from core.errors import UserError
from core.memory import memory_available
from core.programs import ProgramProblem, ProgramRefusal, program_run
from core.store import require_disk
from serving.gateway.problems import ServeProblem
from serving.targets import Placement

GGUF = ".gguf"
BASE_RECORD = "base.json"
# Of a model that is large: what a slow disk takes.
SECONDS, BYTES_A_SECOND = 900, 1e6
WEIGHTS_ENDINGS = (".safetensors", GGUF, ".json", ".jinja", ".model")
# A comparison that could not be made is tried again after that.
COMPARE_AGAIN_SECONDS = 600
# The trained model in fp32 beside its file, and what it computes with.
COMPARE_SHARE, COMPARE_BYTES = 2.5, 2**30
# Beside a train only smaller ones are compared.
SMALL_BYTES = 2**30
COMPARE_LOOK_SECONDS = 5.0
NOT_COMPARED = "Not yet checked against the original model."
DIFFERS = (
    "llama.cpp's answers differ from the trained model's, so it answers by transformers. {why}"
)
UNKNOWN = "llama.cpp does not serve it, so it answers by transformers. {why}"

Tell = Callable[[str, float | None], None]

logger = logging.getLogger("deepextension.gateway")


@dataclass(frozen=True)
class Record:
    """source: the mark of the files that it was made from. backend: what serves it. note: why it is
    not llama.cpp, for people. reason: of the choice, for the operator. is_compared: whether its
    answers are known to be the trained model's."""

    source: str
    backend: str
    note: str = ""
    reason: str = ""
    is_compared: bool = True


@dataclass(frozen=True)
class Files:
    """What a model server is given. base: a folder or a GGUF file, adapter: the same, "" for none.
    The marks change with the contents. size_bytes: of the weights."""

    backend: str
    base: str
    base_mark: str
    adapter_key: str = ""
    adapter: str = ""
    adapter_mark: str = ""
    note: str = ""
    reason: str = ""
    size_bytes: int = 0


class Preparation:
    """One that is under way, and who is told of it."""

    def __init__(self) -> None:
        self.words = "Preparing the model"
        self.progress: float | None = None
        self.listeners: set[Tell] = set()
        self.task: asyncio.Task[Files]

    def tell(self, words: str, progress: float | None) -> None:
        self.words, self.progress = words, progress
        for listener in list(self.listeners):
            listener(words, progress)


class Preparations:
    """All that are under way, one after the other: each takes a processor and memory.

    on_differs: called with a placement whose answers by llama.cpp turned out to be others than the
    trained model's."""

    def __init__(self, folder: Path, on_differs: Callable[[Placement, str], None]) -> None:
        self.folder = folder
        self.on_differs = on_differs
        self.comparing: set[tuple[str, str]] = set()
        self.compared_at: dict[tuple[str, str], float] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.running: dict[tuple[str, str], Preparation] = {}
        self.known: dict[tuple[str, str], Files] = {}
        self.turn = asyncio.Semaphore(1)
        self.turn_to_compare = asyncio.Semaphore(1)
        # Threads that stay: a program ends with the thread that started it.
        self.threads = ThreadPoolExecutor(2, "prepare")
        self.lookers = ThreadPoolExecutor(2, "look")
        self.is_closing = False
        # Beside a train, programs compute with one thread.
        self.is_beside_a_train = False

    async def known_files(self, placement: Placement) -> Files | None:
        """Those of `placement` where all is made and nothing has changed since. Raises
        ServeProblem where the sources are gone."""
        marks = await self._look(source_marks, placement)
        files = self.known.get((placement.base_key, placement.adapter_key))
        if files is None or (files.base_mark, files.adapter_mark) != marks:
            return None

        is_there = await self._look(_are_there, files)
        return files if is_there else None

    async def files(self, placement: Placement, tell: Tell) -> Files:
        """Those of `placement`, made where they are not there. Raises ServeProblem."""
        if (files := await self.known_files(placement)) is not None:
            if files.note == NOT_COMPARED:
                self._compare_soon(placement)

            return files

        key = (placement.base_key, placement.adapter_key)
        preparation = self.running.get(key)
        if preparation is None:
            preparation = self.running[key] = Preparation()
            preparation.task = asyncio.create_task(self._prepare(placement, preparation))
            preparation.task.add_done_callback(partial(self._ended, key))

        preparation.listeners.add(tell)
        tell(preparation.words, preparation.progress)
        try:
            # It goes on when the one who asked leaves: the next one will want it.
            return await asyncio.shield(preparation.task)
        finally:
            preparation.listeners.discard(tell)

    def _ended(self, key: tuple[str, str], task: asyncio.Task[Files]) -> None:
        self.running.pop(key, None)
        # Where nobody waits any more, nobody else would look at it.
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("%s cannot be prepared: %s", "/".join(filter(None, key)), error)

    def close(self) -> None:
        self.is_closing = True
        for task in (*(running.task for running in self.running.values()), *self.tasks):
            task.cancel()

        self.threads.shutdown(wait=False, cancel_futures=True)

    async def _look(self, function: Callable[..., Any], *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.lookers, function, *arguments)

    async def _prepare(self, placement: Placement, preparation: Preparation) -> Files:
        marks = await self._look(source_marks, placement)
        # What is there waits for nobody else's preparation.
        files: Files | None = await self._look(self._prepared_before, placement, marks)
        if files is None:
            files = await self._make(placement, marks, preparation)

        self.known[placement.base_key, placement.adapter_key] = files
        if files.note == NOT_COMPARED:
            self._compare_soon(placement)

        return files

    async def _make(
        self, placement: Placement, marks: tuple[str, str], preparation: Preparation
    ) -> Files:
        loop = asyncio.get_running_loop()

        def tell(words: str, progress: float | None) -> None:
            loop.call_soon_threadsafe(preparation.tell, words, progress)

        async with self.turn:
            work = partial(self._work, placement, marks, tell)
            files: Files = await loop.run_in_executor(self.threads, work)

        return files

    # Whether the answers are the trained model's

    def _compare_soon(self, placement: Placement) -> None:
        if placement.adapter_path.endswith(GGUF):
            # An export, which was compared when it was made; its base was not.
            placement = replace(placement, adapter_key="", adapter_path="")

        key = (placement.base_key, placement.adapter_key)
        tried_at = self.compared_at.get(key)
        is_recent = tried_at is not None and time.monotonic() - tried_at < COMPARE_AGAIN_SECONDS
        if key in self.comparing or is_recent:
            return

        self.comparing.add(key)
        task = asyncio.create_task(self._compare(placement))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        task.add_done_callback(lambda _: self.comparing.discard(key))

    async def _compare(self, placement: Placement) -> None:
        key = (placement.base_key, placement.adapter_key)
        loop = asyncio.get_running_loop()
        await self._until_there_is_room(placement)
        async with self.turn_to_compare:
            # Another comparison may have taken it meanwhile.
            await self._until_there_is_room(placement)
            self.compared_at[key] = time.monotonic()
            try:
                why = await loop.run_in_executor(self.threads, self._difference, placement)
            except (ProgramProblem, OSError, ServeProblem) as error:
                # It stays as it is, with its note.
                logger.warning("%s cannot be compared: %s", "/".join(filter(None, key)), error)
                return

        if not why:
            self._note_remove(key)
            return

        logger.warning("%s: %s", "/".join(filter(None, key)), why)
        # The records say now what serves them.
        for known in list(self.known):
            if known == key or (known[0] == key[0] and not placement.adapter_key):
                del self.known[known]
        self.on_differs(placement, why)

    async def _until_there_is_room(self, placement: Placement) -> None:
        """The trained model is loaded in fp32: that must not take memory from answers and trains."""
        needed = COMPARE_SHARE * placement.size_bytes + COMPARE_BYTES
        is_small = placement.size_bytes <= SMALL_BYTES
        while memory_available() < needed or (self.is_beside_a_train and not is_small):
            await asyncio.sleep(COMPARE_LOOK_SECONDS)

    def _note_remove(self, key: tuple[str, str]) -> None:
        """It is compared; so are exported adapters on that base, which were when they were made."""
        for known, files in list(self.known.items()):
            is_export = known[0] == key[0] and not key[1] and self._is_export(files)
            if files.note == NOT_COMPARED and (known == key or is_export):
                self.known[known] = replace(files, note="")

    def _is_export(self, files: Files) -> bool:
        made_here = self.folder in Path(files.adapter).parents
        return files.adapter.endswith(GGUF) and not made_here

    def _difference(self, placement: Placement) -> str:
        """Compare the prepared files with the model that was trained, and write the result down.
        Returns how they differ, or nothing."""
        from engine.serving.order import TRANSFORMERS

        folder = self.folder / placement.base_key
        target = _adapter_file(placement, folder) if placement.adapter_key else None
        base = _base_file(placement, folder)
        path = (target or base).with_suffix(".json")
        mark = _record_mark(placement, source_marks(placement))
        record = record_read(path, mark)
        if record is None or record.is_compared:
            return ""

        adapter = ("--adapter", placement.adapter_path, "--gguf-adapter", str(target))
        done = self._run(
            "engine.serving.check",
            (str(base), "--base", placement.base_path, *(adapter if target is not None else ())),
            placement,
            "Comparing",
            idle_priority=True,
        )
        if done.get("passed"):
            record_write(path, replace(record, note="", is_compared=True))
            return ""

        failed = [check for check in done.get("checks", []) if not check.get("passed")]
        why = "; ".join(f"{check.get('name')}: {check.get('detail')}" for check in failed)
        note = DIFFERS.format(why=why)
        record_write(path, Record(mark, TRANSFORMERS, note, reason=note))
        return note

    # In a thread

    def _work(self, placement: Placement, marks: tuple[str, str], tell: Tell) -> Files:
        folder = self.folder / placement.base_key
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

        record = self._base(placement, marks[0], folder, tell)
        if placement.adapter_key:
            record = self._adapter(placement, record, marks, folder, tell)

        return self._files(placement, marks, record)

    def _prepared_before(self, placement: Placement, marks: tuple[str, str]) -> Files | None:
        """None where something is to be made. Raises ServeProblem."""
        folder = self.folder / placement.base_key
        record = self._base_record(placement, marks[0], folder)
        if record is not None and placement.adapter_key:
            record = self._adapter_record(placement, record, marks, folder)

        return self._files(placement, marks, record) if record is not None else None

    def _files(self, placement: Placement, marks: tuple[str, str], record: Record) -> Files:
        from engine.serving.order import LLAMA_CPP

        base_mark, adapter_mark = marks
        folder = self.folder / placement.base_key
        is_llama = record.backend == LLAMA_CPP
        base = _base_file(placement, folder) if is_llama else Path(placement.base_path)
        adapter = _adapter_file(placement, folder) if is_llama else Path(placement.adapter_path)

        return Files(
            backend=record.backend,
            base=str(base),
            base_mark=base_mark,
            adapter_key=placement.adapter_key,
            adapter=str(adapter) if placement.adapter_key else "",
            adapter_mark=adapter_mark,
            note=record.note,
            reason=record.reason,
            size_bytes=base.stat().st_size if base.is_file() else placement.size_bytes,
        )

    def _base_record(self, placement: Placement, mark: str, folder: Path) -> Record | None:
        """What serves the base; None where that is to be made or chosen."""
        from engine.serving.order import LLAMA_CPP

        if placement.base_path.endswith(GGUF):
            return Record(mark, LLAMA_CPP, reason="llama.cpp, since it is a GGUF file")

        record = record_read(folder / BASE_RECORD, mark)
        return _with_file(record, _base_file(placement, folder))

    def _base(self, placement: Placement, mark: str, folder: Path, tell: Tell) -> Record:
        """What serves the base, its file made."""
        from engine.serving.backends import backend_choose
        from engine.serving.order import LLAMA_CPP

        if (known := self._base_record(placement, mark, folder)) is not None:
            return known

        target = _base_file(placement, folder)
        backend, reason = backend_choose(Path(placement.base_path))
        record = Record(mark, backend, reason=reason)
        if backend == LLAMA_CPP:
            arguments = ("base", placement.base_path, str(target))
            record = self._made(record, placement, target, arguments, tell)
        elif not backend_is_best(backend):
            record = Record(mark, backend, f"Answered by {reason}.", reason)

        record_write(folder / BASE_RECORD, record)
        return record

    def _adapter_record(
        self, placement: Placement, base: Record, marks: tuple[str, str], folder: Path
    ) -> Record | None:
        """What serves the adapter on that base; None where it is to be made. Raises ServeProblem
        where nothing does."""
        from engine.serving.order import LLAMA_CPP

        mark = _record_mark(placement, marks)
        if placement.adapter_path.endswith(GGUF):
            if base.backend != LLAMA_CPP:
                raise ServeProblem(
                    f"An adapter as GGUF needs llama.cpp. {base.note}".strip(),
                    code="cannot_answer",
                    status=409,
                )

            return Record(mark, base.backend, base.note, base.reason)

        if base.backend != LLAMA_CPP:
            return Record(mark, base.backend, base.note, base.reason)

        target = _adapter_file(placement, folder)
        return _with_file(record_read(target.with_suffix(".json"), mark), target)

    def _adapter(
        self,
        placement: Placement,
        base: Record,
        marks: tuple[str, str],
        folder: Path,
        tell: Tell,
    ) -> Record:
        """What serves the adapter on that base, its file made. Raises ServeProblem."""
        from engine.serving.order import LLAMA_CPP

        known = self._adapter_record(placement, base, marks, folder)
        if known is not None:
            return known

        mark = _record_mark(placement, marks)
        target = _adapter_file(placement, folder)
        arguments = ("adapter", placement.adapter_path, "--base", placement.base_path, str(target))
        record = Record(mark, LLAMA_CPP, reason=base.reason)
        record = self._made(record, placement, target, arguments, tell)
        record_write(target.with_suffix(".json"), record)

        return record

    def _made(
        self,
        record: Record,
        placement: Placement,
        target: Path,
        arguments: tuple[str, ...],
        tell: Tell,
    ) -> Record:
        """The record of a file for llama.cpp that is written; where that is refused, of
        transformers in its place."""
        from engine.serving.order import TRANSFORMERS

        try:
            require_disk(placement.size_bytes if arguments[0] == "base" else 0)
        except UserError as error:
            raise ServeProblem(error.message, code=error.code, status=error.status) from error

        target.unlink(missing_ok=True)
        unfinished_remove(target.parent, target.stem)
        what = "adapter" if arguments[0] == "adapter" else "model"
        try:
            self._run("engine.serving.prepare", arguments, placement, f"Preparing the {what}", tell)
        except ProgramProblem as error:
            # Only what the converter says of the model itself is kept.
            if not isinstance(error, ProgramRefusal) or error.passing:
                raise ServeProblem(str(error), code="not_prepared") from error

            target.unlink(missing_ok=True)
            note = UNKNOWN.format(why=error)
            return Record(record.source, TRANSFORMERS, note, reason=note)

        return replace(record, note=NOT_COMPARED, is_compared=False)

    def _run(
        self,
        module: str,
        arguments: tuple[str, ...],
        placement: Placement,
        words: str,
        tell: Tell = lambda words, progress: None,
        idle_priority: bool = False,
    ) -> dict[str, Any]:
        tell(words, 0.0)
        has_one_thread = idle_priority or self.is_beside_a_train

        return program_run(
            module,
            *arguments,
            seconds=SECONDS + placement.size_bytes / BYTES_A_SECOND,
            memory_bytes=6 * 2**30 + 5 * placement.size_bytes,
            too_long="Preparing the model took too long.",
            work="Preparing the model",
            idle_priority=idle_priority,
            environment={"OMP_NUM_THREADS": "1"} if has_one_thread else None,
            on_report=lambda news: tell(words, float(news.get("progress", 0))),
            on_tick=self._check_closing,
        )

    def _check_closing(self) -> None:
        if self.is_closing:
            raise ProgramProblem("The gateway ends.", passing=True)


def unfinished_remove(folder: Path, stem: str = "*") -> None:
    """Remove what preparations of `stem` left that were killed."""
    for path in folder.glob(f".{stem}-*"):
        logger.info("removing what was left of a preparation: %s", path)
        shutil.rmtree(path, ignore_errors=True)


def backend_is_best(backend: str) -> bool:
    """Whether people need no note about that choice."""
    from engine.serving.order import VLLM

    return backend == VLLM


def _record_mark(placement: Placement, marks: tuple[str, str]) -> str:
    """Of what the record is kept for: an adapter on another base is another one."""
    base, adapter = marks
    if not placement.adapter_key:
        return base

    return hashlib.sha256(f"{base}\n{adapter}".encode()).hexdigest()


def _base_file(placement: Placement, folder: Path) -> Path:
    if placement.base_path.endswith(GGUF):
        return Path(placement.base_path)

    return folder / "base.gguf"


def _adapter_file(placement: Placement, folder: Path) -> Path:
    if placement.adapter_path.endswith(GGUF):
        return Path(placement.adapter_path)

    return folder / f"adapter-{placement.adapter_key}.gguf"


def _with_file(record: Record | None, target: Path) -> Record | None:
    """None as well where the file that it stands for is gone."""
    from engine.serving.order import LLAMA_CPP

    is_whole = record is not None and (record.backend != LLAMA_CPP or target.is_file())
    return record if is_whole else None


def _are_there(files: Files) -> bool:
    return all(Path(path).exists() for path in (files.base, files.adapter) if path)


def source_marks(placement: Placement) -> tuple[str, str]:
    """(mark of the base's files, mark of the adapter's, "" for none): they change with path, size
    or time of any of them. Raises ServeProblem where they are gone."""
    adapter = _mark(placement.adapter_path) if placement.adapter_path else ""
    return _mark(placement.base_path), adapter


def _mark(path: str) -> str:
    digest = hashlib.sha256(path.encode())
    try:
        source = Path(path)
        files = [source] if source.is_file() else sorted(source.iterdir())
        for file in files:
            if file.name.endswith(WEIGHTS_ENDINGS):
                status = file.stat()
                digest.update(f"\0{file.name}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    except OSError as error:
        raise ServeProblem(
            "The files of this model are gone.", code="cannot_answer", status=409
        ) from error

    return digest.hexdigest()


def record_read(path: Path, source: str) -> Record | None:
    """The record of what was made from `source`; None for none, and for one of other files."""
    with suppress(OSError, ValueError, TypeError):
        record = Record(**json.loads(path.read_text()))
        if record.source == source:
            return record

    return None


def record_write(path: Path, record: Record) -> None:
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(asdict(record)))
    unfinished.replace(path)


def serving_folder() -> Path:
    return settings.HOME / "serving"
