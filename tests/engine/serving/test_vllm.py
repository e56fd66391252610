"""What vLLM would be told; there is no GPU to run it."""

import json

import pytest

from engine.loading.architecture import Refused
from engine.serving import vllm
from engine.serving.endpoints import listen
from engine.serving.order import VLLM, Adapter, Ready, ServeOrder
from engine.serving.variants import Variants
from tests.engine.serving.servers import TUNED, Server, order_of

# One process makes the models.
pytestmark = pytest.mark.xdist_group("serving")


@pytest.fixture
def adapter(tmp_path):
    def made(name: str, rank: int, **more: object) -> Adapter:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({"r": rank} | more))
        return Adapter(name, str(folder))

    return made


def test_its_arguments_name_every_adapter(served, adapter):
    adapters = [adapter("train-1", 16), adapter("train-2-step-5", 8, rank_pattern={"q_proj": 40})]
    order = ServeOrder(VLLM, str(served.base), adapters, context=256, parallel=3)
    arguments = vllm.arguments_of(order, 8123, "hermes")
    text = " ".join(arguments)
    assert arguments[:2] == ["serve", str(served.base)]
    assert "--max-lora-rank 64 --lora-modules " in text
    assert arguments[-2:] == [f"{each.key}={each.path}" for each in adapters]
    assert "--host 127.0.0.1 --port 8123" in text
    assert "--max-model-len 256 --max-num-seqs 3" in text
    assert "--tool-call-parser hermes" in text

    plain = vllm.arguments_of(ServeOrder(VLLM, str(served.base)), 8123, "")
    assert "--enable-lora" not in plain
    assert "--enable-auto-tool-choice" not in plain
    assert plain[plain.index("--max-model-len") + 1] == "512"


@pytest.mark.parametrize(("rank", "taken"), [(1, 8), (8, 8), (9, 16), (300, 320), (512, 512)])
def test_the_rank_is_the_least_that_fits(adapter, rank, taken):
    assert vllm.rank_of([adapter("a", rank)]) == taken


def test_too_large_a_rank_is_refused(adapter):
    with pytest.raises(Refused, match="rank 512"):
        vllm.rank_of([adapter("a", 513)])


def test_the_doors_in_front_of_it_pass_answers_on(served, by_transformers: Server):
    """With another server in vLLM's place, which knows the same requests."""
    order = order_of(VLLM, served.base, served.adapter)
    variants = Variants.load(served.base, order.adapters)
    upstream = by_transformers.ready
    front = vllm.Front(variants, "key", upstream.url, upstream.key)
    ready = Ready(listen(front.application()), "key", 512, {"": {}, TUNED: {}}, [])
    server = Server(ready, VLLM)

    assert server.text() == by_transformers.text()
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
    assert len(server.events(body)) >= 2
    assert server.refused("/v1/chat/completions", {"messages": []})[0] == 400
    assert server.refused("/v1/chat/completions", body, bearer="x")[0] == 401
    found = [each.post("/tokenize", {"content": "sky"}) for each in (server, by_transformers)]
    assert found[0] == found[1]
