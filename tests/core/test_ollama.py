"""A model created in an Ollama, and each way in which what answers is no good."""

from __future__ import annotations

import json

import pytest

from core.errors import UserError
from core.ollama import ollama_create, ollama_name_clean
from core.programs import ProgramProblem
from engine.exporting.modelfile import MODELFILE, Modelfile
from tests.ollama_server import FakeOllama, running_ollama

pytestmark = pytest.mark.long

WRITTEN = Modelfile(
    model="tiny-F16.gguf",
    template="{{ if .System }}{{ .System }}{{ end }}{{ range .Messages }}{{ .Content }}{{ end }}",
    system='Be "brief".',
    stops=("<|im_end|>", "</s>"),
    parameters={"temperature": 0.5, "top_k": 20, "repeat_penalty": 1.0},
)


@pytest.fixture(autouse=True)
def programs_begin_at_once(warm_programs):
    pass


@pytest.fixture
def ollama(settings):
    with running_ollama() as running:
        settings.OLLAMA_URL = running.url
        yield running


@pytest.fixture
def folder(tmp_path):
    (tmp_path / WRITTEN.model).write_bytes(b"GGUF" + b"weights" * 400_000)
    (tmp_path / MODELFILE).write_text(WRITTEN.text())
    return tmp_path


def test_it_creates_the_model_and_says_how_far_it_is(ollama: FakeOllama, folder):
    reports = []
    assert ollama_create(folder, "tiny", on_report=reports.append) == {"model": "tiny"}

    created = ollama.models["tiny"]
    digest = created["files"]["tiny-F16.gguf"]
    assert ollama.blobs[digest] == (folder / WRITTEN.model).read_bytes()
    assert created["template"] == WRITTEN.template
    assert created["system"] == WRITTEN.system
    assert created["parameters"] == {
        "temperature": 0.5,
        "top_k": 20,
        "repeat_penalty": 1.0,
        "stop": ["<|im_end|>", "</s>"],
    }
    size = (folder / WRITTEN.model).stat().st_size
    assert {"bytes": size} in reports
    assert {"begun": True} in reports
    assert {"sent": size} in reports
    assert {"phase": "writing manifest"} in reports


def test_what_ollama_has_is_not_sent_again_and_not_overwritten_unasked(ollama, folder):
    ollama_create(folder, "tiny")
    with pytest.raises(ProgramProblem, match="has a model tiny already"):
        ollama_create(folder, "tiny")
    ollama.asked.clear()
    ollama_create(folder, "tiny", replace=True)
    assert not any(
        method == "POST" and path.startswith("/api/blobs") for method, path in ollama.asked
    )


def test_what_had_begun_before_is_made_once_more(ollama, folder):
    ollama_create(folder, "tiny")
    assert ollama_create(folder, "tiny", again=True) == {"model": "tiny"}
    assert ollama.asked.count(("POST", "/api/create")) == 2


WRONG = {
    "nonsense": "is no Ollama",
    "no models": "is no Ollama",
    "redirect": "redirect to another one, which is not followed",
    "refused": "refuses access",
    "bad blob": "did not take the model's file: digest mismatch",
    "error midway": "did not create the model: template error",
    "cut": "stopped before the model was there",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_each_wrong_answer_has_words_of_its_own(ollama, folder, wrong):
    ollama.wrong = wrong
    with running_ollama() as elsewhere:
        ollama.elsewhere = elsewhere.url
        with pytest.raises(ProgramProblem, match=WRONG[wrong]) as caught:
            ollama_create(folder, "tiny")
        assert elsewhere.asked == []
    assert ollama.url not in str(caught.value)
    assert ollama.models == {}


@pytest.mark.parametrize("wrong", ["silence", "drip"])
def test_a_slow_one_is_given_up(ollama, folder, monkeypatch, capsys, wrong):
    """In this process, whose limits can be changed."""
    from engine.programs import ollama as program

    monkeypatch.setattr(program, "ANSWER_SECONDS", 0.5)
    monkeypatch.setenv(program.URL, ollama.url)
    ollama.wrong = wrong
    code = program.main([str(folder), "tiny"])
    (last,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert code == 1
    assert "took too long" in last["error"]
    assert last["passing"]


def test_one_that_is_away_is_worth_another_try(folder, settings):
    settings.OLLAMA_URL = "http://127.0.0.1:9"
    with pytest.raises(ProgramProblem, match="cannot be reached") as caught:
        ollama_create(folder, "tiny")
    assert caught.value.passing


def test_none_that_is_set_up_is_told(folder, settings):
    settings.OLLAMA_URL = ""
    with pytest.raises(ProgramProblem, match="No Ollama is set up here"):
        ollama_create(folder, "tiny")


HARM = {
    "no Modelfile": lambda folder: (folder / MODELFILE).unlink(),
    "no template": lambda folder: (folder / MODELFILE).write_text("FROM ./tiny-F16.gguf\n"),
    "no model": lambda folder: (folder / WRITTEN.model).unlink(),
    "a model elsewhere": lambda folder: (folder / MODELFILE).write_text(
        WRITTEN.text().replace("./tiny", "../tiny")
    ),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_export_is_not_sent(ollama, folder, harm):
    HARM[harm](folder)
    with pytest.raises(ProgramProblem, match="Export anew"):
        ollama_create(folder, "tiny")
    assert ollama.asked == []


@pytest.mark.parametrize("name", ["tiny", "team/tiny:v2", " tiny-2.1 "])
def test_names_of_models(name):
    assert ollama_name_clean(name) == name.strip()


@pytest.mark.parametrize("name", ["", "Tiny Model", "../tiny", "a/b/c", "tiny:", "-tiny", "é"])
def test_what_is_no_name(name):
    with pytest.raises(UserError):
        ollama_name_clean(name)
