"""A merged model is the base model with its adapter, whatever family, kind of adapter and number
type."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from engine.contract.rundir import file_sha256, read_spec
from engine.loading.architecture import Refused
from engine.merging.folder import MergeRequest, bytes_needed, model_write
from engine.models.inspect import folder_digest, folder_read
from engine.publish.older import json_change
from tests.engine.runs import toy_pairs, train
from tests.families.maker import family_model
from tests.tiny import tiny_model
from tests.warm import Warm

ROOT = Path(__file__).resolve().parents[2]
SHORT = {"max_steps": 3, "evaluation_split": 0.2, "sample_prompts": 2, "sample_max_tokens": 8}
TEXT = "What colour is the sky? Ball 7 is red."


def merge(run: Path, out: Path, **wanted) -> Path:
    model_write(MergeRequest(run, **wanted), out, lambda share: None)
    return out


def logits(model, tokenizer) -> torch.Tensor:
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits.float()


def trained_logits(
    run: Path, adapter: Path | None = None, *, kind=AutoModelForCausalLM, **options
) -> torch.Tensor:
    """What plain peft computes in fp32 with the adapter beside the base model."""
    base = read_spec(run).base_model_path
    model = kind.from_pretrained(base, dtype=torch.float32, **options)
    return logits(
        PeftModel.from_pretrained(model, adapter or run / "model"),
        AutoTokenizer.from_pretrained(base),
    )


def merged_logits(folder: Path, *, kind=AutoModelForCausalLM) -> torch.Tensor:
    model, report = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(
        report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")
    ), report
    return logits(model, AutoTokenizer.from_pretrained(folder))


# Families whose files and layers are alike, transposed ones (gpt2), ones with other prefixes, and
# one whose experts lie one by one in its files and are one block in memory.
FAMILIES = (
    "qwen2",
    "qwen3",
    "mistral",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "opt",
    "falcon",
    "phi3",
)
ADAPTERS = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "two layers": {"target_modules": ["q_proj", "down_proj"]},
}


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_base_model_with_its_adapter_in_every_family(tmp_path, family):
    run = train(tmp_path / "run", family_model(tmp_path / "base", family), **SHORT).directory
    out = merge(run, tmp_path / "out")
    torch.testing.assert_close(merged_logits(out), trained_logits(run), atol=1e-4, rtol=1e-4)
    folder_read(out)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_it_is_the_base_model_with_every_kind_of_adapter(tiny, tmp_path, adapter):
    run = train(tmp_path / "run", tiny, **SHORT | ADAPTERS[adapter]).directory
    torch.testing.assert_close(
        merged_logits(merge(run, tmp_path / "out")), trained_logits(run), atol=1e-4, rtol=1e-4
    )


def test_experts_are_merged_in_memory(tmp_path):
    base = family_model(tmp_path / "base", "mixtral")
    run = train(
        tmp_path / "run", base, **SHORT | {"target_modules": ["q_proj", "w1", "w2", "w3"]}
    ).directory
    torch.testing.assert_close(
        merged_logits(merge(run, tmp_path / "out")), trained_logits(run), atol=1e-4, rtol=1e-4
    )


def test_an_adapter_on_a_table_that_is_first_and_last_layer_is_refused(tmp_path):
    """No method of ours makes one; a custom program may."""
    base = tiny_model(tmp_path / "base", "gemma")
    run = train(tmp_path / "run", base, **SHORT).directory
    shutil.rmtree(run / "model")
    model = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, LoraConfig(r=2, target_modules=["embed_tokens"])).save_pretrained(
        run / "model"
    )
    with pytest.raises(Refused, match="both as its first and as its last layer"):
        merge(run, tmp_path / "out")


def test_a_reward_model_keeps_its_head(tiny, tmp_path):
    run = train(
        tmp_path / "run",
        tiny,
        toy_pairs(),
        format="preference",
        recipe="reward",
        max_steps=3,
        evaluation_split=0.25,
    ).directory
    out = merge(run, tmp_path / "out")
    kind = AutoModelForSequenceClassification
    tokenizer = AutoTokenizer.from_pretrained(out)
    expected = trained_logits(run, kind=kind, num_labels=1, pad_token_id=tokenizer.pad_token_id)
    torch.testing.assert_close(merged_logits(out, kind=kind), expected, atol=1e-4, rtol=1e-4)


def test_a_checkpoint_is_merged_as_it_was(tiny, tmp_path):
    run = train(
        tmp_path / "run", tiny, **SHORT | {"save_strategy": "steps", "save_every": 1}
    ).directory
    checkpoint = run / "checkpoints" / "checkpoint-2"
    out = merge(run, tmp_path / "out", step=2)
    torch.testing.assert_close(
        merged_logits(out), trained_logits(run, checkpoint), atol=1e-4, rtol=1e-4
    )
    assert not torch.allclose(merged_logits(out), trained_logits(run), atol=1e-4), (
        "the result is another model"
    )
    assert "after step 2" in (out / "README.md").read_text()


def test_a_model_that_was_trained_whole_is_taken_over(tiny, tmp_path):
    run = train(tmp_path / "run", tiny, **SHORT | {"adapter": "none"}).directory
    out = merge(run, tmp_path / "out")
    torch.testing.assert_close(merged_logits(out), merged_logits(run / "model"))


@pytest.fixture(scope="module")
def half_base(tmp_path_factory) -> Path:
    """A base model in bf16, whose sums are not numbers of bf16."""
    folder = tiny_model(tmp_path_factory.mktemp("half") / "base")
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def half_run(half_base, tmp_path_factory) -> Path:
    return train(
        tmp_path_factory.mktemp("half-run") / "run", half_base, **SHORT | {"max_steps": 20}
    ).directory


def difference(folder: Path, run: Path) -> float:
    return float((merged_logits(folder) - trained_logits(run)).abs().max())


def test_fp16_keeps_what_bf16_loses(half_run, tmp_path):
    chosen = merge(half_run, tmp_path / "auto")
    assert json.loads((chosen / "config.json").read_text())["dtype"] == "float16"
    assert (
        0
        < difference(chosen, half_run)
        < difference(merge(half_run, tmp_path / "bf16", precision="bf16"), half_run)
    )
    assert difference(merge(half_run, tmp_path / "fp32", precision="fp32"), half_run) < 1e-4


def test_weights_beyond_the_range_of_fp16_are_stored_in_bf16(half_base, half_run, tmp_path):
    base, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree(half_base, base)
    shutil.copytree(half_run, run)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model.model.norm.weight.data[0] = 70_000
    model.save_pretrained(base)
    json_change(run / "spec.json", lambda spec: spec | {"base_model_path": str(base)})

    out = merge(run, tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    with pytest.raises(Refused, match=r"too large for fp16.*Choose bf16"):
        merge(run, tmp_path / "wanted", precision="fp16")
    assert not (tmp_path / "wanted").exists()


def test_large_models_are_written_in_several_files(half_run, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.merging.folder.weight_files", lambda folder: ["config.json"])
    out = merge(half_run, tmp_path / "out")
    assert len(list(out.glob("*.safetensors"))) > 3
    assert difference(out, half_run) < 0.01


def test_what_it_takes_is_known_before(half_run, tmp_path):
    out = merge(half_run, tmp_path / "out")
    written = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    assert written * 0.95 < bytes_needed(MergeRequest(half_run)) <= written


@pytest.fixture
def copied(half_run, tmp_path) -> Path:
    shutil.copytree(half_run, tmp_path / "run")
    return tmp_path / "run"


def other_base(run: Path) -> None:
    base = family_model(run.parent / "other", "opt")
    json_change(run / "spec.json", lambda spec: spec | {"base_model_path": str(base)})


def changed_base(run: Path) -> None:
    """As somebody leaves it who edits the chat template in place."""
    base = Path(shutil.copytree(read_spec(run).base_model_path, run.parent / "changed"))
    changes = {"base_model_path": str(base), "base_model_sha256": folder_digest(base)}
    json_change(run / "spec.json", lambda spec: spec | changes)
    merge(run, run.parent / "unchanged")
    (base / "chat_template.jinja").write_text("{{ messages }}")


def cut_adapter(run: Path) -> None:
    path = run / "model" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-500])


HARM = {
    "no model": (lambda run: shutil.rmtree(run / "model"), "is not there any more"),
    "no base": (
        lambda run: json_change(
            run / "spec.json", lambda spec: spec | {"base_model_path": "/nowhere"}
        ),
        "base model's folder is gone",
    ),
    "other base": (other_base, "trained on another one"),
    "changed base": (changed_base, "changed since the train"),
    "cut adapter": (cut_adapter, "cannot be read"),
}


@pytest.mark.parametrize("harm", HARM)
def test_what_cannot_be_merged_is_refused_with_a_reason_and_leaves_nothing(copied, tmp_path, harm):
    do, words = HARM[harm]
    do(copied)
    with pytest.raises(Refused, match=words):
        merge(copied, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_a_cut_checkpoint_is_refused(tiny, tmp_path):
    run = train(
        tmp_path / "run", tiny, **SHORT | {"save_strategy": "steps", "save_every": 1}
    ).directory
    (run / "checkpoints" / "checkpoint-2" / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(Refused, match="checkpoint of step 2 is cut"):
        merge(run, tmp_path / "out", step=2)


def program(warm: Warm, *arguments: str) -> dict:
    """The last line that `python -m engine.merging` prints."""
    return json.loads(warm.run("engine.merging", *arguments).stdout.splitlines()[-1])


def test_the_program_says_what_came_out_and_refuses_a_folder_that_is_there(
    half_run, tmp_path, warm
):
    out = str(tmp_path / "out")
    assert program(warm, str(half_run), out) == {"done": {"precision": "fp16", "remark": ""}}
    assert "is there already" in program(warm, str(half_run), out)["error"]
    passport = json.loads((tmp_path / "out" / "passport.json").read_text())
    assert passport["train"]["id"] == 7
    assert "--precision fp16" in passport["command"]


def test_the_passport_says_how_it_was_made_and_how_it_went(tiny, tmp_path):
    """Everything by which it can be checked and made once more, as it was at that step."""
    base = Path(shutil.copytree(tiny, tmp_path / "base"))
    (base / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    saving = {"save_strategy": "steps", "save_every": 1, "evaluation_every": 0.3}
    run = train(
        tmp_path / "run", base, **SHORT | saving, base_model_sha256=folder_digest(base)
    ).directory
    of_result, of_step = (
        json.loads((merge(run, tmp_path / f"out{step}", step=step) / "passport.json").read_text())
        for step in (0, 2)
    )
    card = (tmp_path / "out2" / "README.md").read_text()
    for words in ("## Where it is from", "lora, step 2", "cc-by-nc-4.0", "Last eval_loss"):
        assert words in card

    spec = read_spec(run)
    assert of_result["data"] == {
        "sha256": spec.dataset.sha256,
        "format": "messages",
        "file_type": "jsonl",
    }
    assert of_result["base_model"]["sha256"] == folder_digest(base)
    assert of_result["base_model"]["licence"] == "cc-by-nc-4.0"
    assert "license: " in (tmp_path / "out0" / "README.md").read_text()
    assert of_result["code"]["deepextension"]
    assert of_result["trained_weights_sha256"] == {
        "adapter_model.safetensors": file_sha256(run / "model" / "adapter_model.safetensors")
    }
    assert of_result["trained_weights_sha256"] != of_step["trained_weights_sha256"]
    assert {"torch", "transformers", "peft", "trl"} <= set(of_result["machine"]["versions"])
    assert of_result["machine"]["device"]["name"]

    for passport, last in ((of_result, 3), (of_step, 2)):
        measures = passport["measures"]
        assert measures["train"]["metric"] == "loss"
        assert [measures["train"][end]["step"] for end in ("first", "last")] == [1, last]
        evaluation = measures["evaluation"]
        assert evaluation["last"]["step"] == last
        assert evaluation["best"]["value"] <= min(
            evaluation[end]["value"] for end in ("first", "last")
        )
