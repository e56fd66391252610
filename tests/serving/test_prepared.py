"""What is written down of a preparation, and when others have to wait for it. The programs that
prepare and compare are stand-ins."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from core.programs import ProgramKilled, ProgramProblem, ProgramRefusal, TimeLimitReached
from engine.serving import backends
from engine.serving.order import LLAMA_CPP, TRANSFORMERS
from serving.gateway import cleanup, prepared
from serving.gateway.cleanup import leftovers_remove
from serving.gateway.prepared import Preparations
from serving.gateway.problems import ServeProblem
from serving.targets import Placement

FULL = ProgramRefusal("The disk is full.", passing=True)


@pytest.fixture(autouse=True)
def llama_cpp(monkeypatch):
    monkeypatch.setattr(backends, "backend_choose", lambda folder: (LLAMA_CPP, "llama.cpp"))
    monkeypatch.setattr(prepared, "require_disk", lambda size: None)


@pytest.fixture
def placement(tmp_path) -> Placement:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return Placement("model-1", str(folder), size_bytes=1)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "serving"


def programs_are(monkeypatch, prepare=None, check=None):
    """prepare, check: called with the arguments of these programs."""

    def run(module, *arguments, **more):
        if module.endswith("check"):
            return check() if check is not None else {"passed": True}
        if prepare is not None:
            prepare()
        target = next(name for name in arguments if name.endswith(".gguf"))
        Path(target).write_text("GGUF")
        return {}

    monkeypatch.setattr(prepared, "program_run", run)


def fail(problem):
    def raises():
        raise problem

    return raises


def differs(placement, why):
    raise AssertionError(why)


async def files_once(folder, placement):
    preparations = Preparations(folder, differs)
    try:
        return await preparations.files(placement, lambda *news: None)
    finally:
        preparations.close()


@pytest.mark.parametrize(
    "problem",
    [FULL, ProgramKilled("Killed."), TimeLimitReached("Too long."), ProgramProblem("It crashed.")],
    ids=lambda problem: type(problem).__name__,
)
def test_what_may_go_well_later_is_tried_again(folder, placement, monkeypatch, problem):
    programs_are(monkeypatch, fail(problem))
    with pytest.raises(ServeProblem) as caught:
        asyncio.run(files_once(folder, placement))
    assert caught.value.code == "not_prepared"

    programs_are(monkeypatch)
    assert asyncio.run(files_once(folder, placement)).backend == LLAMA_CPP


def test_what_the_converter_refuses_is_not_tried_again(folder, placement, monkeypatch):
    programs_are(monkeypatch, fail(ProgramRefusal("It is unknown.")))
    assert asyncio.run(files_once(folder, placement)).backend == TRANSFORMERS

    programs_are(monkeypatch, fail(AssertionError("again")))
    files = asyncio.run(files_once(folder, placement))
    assert files.backend == TRANSFORMERS
    assert "It is unknown." in files.note


def unfinished(folder, name):
    left = folder / "model-1" / name
    left.mkdir(parents=True)
    (left / "converted.gguf").write_text("half")
    return left


def test_what_a_killed_preparation_left_goes_with_the_next(folder, placement, monkeypatch):
    left = unfinished(folder, ".base-abc")
    programs_are(monkeypatch)
    asyncio.run(files_once(folder, placement))
    assert not left.exists()


@pytest.mark.parametrize("is_used", [False, True])
def test_what_killed_preparations_left_is_cleaned_up(folder, monkeypatch, is_used):
    left = unfinished(folder, ".adapter-train-1-abc")
    monkeypatch.setattr(cleanup, "serving_folder", lambda: folder)
    monkeypatch.setattr(cleanup, "keys_gone", lambda keys: {})
    leftovers_remove({"model-1"} if is_used else set())
    assert left.exists() == is_used


def test_what_is_prepared_waits_for_no_other_preparation(folder, placement, monkeypatch):
    programs_are(monkeypatch)
    asyncio.run(files_once(folder, placement))

    async def behind_another():
        preparations = Preparations(folder, differs)
        # As long as another model is being prepared.
        async with preparations.turn, asyncio.timeout(10):
            return await preparations.files(placement, lambda *news: None)

    assert asyncio.run(behind_another()).backend == LLAMA_CPP


async def until(holds):
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("is_train", [False, True])
def test_a_comparison_waits_until_there_is_room(folder, placement, monkeypatch, is_train):
    free = [1 << 40 if is_train else 1 << 20]
    compared = []

    def check():
        compared.append(1)
        return {"passed": True}

    programs_are(monkeypatch, check=check)
    monkeypatch.setattr(prepared, "memory_available", lambda: free[0])
    monkeypatch.setattr(prepared, "COMPARE_LOOK_SECONDS", 0.01)
    large = replace(placement, size_bytes=prepared.SMALL_BYTES + 1)

    async def wait():
        preparations = Preparations(folder, differs)
        preparations.is_beside_a_train = is_train
        files = await preparations.files(large, lambda *news: None)
        await asyncio.sleep(0.1)
        before, note = list(compared), files.note

        free[0] = 1 << 40
        preparations.is_beside_a_train = False
        await until(lambda: not preparations.comparing)
        after = await preparations.files(large, lambda *news: None)
        preparations.close()
        return before, note, after.note

    assert asyncio.run(wait()) == ([], prepared.NOT_COMPARED, "")
    assert compared == [1]


def test_a_comparison_that_failed_is_made_again_when_somebody_asks(folder, placement, monkeypatch):
    results = [fail(ProgramKilled("Killed.")), lambda: {"passed": True}]
    programs_are(monkeypatch, check=lambda: results.pop(0)())
    monkeypatch.setattr(prepared, "COMPARE_AGAIN_SECONDS", 0)

    async def ask_again():
        preparations = Preparations(folder, differs)
        notes = []
        for _ in range(3):
            files = await preparations.files(placement, lambda *news: None)
            notes.append(files.note)
            await until(lambda: not preparations.comparing)
        preparations.close()
        return notes

    assert asyncio.run(ask_again()) == [prepared.NOT_COMPARED, prepared.NOT_COMPARED, ""]


def test_an_exported_adapter_has_no_note_once_its_base_is_compared(folder, placement, monkeypatch):
    programs_are(monkeypatch)
    adapter = folder.parent / "exported.gguf"
    adapter.write_text("GGUF")
    exported = replace(placement, adapter_key="export-1", adapter_path=str(adapter))

    async def ask_twice():
        preparations = Preparations(folder, differs)
        first = await preparations.files(exported, lambda *news: None)
        await until(lambda: not preparations.comparing)
        second = await preparations.files(exported, lambda *news: None)
        preparations.close()
        return first.note, second.note

    assert asyncio.run(ask_twice()) == (prepared.NOT_COMPARED, "")
