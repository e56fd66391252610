"""The proxies' own programs read their configurations, and these say what the platform relies
on."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.live import ROOT

DEPLOY = ROOT / "deploy"


@pytest.fixture
def certificate(tmp_path):
    """A key and a certificate for train.example, as nginx insists on them."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=train.example",
    ]
    command += ["-keyout", "privkey.pem", "-out", "fullchain.pem"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


def test_nginx_reads_its_file(certificate, tmp_path):
    if shutil.which("nginx") is None:
        pytest.skip("no nginx here")
    text = (DEPLOY / "nginx.conf").read_text()
    text = text.replace("/etc/letsencrypt/live/train.example", str(certificate))
    text = re.sub(r"listen (\[::\]:)?(80|443)", r"listen \g<1>8\2", text)
    (tmp_path / "site.conf").write_text(text)
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; error_log stderr; events {{}} http {{ access_log off; include "
        f"{tmp_path}/site.conf; }}"
    )
    command = ["nginx", "-t", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "warn" not in result.stderr


def test_caddy_reads_its_file():
    if shutil.which("caddy") is None:
        pytest.skip("no caddy here")
    command = ["caddy", "validate", "--config", str(DEPLOY / "Caddyfile"), "--adapter", "caddyfile"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "nginx.conf",
            ["proxy_request_buffering off", "proxy_buffering off", "X-Forwarded-Proto $scheme"],
        ),
        (
            "nginx.conf",
            ["X-Forwarded-For $remote_addr", "client_header_timeout", "limit_conn ", "21g"],
        ),
        (
            "Caddyfile",
            ["flush_interval -1", "read_header 20s", "X-Forwarded-For {remote_host}", "21GB"],
        ),
    ],
)
def test_they_say_what_the_platform_relies_on(name, wanted):
    text = (DEPLOY / name).read_text()
    assert [words for words in wanted if words not in text] == []
