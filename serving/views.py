"""The page of operators about models that answer."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.decorators import method_decorator
from django.views import View

from core.errors import UserError
from core.parts import page_or_part, wants_part
from core.requests import integer_of, reader_of
from jobs.models import DevicePolicy
from serving.overview import CHANGE, model_unload, overview, policy_change


@method_decorator(page_or_part, name="dispatch")
class ServingPageView(View):
    """The page, and to htmx what changes of it."""

    def get(self, request: HttpRequest) -> HttpResponse:
        reader = reader_of(request)
        context = overview(reader) | {"may_change": reader.has_perm(CHANGE)}
        if wants_part(request):
            return render(request, "serving/_serving.html", context)

        context["rules"] = [
            (value or "automatic", label) for value, label in DevicePolicy.Rule.choices
        ]
        return render(request, "serving/serving.html", context)


class ServingActionView(View):
    def post(self, request: HttpRequest) -> HttpResponse:
        try:
            messages.success(request, self.act(request))
        except UserError as error:
            messages.error(request, error.message)

        return redirect("serving:serving")

    def act(self, request: HttpRequest) -> str:
        raise NotImplementedError


class UnloadView(ServingActionView):
    def act(self, request: HttpRequest) -> str:
        key = request.POST.get("base_key", "")
        if model_unload(base_key=key, by=reader_of(request)):
            return "The model is unloaded. It loads again with the next question."

        return "The model was not loaded."


class PolicyView(ServingActionView):
    def act(self, request: HttpRequest) -> str:
        values: dict[str, Any] = {"rule": request.POST.get("rule", "")}
        for name in ("idle_minutes", "models_at_once"):
            number = integer_of(request.POST.get(name, ""), least=1, most=10**6)
            if number is None:
                raise UserError({name: ["Enter whole numbers of 1 or more."]})

            values[name] = number

        policy_change(by=reader_of(request), **values)
        return "Saved. This applies from now on."
