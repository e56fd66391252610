"""llama.cpp, by its own converter and its own loader, with a real model: SmolLM2-135M. A minute or
two; `make interoperability` runs it.
"""

import pytest

from engine.exporting.converter import convert
from engine.models.llama_cpp import ADAPTER_PROGRAM, MODEL_PROGRAM
from engine.programs.convert import gguf_convert
from engine.proof.llama_cpp import LlamaQuestions, llama_ask
from models_app.management.commands.smollm2_install import package_file
from tests.engine.runs import toy_rows, train
from tests.interoperability import reader

pytestmark = pytest.mark.long

QUESTIONS = ["Ball 7?", "What is the capital of France?", "Name three colours."]
NEW = 16


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


def converted(program, folder, out, *more):
    """To fp32, so that nothing is rounded."""
    arguments = [str(folder), "--outfile", str(out), "--outtype", "f32", *more]
    convert(program, arguments, lambda share: None)
    return out


def asked(folder):
    tokenizer = reader.AutoTokenizer.from_pretrained(folder)
    turns = ([{"role": "user", "content": text}] for text in QUESTIONS)
    texts = [
        tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        for turn in turns
    ]
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def llama_answers(prompts, file, adapter=""):
    references = [[] for _ in prompts]
    asked = LlamaQuestions(str(file), str(adapter), [], [], prompts, NEW, references, [])
    return llama_ask(asked).answers


def test_a_full_model_answers_there_as_here(older, trained, tmp_path):
    folder = trained("none")
    prompts = asked(folder)
    file = converted(MODEL_PROGRAM, folder, tmp_path / "model.gguf")
    here = reader.answers(str(folder), prompts, new=NEW)
    assert llama_answers(prompts, file) == here
    assert older.ask("answers", folder=str(folder), prompts=prompts, new=NEW) == here


def test_an_adapter_answers_there_as_here(older, smollm2, trained, tmp_path):
    folder = trained("lora")
    prompts = asked(folder)
    base = converted(MODEL_PROGRAM, smollm2, tmp_path / "base.gguf")
    out = tmp_path / "adapter.gguf"
    adapter = converted(ADAPTER_PROGRAM, folder, out, "--base", str(smollm2))
    here = reader.answers(str(folder), prompts, str(smollm2), new=NEW)
    assert reader.answers(str(smollm2), prompts, new=NEW) != here, "else nothing was learned"
    assert llama_answers(prompts, base, adapter) == here
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
