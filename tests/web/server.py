"""The web server alone, with short time-outs and a small home: python -m tests.web.server"""

from __future__ import annotations

import os

import django


def make_home() -> None:
    """A database with Alice and a dataset of hers, whose file is large."""
    from django.contrib.auth.models import User
    from django.core.management import call_command

    from datasets_app.models import Dataset

    call_command("migrate", verbosity=0)
    call_command("collectstatic", verbosity=0, interactive=False)
    alice = User.objects.create_user("alice", password="alice-password-1")
    size = int(os.environ["DATASET_BYTES"])
    dataset = Dataset.objects.create(
        owner=alice,
        name="Large",
        slug="large",
        file_name="large.jsonl",
        file_type="jsonl",
        size_bytes=size,
        sha256="0" * 64,
        status="ready",
        format="messages",
        row_count=10,
    )
    dataset.path.parent.mkdir(parents=True)
    with dataset.path.open("wb") as stream:
        for _ in range(size // 2**20):
            stream.write(b"x" * 2**20)


def main() -> None:
    django.setup()
    from django.core.management import call_command

    from core.web import protocol

    make_home()
    protocol.HEAD_SECONDS = 3
    protocol.BODY_SECONDS, protocol.BODY_BYTES = 3, 1000
    protocol.READ_SECONDS = 3
    call_command("web")


if __name__ == "__main__":
    main()
