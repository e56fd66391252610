"""What the background workers call for the platform itself."""

from __future__ import annotations


def send_notices() -> None:
    from jobs.notices import notices_send

    notices_send()
