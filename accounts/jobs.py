"""The functions that background workers call."""

from __future__ import annotations


def send_password_reset(user_id: int) -> None:
    from accounts.mail import password_reset_send

    password_reset_send(user_id)
