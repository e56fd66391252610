"""A proof passes for what is the trained model, and fails for each way in which an export goes
wrong."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.chat.render import Renderer, tokenizer_load
from engine.contract.rundir import read_spec
from engine.loading.batch_generation import answers_generate
from engine.loading.pretrained import pretrained_load
from engine.merging.folder import MergeRequest, model_write
from engine.proof import evidence
from engine.proof.prove import prove
from engine.proof.questions import (
    BUILT_IN,
    FROM_DATASET,
    HELD_OUT,
    QUESTIONS,
    Question,
    questions_find,
)
from engine.proof.reference import reference_read
from engine.publish.older import json_change
from tests.engine.runs import toy_pairs, toy_rows, train
from tests.engine.test_rollouts import GIVEN, OWN, registered
from tests.families.maker import family_model

# Long enough that answers have been learned to their end.
LEARNED = {"max_steps": 60, "evaluation_split": 0.2, "sample_prompts": 4, "sample_max_tokens": 16}


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("proof") / "run", tiny, **LEARNED).directory


@pytest.fixture(scope="module")
def merged(run) -> Path:
    model_write(MergeRequest(run), run.parent / "merged", lambda share: None)
    return run.parent / "merged"


def verdicts(run: Path, folder: Path, step: int = 0) -> dict[str, bool]:
    return {check.name: check.passed for check in prove(run, folder, step, lambda share: None)}


def failed(run: Path, folder: Path, step: int = 0) -> set[str]:
    return {name for name, passed in verdicts(run, folder, step).items() if not passed}


EVERY_CHECK = {
    "Loads in transformers",
    "Same tokens",
    "Same chat template",
    "End tokens",
    "Same answers",
    "Answers end",
    "Same probabilities",
}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_merge_passes_in_every_number_type(run, tmp_path, precision):
    model_write(MergeRequest(run, precision=precision), tmp_path / "out", lambda share: None)
    assert verdicts(run, tmp_path / "out") == dict.fromkeys(EVERY_CHECK, True)


def swap_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    )


def remove_end_token(folder: Path) -> None:
    json_change(folder / "generation_config.json", lambda config: config | {"eos_token_id": 0})
    json_change(folder / "config.json", lambda config: config | {"eos_token_id": 0})


def change_tensor(folder: Path, name: str, change) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[name] = change(weights[name])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def zero_tensor(folder: Path) -> None:
    change_tensor(folder, "model.layers.1.mlp.down_proj.weight", lambda weight: weight * 0)


def forget_adapter(folder: Path) -> None:
    base = read_spec(folder.parent / "run").base_model_path
    shutil.copyfile(Path(base) / "model.safetensors", folder / "model.safetensors")


def lose_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def spoil_tensor(folder: Path) -> None:
    change_tensor(folder, "model.norm.weight", lambda weight: weight * float("nan"))


def change_tokenizer(folder: Path) -> None:
    """Tokens in another order: as many, and all other ids."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, *_, last = sorted(vocabulary.values())
    tokenizer["model"]["vocab"] = {
        token: number if number in (0, 1, 2) else first + last - number + 3
        for token, number in vocabulary.items()
    }
    path.write_text(json.dumps(tokenizer))


def cut_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


# What goes wrong, and the check that is about it; other checks may fail with it.
WRONG = {
    swap_template: "Same chat template",
    remove_end_token: "End tokens",
    zero_tensor: "Same probabilities",
    forget_adapter: "Same answers",
    lose_tensor: "Loads in transformers",
    spoil_tensor: "Loads in transformers",
    cut_file: "Loads in transformers",
    change_tokenizer: "Same tokens",
}


@pytest.mark.parametrize("harm", WRONG, ids=lambda harm: harm.__name__)
def test_what_goes_wrong_is_found(run, merged, tmp_path, harm):
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(merged, tmp_path / "out")
    harm(tmp_path / "out")
    assert WRONG[harm] in failed(run, tmp_path / "out")


def test_a_checkpoint_is_not_taken_for_the_result(tiny, tmp_path):
    run = train(
        tmp_path / "run", tiny, **LEARNED | {"save_strategy": "steps", "save_every": 10}
    ).directory
    model_write(MergeRequest(run, step=50), tmp_path / "out", lambda share: None)
    assert failed(run, tmp_path / "out", 50) == set()
    assert "Same probabilities" in failed(run, tmp_path / "out")


def test_a_reward_model_is_judged_by_its_scores(tiny, tmp_path):
    given = {"format": "preference", "recipe": "reward", "max_steps": 20, "evaluation_split": 0.25}
    run = train(tmp_path / "run", tiny, toy_pairs(), **given).directory
    model_write(MergeRequest(run), tmp_path / "out", lambda share: None)
    assert verdicts(run, tmp_path / "out")["Same scores"]
    change_tensor(tmp_path / "out", "score.weight", lambda weight: -weight)
    assert failed(run, tmp_path / "out") == {"Same scores"}


def test_a_model_that_was_trained_whole_passes(tiny, tmp_path):
    run = train(
        tmp_path / "run", tiny, **LEARNED | {"adapter": "none", "learning_rate": 0.003}
    ).directory
    model_write(MergeRequest(run), tmp_path / "out", lambda share: None)
    assert failed(run, tmp_path / "out") == set()


def kind_of_questions(run: Path) -> str:
    renderer = Renderer(
        tokenizer_load(run / "model", config_folder=Path(read_spec(run).base_model_path)),
        warn=print,
    )
    questions, kind = questions_find(run, read_spec(run), renderer)
    assert len(questions) == QUESTIONS
    assert not any(
        question.prompt in (other.prompt for other in questions[:i])
        for i, question in enumerate(questions)
    )
    return kind


def test_it_asks_what_was_held_out_and_else_what_there_is(run, tiny, tmp_path):
    assert kind_of_questions(run) == f"{HELD_OUT} and {FROM_DATASET}"
    other = train(tmp_path / "run", tiny, max_steps=1).directory
    assert kind_of_questions(other) == FROM_DATASET
    (other / "data.jsonl").unlink()
    assert kind_of_questions(other) == BUILT_IN
    few = {"max_steps": 1, "evaluation_split": 0.25, "sample_prompts": 1, "batch_size": 1}
    other = train(tmp_path / "few", tiny, toy_rows(4), **few).directory
    assert kind_of_questions(other) == f"{HELD_OUT}, {FROM_DATASET} and {BUILT_IN}"


@pytest.fixture(scope="module")
def without_answers(tiny, tmp_path_factory) -> Path:
    """A train whose rows are questions alone, one of which was held out."""
    folder = tmp_path_factory.mktemp("prompts")
    rows = [{"prompt": row["messages"][0]["content"]} for row in toy_rows()]
    given = (
        GIVEN | OWN["grpo"] | {"rewards": [{"function": "custom:mine"}], "format": "prompt-only"}
    )
    given |= {"adapter": "lora", "max_steps": 1, "evaluation_split": 0.2, "sample_prompts": 1}
    resources = registered(folder)
    done = train(folder / "run", tiny, rows, recipe="grpo", resources=resources, **given)
    assert done.code == 0, done.last
    return done.directory


def test_a_train_without_answers_is_compared_by_figures_too(without_answers, tmp_path):
    out = tmp_path / "out"
    model_write(MergeRequest(without_answers), out, lambda share: None)
    assert verdicts(without_answers, out) == dict.fromkeys(EVERY_CHECK, True)

    prove(without_answers, out, 0, lambda share: None, tmp_path / "reference.json")
    reference = reference_read(tmp_path / "reference.json")
    assert [question.reference for question in reference.questions] == reference.trained.answers
    assert [*map(len, reference.trained.log_probs)] == [*map(len, reference.trained.answers)]

    change_tensor(out, "model.layers.1.mlp.down_proj.weight", lambda weight: weight * 0.9)
    assert "Same probabilities" in failed(without_answers, out)


def test_the_program_says_each_check_and_ends_with_a_code_of_its_own(run, merged, tmp_path, warm):
    def program(folder: Path) -> tuple[int, dict]:
        ran = warm.run("engine.proof", str(run), str(folder))
        return ran.returncode, json.loads(ran.stdout.splitlines()[-1])["done"]

    code, done = program(merged)
    assert (code, done["passed"], {check["name"] for check in done["checks"]}) == (
        0,
        True,
        EVERY_CHECK,
    )
    shutil.copytree(merged, tmp_path / "out")
    remove_end_token(tmp_path / "out")
    code, done = program(tmp_path / "out")
    assert (code, done["passed"]) == (4, False)


PROMPTS = [list(range(5, 5 + length)) for length in (3, 40, 11, 25)]


def asked_at_once(monkeypatch, model, stops: set[int]) -> tuple[list[list[int]], list[int]]:
    """(answers, how many prompts each call had)."""
    counts = []

    def counted(model, prompts, *arguments, **options):
        counts.append(len(prompts))
        return answers_generate(model, prompts, *arguments, **options)

    monkeypatch.setattr(evidence, "answers_generate", counted)
    return evidence.greedy_answers(model, PROMPTS, stops), counts


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "opt", "mamba", "rwkv"])
def test_answers_are_the_same_as_one_by_one(family, tmp_path, monkeypatch):
    """At once where padding changes nothing. RWKV takes it into its state."""
    model = pretrained_load(family_model(tmp_path, family), dtype=torch.float32).eval()
    alone = [evidence.greedy_answers(model, [prompt], set())[0] for prompt in PROMPTS]
    # One that ends before the others.
    stops = {alone[1][4]}
    wanted = [evidence.greedy_answers(model, [prompt], stops)[0] for prompt in PROMPTS]
    answers, counts = asked_at_once(monkeypatch, model, stops)
    assert answers == wanted
    assert len(answers[1]) <= 5
    assert counts == ([4, 1, 1, 1, 1, 1] if family == "rwkv" else [4, 1])


@pytest.mark.parametrize("family", ["llama", "rwkv"])
def test_answers_are_no_longer_than_asked_for(family, tmp_path):
    model = pretrained_load(family_model(tmp_path, family), dtype=torch.float32).eval()
    questions = [Question(prompt, []) for prompt in PROMPTS]
    whole = evidence.greedy_answers(model, PROMPTS, set())
    # At the last token that is asked for, and one behind it.
    stops = {whole[0][5], whole[1][6]}
    wanted = evidence.evidence_collect(model, questions, stops, scores=False)
    found = evidence.evidence_collect(model, questions, stops, scores=False, answer_tokens=6)

    assert found.answers == [answer[:6] for answer in wanted.answers]
    assert found.ended == [len(answer) <= 6 for answer in wanted.answers]
    assert not all(found.ended)
