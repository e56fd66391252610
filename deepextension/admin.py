"""The operators' site: Django's own admin under the product's name."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponseRedirect
from django.urls import reverse


class DeepExtensionAdminSite(admin.AdminSite):
    site_header = "DeepExtension"
    site_title = "DeepExtension administration"
    index_title = "Administration"
    # The room is for columns, and everything is a click away on the first page.
    enable_nav_sidebar = False

    def password_change(self, request: HttpRequest, extra_context: Any = None) -> Any:
        """One place to change a password, with one limit on guessing the present one."""
        return HttpResponseRedirect(f"{reverse('accounts:account')}#password")
