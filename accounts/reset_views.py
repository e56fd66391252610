"""A new password by mail, for those who forgot theirs. These pages do not exist where no mail can be
sent."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import views as auth
from django.contrib.auth.decorators import login_not_required
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.urls import reverse_lazy
from django.utils.decorators import method_decorator
from django.views import View

from accounts.lockout import reset_count
from accounts.mail import mail_is_set_up, password_reset_enqueue


class NeedsMail:
    """A mixin for views: 404 where no mail can be sent."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not mail_is_set_up():
            raise Http404

        return super().dispatch(request, *args, **kwargs)  # type: ignore[misc,no-any-return]


@method_decorator(login_not_required, name="dispatch")
class ResetAskPage(NeedsMail, View):
    """Says the same whether there is such an account or not."""

    def get(self, request: HttpRequest) -> HttpResponse:
        return render(request, "registration/reset_ask.html")

    def post(self, request: HttpRequest) -> HttpResponse:
        email = request.POST.get("email", "")[:254]
        reset_count(request, email)
        password_reset_enqueue(email)
        return render(request, "registration/reset_sent.html", {"email": email})


@method_decorator(login_not_required, name="dispatch")
class ResetConfirmPage(NeedsMail, auth.PasswordResetConfirmView):
    template_name = "registration/reset_confirm.html"
    success_url = reverse_lazy("password-reset-done")


@method_decorator(login_not_required, name="dispatch")
class ResetDonePage(NeedsMail, View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return render(request, "registration/reset_done.html")
