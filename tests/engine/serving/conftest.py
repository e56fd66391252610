"""One tiny model with an adapter and both as GGUF, and a server of each backend, for all tests of
serving."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.serving import transformers
from engine.serving.order import LLAMA_CPP, TRANSFORMERS
from engine.serving.prepare import adapter_prepare, base_prepare
from tests.engine.gguf_files import sentencepiece_model
from tests.engine.serving.servers import QUESTION, Server, ServerProcess, order_of

STEPS = 60
BASE_SAYS = "The sky is blue, the sea is green, and both are wide."
TUNED_SAYS = "Ask me about the rain: it falls all day on the town."


@dataclass(frozen=True)
class Served:
    """base, adapter: folders. file, adapter_file: the same as GGUF."""

    base: Path
    adapter: Path
    file: Path
    adapter_file: Path


def taught(model, base: Path, answer: str):
    """A model that has learned to say `answer`, so that what it writes hangs on no last digit."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    turns = [*QUESTION, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(turns, tokenize=False).rstrip()
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    ids = torch.cat([ids, torch.tensor([[tokenizer.eos_token_id]])], dim=1)

    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=0.01)
    for _ in range(STEPS):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def base_made(folder: Path) -> Path:
    sentencepiece_model(folder, "gemma2", query_pre_attn_scalar=8)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    taught(model, folder, BASE_SAYS).save_pretrained(folder)
    return folder


def adapter_made(base: Path, folder: Path) -> Path:
    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    taught(get_peft_model(model, config), base, TUNED_SAYS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def served(tmp_path_factory) -> Served:
    folder = tmp_path_factory.mktemp("serving")
    base = base_made(folder / "base")
    adapter = adapter_made(base, folder / "adapter")
    found = Served(base, adapter, folder / "base.gguf", folder / "adapter.gguf")
    base_prepare(base, found.file, lambda share: None)
    adapter_prepare(adapter, base, found.adapter_file, lambda share: None)
    return found


@pytest.fixture(scope="session")
def llama_cpp(served: Served) -> Iterator[Server]:
    process = ServerProcess(order_of(LLAMA_CPP, served.file, served.adapter_file))
    yield Server(process.ready, LLAMA_CPP)
    assert process.end() == 0


@pytest.fixture(scope="session")
def by_transformers(served: Served) -> Server:
    """Within this process, which has imported everything."""
    ready = transformers.start(order_of(TRANSFORMERS, served.base, served.adapter))
    return Server(ready, TRANSFORMERS)


@pytest.fixture(params=[LLAMA_CPP, TRANSFORMERS])
def server(request) -> Server:
    name = "llama_cpp" if request.param == LLAMA_CPP else "by_transformers"
    found = request.getfixturevalue(name)
    assert isinstance(found, Server)
    return found
