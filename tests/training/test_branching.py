"""A train that begins with another's weights: what fits, what is taken along, and what a form
says."""

from dataclasses import replace

import pytest

from core.errors import UserError
from engine.contract.rundir import (
    START,
    Branch,
    checkpoint_is_whole,
    checkpoint_seal,
    read_spec,
    write_spec,
)
from methods.models import TrainingMethod
from methods.services import method_defaults, methods_install
from tests.training.test_resuming import SPEC
from training.form.draft import branch_of
from training.train.branching import Origin, branch_check, branch_prepare, branch_take


@pytest.fixture
def origin(make_train):
    """Step 4 of a LoRA train, with weights and an optimizer."""
    methods_install()
    method = TrainingMethod.objects.get(slug="lora")
    run = make_train(
        method=method, status="finished", parameters=method_defaults(method) | {"lora_rank": 8}
    )
    folder = run.directory / "checkpoints" / "checkpoint-4"
    folder.mkdir(parents=True)
    for name in (
        "adapter_model.safetensors",
        "adapter_config.json",
        "optimizer.pt",
        "rng_state.pth",
        "trainer_state.json",
        # Of several ranks, and of a model that was split over them.
        "optimizer.bin",
        "pytorch_model_fsdp.bin",
        "rng_state_0.pth",
        "rollouts.1.safetensors",
    ):
        (folder / name).write_text(name)
    checkpoint_seal(folder)
    return Origin(run, 4)


def refused(origin: Origin, **changes) -> list[str]:
    run = origin.run
    given = {
        "method": run.method,
        "base_model": run.base_model,
        "parameters": run.parameters,
    } | changes
    with pytest.raises(UserError) as raised:
        branch_check(origin, **given)
    return sorted(raised.value.fields)


def test_weights_are_taken_along_and_survive_their_train(origin, make_train):
    run = origin.run
    folder = branch_check(
        origin,
        method=run.method,
        base_model=run.base_model,
        parameters=run.parameters | {"learning_rate": 1e-5},
    )
    new = make_train(method=run.method)
    new.directory.mkdir(parents=True)
    branch = branch_take(branch_prepare(folder), origin, new.directory)

    assert (branch.run_id, branch.step) == (run.pk, 4)
    start = new.directory / START
    assert sorted(path.name for path in start.iterdir()) == [
        "COMPLETE",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    (folder / "adapter_model.safetensors").unlink()
    assert checkpoint_is_whole(start)


def test_what_would_not_fit_is_said_at_its_field(origin, make_train):
    run = origin.run
    shape = {"lora_rank": 16, "target_modules": ["q_proj"], "use_dora": True}
    assert refused(origin, parameters=run.parameters | shape) == [
        "lora_rank",
        "target_modules",
        "use_dora",
    ]
    assert refused(origin, parameters=run.parameters | {"adapter": "none"}) == ["adapter"]
    assert refused(origin, method=TrainingMethod.objects.get(slug="dpo")) == ["method"]
    other = type(run.base_model).objects.create(
        name="B", slug="b", source="gguf", reference="b.gguf", status="ready"
    )
    assert refused(origin, base_model=other) == ["base_model"]
    assert refused(Origin(run, 5)) == ["branch_step"]
    (run.directory / "checkpoints" / "checkpoint-4" / "adapter_config.json").write_text("cut")
    assert refused(origin) == ["branch_step"]


def test_a_copy_of_a_branch_branches_from_the_same_place(origin, make_train, alice):
    copied = make_train(branched_from=origin.run, branch_step=4)
    assert branch_of(alice, copied, "") == origin
    assert branch_of(alice, copied, "9") == Origin(copied, 9)
    assert branch_of(alice, origin.run, "") is None


def test_the_form_says_where_it_begins_and_keeps_it(origin, client, alice):
    client.force_login(alice)
    page = client.get("/trains/new/lora/", {"copy": origin.run.pk, "step": 4})
    assert page.context["draft"].branch == origin
    assert 'name="branch_step" value="4"' in page.content.decode()
    posted = client.post(
        "/trains/new/lora/", {"branched_from": origin.run.pk, "branch_step": "4", "name": "x"}
    )
    assert posted.context["draft"].branch == origin


def test_a_spec_with_a_branch_is_read_back(origin, make_train):
    new = make_train()
    write_spec(new.directory, replace(SPEC, branch=Branch("start", origin.run.pk, 4)))
    assert read_spec(new.directory).branch == Branch(str(new.directory / "start"), origin.run.pk, 4)


def test_a_large_checkpoint_is_not_read_by_a_request(origin, monkeypatch):
    """Sizes tell most; the engine reads all of it before it begins."""
    read = []
    monkeypatch.setattr(
        "engine.contract.rundir.file_sha256", lambda path: read.append(path.name) or "0" * 64
    )
    monkeypatch.setattr("training.train.branching.HASHED_BYTES", 1)
    folder = branch_check(
        origin,
        method=origin.run.method,
        base_model=origin.run.base_model,
        parameters=origin.run.parameters,
    )
    branch_prepare(folder)
    assert read == []
