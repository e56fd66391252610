"""What can be asked, by whom, and where its weights are."""

import json

import pytest

from core.errors import UserError
from engine.contract.rundir import checkpoint_seal
from exports.models import Export
from models_app.models import BaseModel
from serving.targets import Target, target_find, targets_choices
from tests.world import NUMBER, world_make
from training.models import Checkpoint, TrainRun


@pytest.fixture(autouse=True)
def home(tmp_path, settings):
    settings.HOME = tmp_path


@pytest.fixture
def world(alice):
    made = world_make(alice, canary="alices")
    TrainRun.objects.update(status="finished")
    return made


def adapter_put(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_text("{}")


def checkpoint_put(run, step):
    folder = run.directory / "checkpoints" / f"checkpoint-{step}"
    adapter_put(folder)
    checkpoint_seal(folder)
    Checkpoint.objects.update_or_create(run=run, step=step, defaults={"time": 1e9})
    return folder


def trained_make(world, **changes):
    """A model that was trained on Alice's."""
    values = {
        "owner": world.owner,
        "name": "Help desk",
        "slug": "help-desk",
        "version": "2",
        "source": "train",
        "status": "ready",
        "parent": world.model,
        "trained_from": {"train": NUMBER, "step": 0},
    }
    model = BaseModel.objects.create(**values | changes)
    model.path.mkdir(parents=True)
    (model.path / "config.json").write_text("{}")
    return model


@pytest.mark.parametrize(
    "key", ["", "model", "model-x", "model-1-step-2", "user-1", "train-1-step-", "model-٣"]
)
def test_what_is_no_key_is_not_there(alice, key):
    with pytest.raises(UserError) as caught:
        target_find(key, alice)
    assert caught.value.status == 404


@pytest.mark.parametrize("kind", ["model", "train", "export"])
def test_what_is_somebody_elses_is_not_there(world, bob, kind):
    for pk in (NUMBER, NUMBER + 1):
        with pytest.raises(UserError) as caught:
            target_find(f"{kind}-{pk}", bob)
        assert (caught.value.status, caught.value.code) == (404, "not_found")
    assert targets_choices(bob) == []


def test_a_model_is_its_own_folder(world, alice):
    served = target_find(f"model-{NUMBER}", alice)
    assert served.placement.base_key == f"model-{NUMBER}"
    assert served.placement.base_path == str(world.model.path)
    assert (served.placement.adapter_key, served.base) == ("", "")


def test_a_trained_model_is_its_adapter_on_the_base(world, alice):
    model = trained_make(world)
    assert target_find(f"model-{model.pk}", alice).placement.base_key == f"model-{model.pk}"

    adapter_put(model.adapter_path)
    served = target_find(f"model-{model.pk}", alice)
    assert served.title == "Help desk · v2"
    assert served.placement.base_key == served.base == f"model-{NUMBER}"
    assert served.placement.adapter_path == str(model.adapter_path)

    # The merged weights have all of it where the base is gone.
    BaseModel.objects.filter(pk=NUMBER).update(archived_at="2026-01-01T00:00Z")
    assert target_find(f"model-{model.pk}", alice).placement.base_key == f"model-{model.pk}"


def test_all_trains_of_a_base_share_its_weights(world, alice):
    adapter_put(world.run.directory / "model")
    checkpoint_put(world.run, 2)
    ended = target_find(f"train-{NUMBER}", alice)
    step = target_find(f"train-{NUMBER}-step-2", alice)
    assert ended.placement.base_key == step.placement.base_key == f"model-{NUMBER}"
    assert ended.placement.adapter_key == f"train-{NUMBER}"
    assert step.placement.adapter_key == f"train-{NUMBER}-step-2"
    assert step.title.endswith(", step 2")
    assert not ended.live


def test_a_train_that_was_trained_whole_has_weights_of_its_own(world, alice):
    folder = world.run.directory / "model"
    (folder / "adapter_config.json").unlink()
    (folder / "config.json").write_text("{}")
    served = target_find(f"train-{NUMBER}", alice)
    assert served.placement.base_key == f"train-{NUMBER}"
    assert served.placement.base_path == str(folder)
    assert served.base == f"model-{NUMBER}"


def test_a_running_train_answers_from_its_newest_whole_checkpoint(world, alice):
    TrainRun.objects.update(status="running")
    with pytest.raises(UserError, match="no checkpoint yet"):
        target_find(f"train-{NUMBER}", alice)

    checkpoint_put(world.run, 20)
    newest = checkpoint_put(world.run, 40)
    served = target_find(f"train-{NUMBER}", alice)
    assert served.live
    assert served.placement.adapter_key == f"train-{NUMBER}-step-40"

    (newest / "adapter_model.safetensors").write_text("cut")
    assert target_find(f"train-{NUMBER}", alice).placement.adapter_key.endswith("-step-20")
    with pytest.raises(UserError) as caught:
        target_find(f"train-{NUMBER}-step-40", alice)
    assert caught.value.status == 409


def test_an_adapter_that_was_carried_on_lies_on_the_base_below(world, alice):
    adapter_put(trained_make(world).adapter_path)
    model = BaseModel.objects.get(slug="help-desk")
    TrainRun.objects.update(base_model=model, continue_adapter=True)
    adapter_put(world.run.directory / "model")
    served = target_find(f"train-{NUMBER}", alice)
    assert served.placement.base_key == f"model-{NUMBER}"


def test_exports_as_gguf_are_asked_as_they_are(world, alice):
    served = target_find(f"export-{NUMBER}", alice)
    assert served.placement.base_key == f"export-{NUMBER}"
    assert served.placement.base_path.endswith(".gguf")

    Export.objects.update(format="gguf-adapter")
    with pytest.raises(UserError, match="gone"):
        target_find(f"export-{NUMBER}", alice)

    model = trained_make(world)
    Export.objects.update(model=model)
    served = target_find(f"export-{NUMBER}", alice)
    assert served.placement.base_key == f"model-{NUMBER}"
    assert served.placement.adapter_path.endswith(".gguf")

    Export.objects.update(format="ollama")
    with pytest.raises(UserError, match="Ask Help desk"):
        target_find(f"export-{NUMBER}", alice)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"archived_at": "2026-01-01T00:00Z"}, "is archived"),
        ({"status": "importing"}, "is not ready"),
        ({"architecture": "LlamaForSequenceClassification"}, "gives scores"),
    ],
)
def test_a_model_that_cannot_answer_says_why(world, alice, changes, words):
    BaseModel.objects.update(**changes)
    with pytest.raises(UserError, match=words) as caught:
        target_find(f"model-{NUMBER}", alice)
    assert caught.value.status == 409
    assert f"model-{NUMBER}" not in {choice.key for choice in targets_choices(alice)}


def test_the_menu_has_what_can_be_asked(world, alice, django_assert_max_num_queries):
    adapter_put(world.run.directory / "model")
    for step in (2, 4):
        checkpoint_put(world.run, step)
    model = trained_make(world)
    keys = [choice.key for choice in targets_choices(alice)]
    assert keys == [
        f"model-{model.pk}",
        f"model-{NUMBER}",
        f"train-{NUMBER}",
        f"train-{NUMBER}-step-4",
        f"train-{NUMBER}-step-2",
        f"export-{NUMBER}",
    ]
    for key in keys:
        assert target_find(key, alice).target == Target.parse(key)

    world_make(alice, NUMBER + 100, "more")
    with django_assert_max_num_queries(14):
        targets_choices(alice)


def test_a_placement_is_json(world, alice):
    assert json.loads(json.dumps(target_find(f"model-{NUMBER}", alice).placement.to_json()))
