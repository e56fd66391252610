"""Exports for transformers and peft hold the model that was trained, and a broken one fails its
proof."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from engine.exporting.__main__ import main
from engine.loading.tensor_files import TensorReader
from engine.merging.folder import MergeRequest, model_write
from engine.models.inspect import folder_read
from engine.proof.exported import exported_prove
from engine.proof.exported import main as prove_export
from engine.proof.prove import prove
from engine.proof.reference import reference_read
from engine.proof.request import ProofRequest
from engine.publish.older import json_change
from tests.engine.runs import toy_pairs, train
from tests.engine.test_proof import change_tokenizer, remove_end_token, swap_template
from tests.families.maker import family_model

LEARNED = {"max_steps": 40, "evaluation_split": 0.2, "sample_prompts": 4, "sample_max_tokens": 16}
SHORT = LEARNED | {"max_steps": 3}
FORMATS = ("safetensors", "adapter")


class Trained:
    """A train with its merged model and what it answers."""

    def __init__(self, folder: Path, base: Path, *rows, **wanted) -> None:
        self.base = base
        self.run = train(folder / "run", base, *rows, **wanted).directory
        self.model = folder / "merged"
        self.reference = folder / "reference.json"
        model_write(MergeRequest(self.run), self.model, lambda share: None)
        prove(self.run, self.model, 0, lambda share: None, self.reference)

    @property
    def adapter(self) -> Path:
        return self.run / "model"

    def export(self, form: str, out: Path, *more: str) -> None:
        arguments = [form, str(self.model), str(out), "--adapter", str(self.adapter)]
        arguments += ["--base", str(self.base), "--name", "My model", *more]
        main(arguments)

    def failed(self, form: str, out: Path) -> set[str]:
        reference = reference_read(self.reference)
        request = ProofRequest(out, self.model, reference, self.adapter, self.base)
        checks = exported_prove(form, request, lambda share: None)
        assert len(checks) >= 4 or not all(check.passed for check in checks)
        return {check.name for check in checks if not check.passed}


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory) -> Trained:
    return Trained(tmp_path_factory.mktemp("exports"), tiny, **LEARNED)


@pytest.fixture
def said(capsys) -> Callable[[], dict]:
    """The last line that the program printed."""
    return lambda: json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("form", FORMATS)
def test_it_is_the_trained_model(trained, tmp_path, said, form):
    trained.export(form, tmp_path / "out")
    assert said() == {"done": {"remark": ""}}
    assert trained.failed(form, tmp_path / "out") == set()


@pytest.mark.long
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gemma2", "gpt2", "phi3"])
def test_it_is_the_trained_model_in_other_families(tmp_path, said, family, form):
    trained = Trained(tmp_path, family_model(tmp_path / "base", family), **SHORT)
    trained.export(form, tmp_path / "out")
    assert "done" in said()
    assert trained.failed(form, tmp_path / "out") == set()


@pytest.mark.parametrize("form", FORMATS)
def test_a_reward_model_is_one_too(tiny, tmp_path, said, form):
    scorer = {"format": "preference", "recipe": "reward", "max_steps": 3, "evaluation_split": 0.25}
    trained = Trained(tmp_path, tiny, toy_pairs(), **scorer)
    trained.export(form, tmp_path / "out")
    assert "done" in said()
    assert trained.failed(form, tmp_path / "out") == set()


def test_an_adapter_without_a_reference_is_held_against_itself_and_not_a_rounded_merge(
    trained, tmp_path, said
):
    """As models that were made before references were kept have none."""
    model, out, file = tmp_path / "merged", tmp_path / "out", tmp_path / "reference.json"
    model_write(MergeRequest(trained.run, precision="bf16"), model, lambda share: None)
    json_change(model / "passport.json", lambda passport: passport | {"system_prompt": "Be brief."})
    trained.export("adapter", out)
    merged = ["safetensors", str(model), "--model", str(model), "--reference", str(file)]

    def details() -> str:
        return " ".join(check["detail"] for check in said()["done"]["checks"])

    assert prove_export(merged) == 0
    assert reference_read(file).is_own
    card = details()
    assert "are this model's" in card
    assert "trained model" not in card

    parts = ["--adapter", str(trained.adapter), "--base", str(trained.base)]
    assert prove_export(["adapter", str(out), *merged[2:], *parts]) == 0
    assert "are the trained model's" in details()
    reference = reference_read(file)
    assert (reference.is_own, reference.system_prompt) == (False, "Be brief.")
    assert prove_export(merged) == 0, "a merge that is rounded as much as bf16 is"
    assert reference_read(file) == reference


def test_shards_are_as_small_as_asked(trained, tmp_path, said):
    out = tmp_path / "out"
    trained.export("safetensors", out, "--shard-bytes", "50000")
    files = sorted(path.name for path in out.glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert len(files) > 3
    assert all(path.stat().st_size < 60_000 for path in out.glob("*.safetensors"))
    assert set(TensorReader(out).names) == set(TensorReader(trained.model).names)
    folder_read(out)
    assert trained.failed("safetensors", out) == set()


@pytest.mark.parametrize("base_id", ["org/tiny", ""])
def test_the_adapter_names_its_base_and_no_path_of_this_machine(trained, tmp_path, said, base_id):
    out = tmp_path / "out"
    adapter = shutil.copytree(trained.adapter, tmp_path / "adapter")
    json_change(
        adapter / "adapter_config.json",
        lambda config: config | {"base_model_name_or_path": "/srv/models/1"},
    )
    named = ["--base-id", base_id] if base_id else []
    trained.export("adapter", out, "--adapter", str(adapter), *named)
    config = json.loads((out / "adapter_config.json").read_text())
    name = json.loads((trained.model / "passport.json").read_text())["base_model"]["name"]
    assert config["base_model_name_or_path"] == (base_id or name)
    card = (out / "README.md").read_text()
    assert "--enable-lora" in card
    assert (base_id or name) in card
    assert ("base_model: org/tiny" in card) == bool(base_id)
    assert "/srv" not in "".join(path.read_text() for path in out.glob("*.[jm][sd]*"))


@pytest.mark.parametrize("form", FORMATS)
def test_it_has_a_card_licences_and_a_passport(trained, tmp_path, said, form):
    model = shutil.copytree(trained.model, tmp_path / "model")
    (model / "LICENSE").write_text("Do what you want.")
    base = shutil.copytree(trained.base, tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# Base\n")
    out = tmp_path / "out"
    main(
        [
            form,
            str(model),
            str(out),
            "--adapter",
            str(trained.adapter),
            "--base",
            str(base),
            "--name",
            "It's mine",
        ]
    )
    assert (out / "LICENSE").read_text() == "Do what you want."
    card = (out / "README.md").read_text()
    assert "license: cc-by-nc-4.0" in card
    assert "from_pretrained" in card
    assert "## Results" in card
    passport = json.loads((out / "passport.json").read_text())
    assert passport["train"]["id"] == 7
    export = passport["export"]
    assert export["format"] == form
    assert export["licence"] == "cc-by-nc-4.0"
    assert "--name 'It'\\''s mine'" in export["command"]
    assert str(tmp_path) not in json.dumps(passport)
    written = {path.name for path in out.iterdir()} - {"passport.json"}
    assert set(export["files_sha256"]) == written


def other_base(parts: dict[str, Path]) -> None:
    shutil.rmtree(parts["base"])
    family_model(parts["base"], "opt")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


HARM = {
    "other base": ("adapter", other_base, "trained on another one"),
    "no base": ("adapter", lambda parts: shutil.rmtree(parts["base"]), "base model is not there"),
    "no weights": (
        "adapter",
        lambda parts: (parts["adapter"] / "adapter_model.safetensors").unlink(),
        "adapter_model.safetensors is not there",
    ),
    "no config": (
        "adapter",
        lambda parts: (parts["adapter"] / "adapter_config.json").unlink(),
        "adapter_config.json is not there",
    ),
    "cut adapter": (
        "adapter",
        lambda parts: cut(parts["adapter"] / "adapter_model.safetensors"),
        "cut or damaged",
    ),
    "cut model": (
        "safetensors",
        lambda parts: cut(parts["model"] / "model.safetensors"),
        "cut or damaged",
    ),
    "no model": (
        "safetensors",
        lambda parts: (parts["model"] / "model.safetensors").unlink(),
        "cannot be read any more",
    ),
}


@pytest.mark.parametrize("harm", HARM)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(trained, tmp_path, said, harm):
    form, do, words = HARM[harm]
    parts = {
        name: shutil.copytree(getattr(trained, name), tmp_path / name)
        for name in ("model", "adapter", "base")
    }
    do(parts)
    code = main(
        [
            form,
            str(parts["model"]),
            str(tmp_path / "out"),
            "--adapter",
            str(parts["adapter"]),
            "--base",
            str(parts["base"]),
        ]
    )
    assert code == 1
    assert words in said()["error"]
    assert not list(tmp_path.glob("out*"))


def test_a_model_without_an_adapter_has_none_to_export(trained, tmp_path, said):
    assert main(["adapter", str(trained.model), str(tmp_path / "out")]) == 1
    assert "has no adapter" in said()["error"]


def test_an_adapter_that_servers_do_not_take_says_so(tiny, tmp_path, said):
    trained = Trained(tmp_path, tiny, use_dora=True, **SHORT)
    trained.export("adapter", tmp_path / "out")
    assert "servers such as vLLM do not" in said()["done"]["remark"]
    assert trained.failed("adapter", tmp_path / "out") == set()


def change(file: Path, name_part: str, value: float) -> None:
    weights = load_file(file)
    for name in weights:
        if name_part in name:
            weights[name] = weights[name] * value
    save_file(weights, file, metadata={"format": "pt"})


def lose_weights(out: Path) -> None:
    weights = load_file(out / "adapter_model.safetensors")
    first = next(iter(weights))
    save_file(
        {name: value for name, value in weights.items() if name != first},
        out / "adapter_model.safetensors",
    )


# The format, what goes wrong, and the check that is about it.
WRONG = [
    ("safetensors", swap_template, "Same chat template"),
    ("safetensors", remove_end_token, "End tokens"),
    (
        "safetensors",
        lambda out: change(out / "model.safetensors", "layers.1.mlp.down_proj", 0),
        "Same probabilities",
    ),
    ("safetensors", change_tokenizer, "Same tokens"),
    ("adapter", swap_template, "Same chat template"),
    ("adapter", remove_end_token, "End tokens"),
    ("adapter", lambda out: (out / "generation_config.json").unlink(), "End tokens"),
    (
        "adapter",
        lambda out: change(out / "adapter_model.safetensors", "lora_B", 0.9),
        "Same probabilities",
    ),
    ("adapter", lose_weights, "Loads in peft"),
    ("adapter", change_tokenizer, "Same tokens"),
    (
        "adapter",
        lambda out: json_change(
            out / "adapter_config.json", lambda config: config | {"lora_alpha": 1}
        ),
        "Same probabilities",
    ),
    (
        "adapter",
        lambda out: json_change(
            out / "adapter_config.json",
            lambda config: config | {"base_model_name_or_path": "/srv/1"},
        ),
        "Names its base model",
    ),
]


@pytest.mark.parametrize(("form", "harm", "check"), WRONG)
def test_what_goes_wrong_is_found(trained, tmp_path, form, harm, check):
    trained.export(form, tmp_path / "out")
    harm(tmp_path / "out")
    assert check in trained.failed(form, tmp_path / "out")
