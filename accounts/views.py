"""The account page: one page, and an action for each of its forms."""

from __future__ import annotations

import re
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters

from accounts.mail import mail_is_set_up
from accounts.scopes import SCOPES
from accounts.services import (
    account_update,
    hub_token_clear,
    hub_token_set,
    hub_token_state,
    may_use_platform_token,
    password_change,
    profile_of,
)
from accounts.tokens import DEFAULT_SCOPE, MOST_REQUESTS, token_create, token_revoke, tokens_of
from core.errors import UserError
from core.sign_in import SignInView
from core.text import number_of

EXPIRY_DAYS = (7, 30, 90, 365)


@method_decorator(never_cache, name="dispatch")
class AccountPage(View):
    """The page, and what its actions share: after an error it is shown again with what was sent."""

    @property
    def reader(self) -> User:
        assert isinstance(self.request.user, User)
        return self.request.user

    def get(self, request: HttpRequest) -> HttpResponse:
        return self.page()

    def page(self, error: UserError | None = None, **more: Any) -> HttpResponse:
        context = self.account() | more
        status = 200

        if error is not None:
            context["errors"] = error.fields
            context["whole"] = " ".join(error.fields.get("", []))
            context["values"] = self.request.POST
            status = error.status

        return render(self.request, "accounts/account.html", context, status=status)

    def account(self) -> dict[str, Any]:
        user = self.reader

        return {
            "errors": {},
            "whole": "",
            "values": {},
            "profile": profile_of(user),
            "mail_is_set_up": mail_is_set_up(),
            "tokens": tokens_of(user),
            "tokens_most": settings.TOKENS_PER_PERSON,
            "scopes": SCOPES.values(),
            "default_scope": DEFAULT_SCOPE,
            "expiry_days": sorted({*EXPIRY_DAYS, settings.TOKEN_DAYS}),
            "default_days": settings.TOKEN_DAYS,
            "default_requests": settings.REQUESTS_PER_MINUTE,
            "requests_most": MOST_REQUESTS,
            "hub_token": hub_token_state(user),
            "has_platform_token": bool(settings.HF_TOKEN) and may_use_platform_token(user),
        }


class AccountAction(AccountPage):
    """One change by POST, then back to the page with a message about it.

    section: the part of the page to return to. done: the message.
    """

    http_method_names = ("post",)
    section = ""
    done = ""

    def post(self, request: HttpRequest, **path: Any) -> HttpResponse:
        try:
            self.act(**path)
        except UserError as error:
            if error.status in (429, 503):
                raise

            return self.page(error)

        messages.success(request, self.done)
        return HttpResponseRedirect(f"{redirect('accounts:account').url}#{self.section}")

    def act(self, **path: Any) -> None:
        raise NotImplementedError


class ProfileAction(AccountAction):
    section = "profile"
    done = "Saved."

    def act(self, **path: Any) -> None:
        email = self.request.POST.get("email", "")
        account_update(user=self.reader, email=email, notices="notices" in self.request.POST)


@method_decorator(sensitive_post_parameters(), name="dispatch")
class PasswordAction(AccountAction):
    section = "password"
    done = (
        "Your password is changed. Your API tokens and your sessions in other browsers have ended."
    )

    def act(self, **path: Any) -> None:
        sent = self.request.POST
        old = sent.get("old_password", "")
        new = sent.get("new_password", "")
        new_again = sent.get("new_password_again", "")

        if new != new_again:
            raise UserError({"new_password_again": ["The two new passwords differ."]})

        password_change(user=self.reader, request=self.request, old=old, new=new)
        update_session_auth_hash(self.request, self.reader)


class TokenCreateAction(AccountAction):
    """Answers with the page itself: the token's text is shown this once and never stored, not even
    in the session."""

    section = "tokens"

    def post(self, request: HttpRequest, **path: Any) -> HttpResponse:
        sent = request.POST
        try:
            token, text = token_create(
                user=self.reader,
                name=sent.get("name", ""),
                scope=sent.get("scope", ""),
                days=number_of(sent.get("days", "")),
                requests_per_minute=_requests(sent.get("requests_per_minute", "")),
            )
        except UserError as error:
            return self.page(error)

        return self.page(new_token=token, new_token_text=text)


def _requests(text: str) -> int | None:
    """None where nothing was written, -1 (which is refused) for what is no number."""
    if not text.strip():
        return None

    # Digits of other scripts are digits, too, and no number to the database.
    return int(text) if re.fullmatch("[0-9]{1,7}", text.strip()) else -1


class TokenRevokeAction(AccountAction):
    section = "tokens"
    done = "Revoked. Programs that use this token are refused from now on."

    def act(self, **path: Any) -> None:
        token_revoke(user=self.reader, public_id=path["public_id"])


@method_decorator(sensitive_post_parameters(), name="dispatch")
class HubTokenAction(AccountAction):
    section = "hub"
    done = "Your Hugging Face token is stored."

    def act(self, **path: Any) -> None:
        token = self.request.POST.get("hub_token", "")
        hub_token_set(user=self.reader, token=token)


class HubTokenRemoveAction(AccountAction):
    section = "hub"
    done = "Your Hugging Face token is removed."

    def act(self, **path: Any) -> None:
        hub_token_clear(user=self.reader)


class SignInPage(SignInView):
    extra_context = {"mail_is_set_up": mail_is_set_up}
