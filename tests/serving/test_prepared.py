"""What is written down of a preparation, and when others have to wait for it. The programs that
prepare and compare are stand-ins."""

import asyncio

import pytest

from core.programs import ProgramKilled, ProgramProblem, ProgramRefusal, TimeLimitReached
from engine.serving import backends
from engine.serving.order import LLAMA_CPP, TRANSFORMERS
from serving.gateway import leftovers, prepared
from serving.gateway.leftovers import leftovers_remove
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
        with open(target, "w") as file:
            file.write("GGUF")
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
    monkeypatch.setattr(leftovers, "serving_folder", lambda: folder)
    monkeypatch.setattr(leftovers, "keys_gone", lambda keys: {})
    leftovers_remove({"model-1"} if is_used else set())
    assert left.exists() == is_used
