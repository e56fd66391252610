"""The operators' site: Django's own admin under the product's name."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponseRedirect
from django.urls import reverse
from django.utils.decorators import method_decorator


class DeepExtensionAdminSite(admin.AdminSite):
    site_header = "DeepExtension"
    site_title = "DeepExtension administration"
    index_title = "Administration"
    # The width is for columns, and everything is one click away on the first page.
    enable_nav_sidebar = False

    @method_decorator(login_not_required)
    def login(self, request: HttpRequest, extra_context: Any = None) -> Any:
        """One page to sign in, which also works on a full disk. People who are signed in already
        and may not see the administration get Django's page, which says so."""
        if request.user.is_authenticated:
            return super().login(request, extra_context)

        target = request.GET.get(REDIRECT_FIELD_NAME) or reverse("admin:index")
        query = urlencode({REDIRECT_FIELD_NAME: target})

        return HttpResponseRedirect(f"{reverse('login')}?{query}")

    def password_change(self, request: HttpRequest, extra_context: Any = None) -> Any:
        """One place to change a password, with one limit on guessing the present one."""
        return HttpResponseRedirect(f"{reverse('accounts:account')}#password")
