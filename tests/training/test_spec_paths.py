"""spec.json after its home was moved."""

import json
from dataclasses import replace

import pytest

from engine.contract.rundir import Branch, Program, Resource, read_spec, write_spec
from tests.training.test_resuming import SPEC
from training.train.spec_paths import spec_settle, spec_write

OLD = "/gone/home"


@pytest.fixture
def written(make_train):
    """A train whose spec an earlier version wrote, in a home that has been moved since."""
    run = make_train()
    dataset = replace(
        SPEC.dataset,
        path=f"{OLD}/datasets/{run.dataset_id}/{run.dataset.path.name}",
        cache=f"{OLD}/datasets/{run.dataset_id}/tokens",
    )
    resources = {
        "reward_model:3": Resource(f"{OLD}/runs/3/model", base_path=f"{OLD}/models/1"),
        "reward_function:mine": Resource("/elsewhere/mine.py"),
    }
    spec = replace(
        SPEC,
        base_model_path=f"{OLD}/models/1",
        dataset=dataset,
        resources=resources,
        branch=Branch(f"{OLD}/runs/{run.pk}/start", 1, 2),
        resume_from=f"{OLD}/runs/{run.pk}/checkpoints/checkpoint-3",
    )
    write_spec(run.directory, spec)
    return run


def test_paths_of_the_old_home_lead_into_the_new_one(written, settings):
    spec_settle(written)
    spec = read_spec(written.directory)
    home = settings.HOME
    assert spec.base_model_path == f"{home}/models/1"
    assert spec.dataset.path == str(written.dataset.path)
    assert spec.dataset.cache == str(written.dataset.path.parent / "tokens")
    assert spec.branch.path == str(written.directory / "start")
    assert spec.resume_from == str(written.directory / "checkpoints" / "checkpoint-3")
    assert spec.resources["reward_model:3"].base_path == f"{home}/models/1"
    assert spec.resources["reward_function:mine"].path == "/elsewhere/mine.py"


def test_the_file_itself_names_no_home(written, settings):
    spec_settle(written)
    text = (written.directory / "spec.json").read_text()
    assert str(settings.HOME) not in text
    assert OLD not in text


def test_a_program_of_ones_own_reads_whole_paths(written, settings):
    spec = replace(
        read_spec(written.directory),
        program=Program("/usr/bin/python3", f"{OLD}/methods/m/1/p.py", ""),
    )
    write_spec(written.directory, spec)
    spec_settle(written)
    data = json.loads((written.directory / "spec.json").read_text())
    assert data["dataset"]["path"] == str(written.dataset.path)
    assert data["program"]["script"] == f"{settings.HOME}/methods/m/1/p.py"


def test_a_spec_that_cannot_be_read_is_left_alone(make_train):
    run = make_train()
    run.directory.mkdir(parents=True)
    (run.directory / "spec.json").write_text("{")
    spec_settle(run)
    assert (run.directory / "spec.json").read_text() == "{"


def test_a_home_behind_a_link_is_not_left(make_train, settings, tmp_path, monkeypatch):
    """runs/ may be a link to another disk: paths are put together as text."""
    home, disk = tmp_path / "home", tmp_path / "disk"
    for folder in (home, disk / "1"):
        folder.mkdir(parents=True)
    (home / "runs").symlink_to(disk)
    monkeypatch.setattr(settings, "HOME", home)
    run = make_train()
    spec_write(run, replace(SPEC, base_model_path=str(home / "models" / "1")))
    assert read_spec(home / "runs" / str(run.pk)).base_model_path == f"{home}/models/1"
