"""What each method saves, loaded by transformers 4.57 with the peft of its time: the same tokens,
numbers and answers as with the platform's own versions.
"""

import json

import pytest

from engine.contract.rundir import HubModel, Resource, file_sha256
from engine.models.inspect import TOKENIZER_FILES
from tests.engine.runs import toy_pairs, toy_rows, train
from tests.hub_server import COMMIT, running_hub
from tests.interoperability import reader
from tests.interoperability.environments import ALL, Reader
from tests.tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.long

LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONG_CONTEXT = {"rope_theta": 500_000.0, "rope_scaling": LLAMA_3}

# Bases as hubs have them, {name: (model type, values, written by which transformers)}.
BASES = {
    "llama of 4": ("llama", LONG_CONTEXT | {"tie_word_embeddings": True}, 4),
    "llama of 5": ("llama", {"rope_parameters": LLAMA_3 | {"rope_theta": 500_000.0}}, 5),
    "qwen3 of 4": ("qwen3", {"rope_theta": 1_000_000.0}, 4),
    "gemma3 of 4": ("gemma3_text", {"rope_theta": 50_000.0, "rope_local_base_freq": 500.0}, 4),
}
TEXTS = ["<|im_start|>user\nBall 3?<|im_end|>\n", "  Zoë says:\n\n\t1 + 1 = 2", "<|endoftext|>x"]

REWARD = """\
def reward(prompts, completions, references, rows, **parameters):
    return [1.0 * len(text) for text in completions]
"""
LEARN = {"max_steps": 20, "learning_rate": 0.01, "batch_size": 8}
WRITE = {
    "max_steps": 2,
    "learning_rate": 0.003,
    "batch_size": 8,
    "max_prompt_tokens": 64,
    "max_completion_tokens": 16,
}
METHODS = {
    "sft": LEARN,
    "dpo": LEARN | {"rows": toy_pairs(), "format": "preference"},
    "kto": LEARN
    | {
        "format": "kto",
        "rows": [
            {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
            for pair in toy_pairs()
            for side in ("chosen", "rejected")
        ],
    },
    "reward": LEARN | {"rows": toy_pairs(), "format": "preference"},
    "grpo": WRITE | {"num_generations": 8, "rewards": [{"function": "custom:mine"}]},
    "ppo": WRITE | {"rewards": [{"function": "custom:mine"}]},
}


@pytest.fixture(scope="module")
def base(older, tmp_path_factory):
    """Makes the base model of a name, once."""
    made = {}

    def make(name):
        if name not in made:
            kind, given, version = BASES[name]
            folder = tmp_path_factory.mktemp("bases") / kind
            texts = tmp_path_factory.mktemp("tokenizers")
            tiny_tokenizer(texts)
            ask = older.ask if version == 4 else lambda task, **rest: getattr(reader, task)(**rest)
            assert (
                ask("model_make", kind=kind, folder=str(folder), given=given, tokenizer=str(texts))
                == ""
            )
            made[name] = folder
        return made[name]

    return make


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """model/ of a train, made once: (method, adapter or not, name of the base)."""
    made = {}

    def make(method, adapter, name, **more):
        key = (method, adapter, name, *sorted(more))
        if key not in made:
            directory = tmp_path_factory.mktemp("runs") / method
            given = {"recipe": method, "adapter": adapter} | METHODS[method] | more
            if "rewards" in given:
                file = directory.with_suffix(".py")
                file.write_text(REWARD)
                given["resources"] = {
                    "reward_function:mine": Resource(str(file), file_sha256(file))
                }
            done = train(directory, base(name), given.pop("rows", toy_rows(48)), **given)
            assert done.code == 0, done.last
            made[key] = done.directory / "model"
        return made[key]

    return make


def both(older, task, **given):
    return older.ask(task, **given), getattr(reader, task)(**given)


def close(found, wanted):
    return {
        "logits": pytest.approx(wanted["logits"], abs=1e-4),
        "odd": [],
        "dtype": wanted["dtype"],
    } == found


FEW = [
    ("sft", "llama of 4", "lora"),
    ("sft", "llama of 4", "none"),
    ("reward", "llama of 4", "lora"),
    ("sft", "llama of 5", "none"),
]
MANY = [(method, "llama of 4", adapter) for method in METHODS for adapter in ("lora", "none")]
# 4.57 itself cannot read a base model that 5 wrote, and so no adapter of it.
MANY += [("sft", name, "none") for name in BASES if name != "llama of 4"]
MANY += [
    ("sft", name, "lora")
    for name, (_, _, version) in BASES.items()
    if version == 4 and name != "llama of 4"
]


@pytest.mark.parametrize(("method", "name", "adapter"), MANY if ALL else FEW)
def test_it_answers_there_as_here(older, base, trained, method, name, adapter):
    folder = trained(method, adapter, name)
    given = {"folder": str(folder), "base": str(base(name)) if adapter == "lora" else ""}

    there, here = both(older, "tokens", folder=str(folder), texts=TEXTS)
    assert there == here
    assert here == reader.tokens(str(base(name)), TEXTS)

    scorer = {"scorer": True} if method == "reward" else {}
    there, here = both(older, "logits", ids=here["asked_ids"], **given, **scorer)
    assert close(there, here)
    if method != "reward":
        prompts = [reader.tokens(str(folder), [])["asked_ids"], list(range(5, 25))]
        there, here = both(older, "answers", prompts=prompts, **given)
        assert there == here


def test_the_answers_are_what_was_learned(older, trained):
    """Else two models that say nothing would agree."""
    folder = str(trained("sft", "none", "llama of 4", max_steps=80))
    asked = older.ask("tokens", folder=folder, texts=[])["asked_ids"]
    (answer,) = older.ask("answers", folder=folder, prompts=[asked])
    assert reader.AutoTokenizer.from_pretrained(folder).decode(answer).startswith("It is ")
    assert answer[-1] == 2, "it stops at the end token"
    assert len(answer) < 24


@pytest.mark.parametrize("method", ["sft", "reward"])
@pytest.mark.parametrize(
    "name", [name for name, (_, _, version) in BASES.items() if version == 4][: None if ALL else 1]
)
def test_the_config_is_the_bases_own_but_for_what_was_changed(older, base, trained, method, name):
    folder = trained(method, "none", name)
    before, after = older.ask("configs_read", folders=[base(name), folder])
    changed = {key for key in before if before[key] != after.get(key)}
    scorer = {"architectures", "id2label", "label2id"} if method == "reward" else set()
    assert changed == scorer
    assert after["architectures"][0].endswith(
        "ForSequenceClassification" if scorer else "ForCausalLM"
    )
    written = json.loads((folder / "config.json").read_text())
    assert written["dtype"] == written["torch_dtype"] == "float32"
    assert written.get("use_cache", True), "a setting of the train"


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_tokenizer_files_that_4_wrote_stay_as_they_are(base, trained, adapter):
    folder, before = trained("sft", adapter, "llama of 4"), base("llama of 4")
    names = {name for name in TOKENIZER_FILES if (before / name).exists()}
    assert names >= {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
    }
    assert {name for name in TOKENIZER_FILES if (folder / name).exists()} == names
    assert [
        name for name in names if (folder / name).read_bytes() != (before / name).read_bytes()
    ] == []


def test_generation_settings_of_the_base_stay_and_the_learned_ends_are_added(older, base, tmp_path):
    """Also those that transformers refuses to write: a temperature beside do_sample=false."""
    folder = tiny_model(tmp_path / "base")
    settings = {
        "do_sample": False,
        "temperature": 0.6,
        "top_p": 0.9,
        "eos_token_id": 0,
        "pad_token_id": 1,
    }
    (folder / "generation_config.json").write_text(json.dumps(settings))
    for adapter in ("lora", "none"):
        done = train(tmp_path / adapter, folder, adapter=adapter, max_steps=1)
        assert done.code == 0, done.last
        there = older.ask("generation_settings", folder=str(done.directory / "model"))
        kept = {key: there[key] for key in ("do_sample", "temperature", "top_p")}
        assert kept == {"do_sample": False, "temperature": 0.6, "top_p": 0.9}
        assert there["eos_token_id"] == [0, 2]


def test_a_template_that_was_given_here_is_known_there(older, tmp_path):
    """Of a base without one; of several the default; each without a change to
    tokenizer_config.json.
    """
    for name in ("none", "several"):
        folder = tiny_model(tmp_path / name, chat_template=None)
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
        for key in ("backend", "is_local", "local_files_only"):
            config.pop(key, None)
        if name == "several":
            parts = {
                "default": "{{ 'D' + messages[0].content }}",
                "tool_use": "{{ 'T' + messages[0].content }}",
            }
            config["chat_template"] = [
                {"name": key, "template": text} for key, text in parts.items()
            ]
        path.write_text(json.dumps(config))
        before = path.read_bytes()
        done = train(
            tmp_path / f"run {name}", folder, adapter="lora", max_steps=1, answers_only=False
        )
        assert done.code == 0, done.last
        saved = done.directory / "model"
        there, here = both(older, "tokens", folder=str(saved), texts=TEXTS)
        assert there == here
        assert here["asked"] == (
            "DBall 7?" if name == "several" else "### Question:\nBall 7?\n\n### Answer:\n"
        )
        assert (saved / "tokenizer_config.json").read_bytes() == before


@pytest.mark.parametrize("adapter", ["lora", "none"])
@pytest.mark.parametrize("method", METHODS if ALL else ["sft"])
def test_no_path_of_this_machine_is_in_any_file(base, trained, method, adapter):
    folder = trained(method, adapter, "llama of 4")
    ours = [str(folder.parents[2]), str(base("llama of 4")), "/pytest-"]
    texts = {
        path.name: path.read_text()
        for path in folder.rglob("*")
        if path.suffix in (".json", ".md", ".jinja")
    }
    assert [(name, path) for name, text in texts.items() for path in ours if path in text] == []


def test_weights_that_are_no_part_of_the_model_lie_apart(trained):
    """Readers such as vLLM take every safetensors file beside config.json for weights of the
    model."""
    folder = trained("ppo", "none", "llama of 4")
    assert [path.name for path in folder.glob("*.safetensors")] == ["model.safetensors"]
    assert (folder / "beside" / "value_head.safetensors").is_file()


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_written_type_is_that_of_the_weights(older, base, tmp_path, precision):
    folder = base("llama of 4")
    done = train(tmp_path / "run", folder, adapter="none", max_steps=1, precision=precision)
    written = json.loads((done.directory / "model" / "config.json").read_text())
    name = {"bf16": "bfloat16", "fp32": "float32"}[precision]
    assert (written["dtype"], written["torch_dtype"]) == (name, name)
    (there,) = older.ask("configs_read", folders=[done.directory / "model"])
    assert there["dtype"] == name


@pytest.mark.parametrize("adapter", ["lora", "none"])
@pytest.mark.parametrize("method", ["sft", "reward"])
def test_the_cards_code_runs_there_and_here(older, base, trained, method, adapter):
    folder = str(
        trained(method, adapter, "llama of 4", system_prompt='Say "no" to `ticks` \\ and\nmore.')
    )
    given = {"base": str(base("llama of 4"))} if adapter == "lora" else {}
    there, here = both(older, "card_run", folder=folder, **given)
    assert here.strip()
    if method == "reward":
        assert float(there) == pytest.approx(float(here), abs=1e-4)
    else:
        assert there == here


def test_an_adapters_answers_stop_by_the_cards_code(older, tmp_path):
    """Also of a base model that stops elsewhere: the learned end lies beside the adapter."""
    folder = tiny_model(tmp_path / "base")
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": 0, "pad_token_id": 0})
    )
    done = train(
        tmp_path / "run",
        folder,
        toy_rows(48),
        adapter="lora",
        lora_rank=16,
        **LEARN | {"max_steps": 150},
    )
    printed = reader.card_run(str(done.directory / "model"), str(folder))
    assert len(printed) < 100, "two hundred tokens"


def test_the_cards_code_of_a_text_model_runs(trained):
    folder = trained(
        "sft", "none", "llama of 4", format="text", rows=[{"text": f"Ball {n}."} for n in range(24)]
    )
    assert reader.card_run(str(folder)).strip()


def test_an_adapter_names_its_base_on_the_hub(base, trained, monkeypatch):
    """By id and commit; `make interoperability` also runs the card's code as it stands, against a
    hub.
    """
    source = HubModel("acme/tiny-llama", COMMIT)
    folder = trained("sft", "lora", "llama of 4", base_model_source=source)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("acme/tiny-llama", COMMIT)
    card = (folder / "README.md").read_text()
    assert 'base_model: "acme/tiny-llama"' in card
    assert "base_path" not in card

    if not ALL:
        return
    with running_hub() as hub:
        hub.repositories["acme/tiny-llama"] = base("llama of 4")
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(folder.parent / "hub"))
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.delenv("HF_HUB_OFFLINE")
        with Reader(folder.parent) as elsewhere:
            assert elsewhere.ask("card_run", folder=str(folder)).strip()
    assert any(path.endswith("model.safetensors") for path, _ in hub.asked)


def test_without_a_hub_the_card_says_what_to_put_in(trained):
    folder = trained("sft", "lora", "llama of 4")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("Tiny", None)
    card = (folder / "README.md").read_text()
    assert "in `base_path` put the folder" in card
    assert "base_model:" not in card, "hubs refuse a name that is none of theirs"
