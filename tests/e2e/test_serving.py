"""Two copies on one machine, and what a second start of the same copy says."""

import subprocess
import sys

import pytest
import requests

from tests.live import ROOT, Platform, free_port

pytestmark = pytest.mark.long


def serve(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", "serve"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_says_that_it_is_healthy_and_no_more(platform: Platform):
    answer = requests.get(f"{platform.url}/healthz", timeout=10)
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok",
        "database": True,
        "queue": True,
        "worker": True,
        "gateway": True,
        "disk": True,
    }


def test_a_second_server_on_the_same_home_is_told_so(platform: Platform):
    result = serve(platform.env | {"PORT": str(free_port())})
    assert result.returncode != 0
    assert "running already" in result.stderr


def test_a_port_that_is_taken_is_named(platform: Platform, tmp_path):
    result = serve(platform.env | {"DEEPEXTENSION_HOME": str(tmp_path)})
    assert result.returncode != 0
    assert f"Port {platform.url.rpartition(':')[2]} is taken" in result.stderr
