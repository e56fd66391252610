"""The administration's own site, and its names for the libraries that store something in the
database."""

from __future__ import annotations

from django.apps import apps
from django.contrib.admin.apps import AdminConfig

# {app label: heading}. Headings name what is below them, not the library that it comes from.
NAMES = {
    "auth": "People",
    "axes": "Sign-in protection",
    "django_rq": "Background work",
    "knox": "API tokens",
}


class DeepExtensionAdminConfig(AdminConfig):
    default_site = "deepextension.admin.DeepExtensionAdminSite"

    def ready(self) -> None:
        super().ready()
        for config in apps.get_app_configs():
            config.verbose_name = NAMES.get(config.label, config.verbose_name)
