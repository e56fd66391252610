"""A folder for Ollama holds the model that was trained and says all that Ollama would guess; a
broken one fails its proof."""

import json
import shutil
from pathlib import Path

import pytest
from gguf import GGUFReader

from engine.exporting.__main__ import main
from engine.exporting.gguf import ADDS_BOS_KEY, gguf_file, gguf_write
from engine.exporting.modelfile import MODELFILE, Modelfile, modelfile_read
from engine.exporting.ollama import modelfile_write
from engine.exporting.request import ExportRequest
from engine.loading.architecture import Refused
from engine.merging.folder import MergeRequest, model_write
from engine.proof.exported import exported_prove
from engine.proof.exported import main as prove_export
from engine.proof.ollama import modelfile_checks
from engine.proof.prove import prove
from engine.proof.reference import reference_make, reference_read
from engine.proof.request import ProofRequest
from engine.publish.older import json_change
from tests.engine.gguf_files import bpe_model, sentencepiece_model
from tests.engine.runs import toy_pairs, train
from tests.tiny import CHAT_TEMPLATE

SYSTEM = 'Answer "briefly".\nAlways.'
LEARNED = {"max_steps": 60, "evaluation_split": 0.2, "sample_prompts": 4, "sample_max_tokens": 16}


class Trained:
    def __init__(self, folder: Path, base: Path, system: str) -> None:
        run = train(folder / "run", base, system_prompt=system, **LEARNED).directory
        self.model, self.reference = folder / "merged", folder / "reference.json"
        self.system = folder / "system.txt"
        self.system.write_text(system)
        model_write(MergeRequest(run), self.model, lambda share: None)
        prove(run, self.model, 0, lambda share: None, self.reference)

    def export(self, out: Path, quantization: str = "f16") -> Path:
        code = main(
            [
                "ollama",
                str(self.model),
                str(out),
                "--name",
                "Balls & skies",
                "--system-file",
                str(self.system),
                "--quantization",
                quantization,
            ]
        )
        assert code == 0
        return out

    def request(self, out: Path) -> ProofRequest:
        return ProofRequest(out, self.model, reference_read(self.reference))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    folder = tmp_path_factory.mktemp("ollama")
    return Trained(folder, bpe_model(folder / "base", "llama"), SYSTEM)


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory) -> Path:
    return trained.export(tmp_path_factory.mktemp("exported") / "out")


def failed(checks) -> set[str]:
    return {check.name for check in checks if not check.passed}


@pytest.mark.long
def test_it_says_all_that_ollama_would_guess(exported):
    modelfile = modelfile_read(exported / MODELFILE)
    assert modelfile.model == gguf_file(exported).name
    assert "<|im_start|>" in modelfile.template
    assert modelfile.system == SYSTEM
    assert "<|im_end|>" in modelfile.stops
    assert modelfile.parameters["repeat_penalty"] == 1.0
    card = (exported / "README.md").read_text()
    assert "ollama create balls-skies -f Modelfile" in card
    passport = json.loads((exported / "passport.json").read_text())
    assert passport["export"]["quantization"] == "f16"
    assert MODELFILE in passport["export"]["files_sha256"]


def test_it_is_the_trained_model(trained, exported):
    checks = exported_prove("ollama", trained.request(exported), lambda share: None)
    assert failed(checks) == set()
    assert {check.name for check in checks} >= {
        "Modelfile",
        "Same chat template in Ollama",
        "System prompt in Ollama",
        "End tokens in Ollama",
    }


@pytest.mark.parametrize("prompt", ["", SYSTEM, "Another."])
def test_the_system_prompt_is_the_one_that_was_to_be_written(
    trained, exported, tmp_path, monkeypatch, prompt
):
    """Whoever may not see the train's gets an export without it."""
    asked = []
    monkeypatch.setattr(
        "engine.proof.ollama.gguf_prove", lambda request, on_progress: asked.append(request) or []
    )
    out = Path(shutil.copytree(exported, tmp_path / "out"))
    modelfile_write(ExportRequest(trained.model, system_prompt=prompt), out)
    file = tmp_path / "system.txt"
    file.write_text(prompt)
    arguments = ["ollama", str(out), "--model", str(trained.model)]
    arguments += ["--reference", str(trained.reference)]
    assert prove_export([*arguments, "--system-file", str(file)]) == 0
    assert asked[0].reference.system_prompt == prompt
    assert (prove_export(arguments) == 0) == (prompt == SYSTEM)


@pytest.mark.long
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "mistral", "gemma"])
def test_it_is_the_model_in_other_families(tmp_path, family):
    """Models that were not trained here, and have no system prompt. Gemma's begins texts with a
    token that llama.cpp adds and the chat template writes."""
    if family == "gemma":
        model = sentencepiece_model(tmp_path / "model", family)
    else:
        model = bpe_model(tmp_path / "model", family)

    assert main(["ollama", str(model), str(tmp_path / "out")]) == 0
    request = ProofRequest(tmp_path / "out", model, reference_make(model))
    assert failed(modelfile_checks(request)) == set()


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A model with a beginning token and its GGUF file: folders model and out."""
    folder = tmp_path_factory.mktemp("begun")
    model = bpe_model(folder / "model", "llama")
    json_change(
        model / "tokenizer_config.json", lambda config: config | {"bos_token": "<|endoftext|>"}
    )
    (folder / "out").mkdir()
    gguf_write(ExportRequest(model), folder / "out", lambda share: None)
    return folder


def tell(file: Path, *, adds: bool) -> None:
    """Have llama.cpp add a beginning token to every text, or none."""
    reader = GGUFReader(file, "r+")
    field = reader.get_field(ADDS_BOS_KEY)
    field.parts[field.data[0]][0] = adds
    reader.data.flush()


BEGINNING = {
    "written and added": ("{{ bos_token }}" + CHAT_TEMPLATE, True),
    "written alone": ("{{ bos_token }}" + CHAT_TEMPLATE, False),
    "neither": (CHAT_TEMPLATE, False),
}


@pytest.mark.long
@pytest.mark.parametrize("case", BEGINNING)
def test_texts_begin_as_in_training(begun, tmp_path, case):
    template, adds = BEGINNING[case]
    model = Path(shutil.copytree(begun / "model", tmp_path / "model"))
    out = Path(shutil.copytree(begun / "out", tmp_path / "out"))
    (model / "chat_template.jinja").write_text(template)
    tell(gguf_file(out), adds=adds)

    assert modelfile_write(ExportRequest(model), out) == ""
    written = modelfile_read(out / MODELFILE).template
    assert ("<|endoftext|>" in written) == (case == "written alone")
    request = ProofRequest(out, model, reference_make(model))
    assert failed(modelfile_checks(request)) == set()


def test_a_beginning_that_was_not_trained_is_refused(begun, tmp_path):
    out = Path(shutil.copytree(begun / "out", tmp_path / "out"))
    tell(gguf_file(out), adds=True)
    with pytest.raises(Refused, match="writes a question otherwise"):
        modelfile_write(ExportRequest(begun / "model"), out)
    assert not (out / MODELFILE).exists()


def test_sampling_parameters_are_taken_over(trained, exported, tmp_path):
    shutil.copytree(trained.model, tmp_path / "model")
    json_change(
        tmp_path / "model" / "generation_config.json",
        lambda config: (
            config | {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.05}
        ),
    )
    shutil.copytree(exported, tmp_path / "out")
    modelfile_write(ExportRequest(tmp_path / "model"), tmp_path / "out")
    assert modelfile_read(tmp_path / "out" / MODELFILE).parameters == {
        "repeat_penalty": 1.05,
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20.0,
    }


def test_a_reward_model_is_of_no_use_to_ollama(tiny, tmp_path, capsys):
    run = train(
        tmp_path / "run",
        tiny,
        toy_pairs(),
        format="preference",
        recipe="reward",
        max_steps=3,
        evaluation_split=0.25,
    ).directory
    model_write(MergeRequest(run), tmp_path / "merged", lambda share: None)
    assert main(["ollama", str(tmp_path / "merged"), str(tmp_path / "out")]) == 1
    assert "reward model" in capsys.readouterr().out
    assert not list(tmp_path.glob("out*"))


def test_a_chat_template_that_ollama_cannot_say_is_refused_before_the_weights(
    trained, tmp_path, capsys
):
    shutil.copytree(trained.model, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text("{{ messages[-1].content }}")
    assert main(["ollama", str(tmp_path / "model"), str(tmp_path / "out")]) == 1
    assert "leaves out turns" in capsys.readouterr().out


def edit(change):
    def do(out: Path) -> None:
        before = modelfile_read(out / MODELFILE)
        (out / MODELFILE).write_text(Modelfile(**vars(before) | change(before)).text())

    return do


# What goes wrong, and the check that is about it.
WRONG = {
    "no Modelfile": (lambda out: (out / MODELFILE).unlink(), "Modelfile"),
    "another model": (edit(lambda before: {"model": "other.gguf"}), "Modelfile"),
    "another template": (
        edit(lambda before: {"template": before.template.replace("<|im_start|>", "")}),
        "Same chat template in Ollama",
    ),
    "somebody's template": (
        edit(lambda before: {"template": "{{ if .Tools }}x{{ end }}{{ .Prompt }}"}),
        "Same chat template in Ollama",
    ),
    "a beginning token": (
        edit(lambda before: {"template": "<|endoftext|>" + before.template}),
        "Same chat template in Ollama",
    ),
    "no system prompt": (edit(lambda before: {"system": ""}), "System prompt in Ollama"),
    "no end token": (edit(lambda before: {"stops": ()}), "End tokens in Ollama"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_goes_wrong_is_found(trained, exported, tmp_path, wrong):
    out = Path(shutil.copytree(exported, tmp_path / "out"))
    harm, check = WRONG[wrong]
    harm(out)
    assert failed(modelfile_checks(trained.request(out))) == {check}
