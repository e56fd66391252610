"""Whether mail can be sent at all, and the mail with a link to choose a new password."""

from __future__ import annotations

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.tokens import default_token_generator
from django.core.mail import send_mail
from django.urls import reverse
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode

from jobs.adding import job_add


def mail_is_set_up() -> bool:
    return bool(settings.MAIL_FROM)


def password_reset_enqueue(email: str) -> None:
    """Have a mail sent to everybody with this address who may sign in with a password.

    In the background: the time that the answer takes must not reveal whether there is such a
    person.
    """
    people = get_user_model().objects.filter(email__iexact=email.strip(), is_active=True)
    for user in people:
        if user.has_usable_password():
            job_add(
                "password-reset",
                user.pk,
                key=f"password-reset-{user.pk}",
                name=user.get_username(),
                owner_id=None,
                expected_seconds=5,
                # Whoever asks again need not wait until the mail server is tried again by itself.
                end_pause=True,
            )


def password_reset_send(user_id: int) -> None:
    """Background work. Raises OSError or SMTPException where the mail server does not take it; it
    is tried again then. The link is valid for PASSWORD_RESET_TIMEOUT, until the next sign-in or
    change of password."""
    user = get_user_model().objects.filter(pk=user_id, is_active=True).first()
    if user is None or not user.email:
        return

    uid = urlsafe_base64_encode(force_bytes(user.pk))
    token = default_token_generator.make_token(user)
    path = reverse("password-reset-confirm", kwargs={"uidb64": uid, "token": token})
    minutes = settings.PASSWORD_RESET_TIMEOUT // 60

    lines = [
        f"Somebody, probably you, asked for a new password for the account {user.get_username()}.",
        f"Choose it here within {minutes} minutes:",
        settings.PUBLIC_URL.rstrip("/") + path,
        "If it was not you, ignore this mail: nothing has changed.",
    ]

    send_mail(
        "A new password for DeepExtension",
        "\n\n".join(lines) + "\n",
        settings.MAIL_FROM,
        [user.email],
    )
