"""The administration's own site, and libraries under names that say what they are for."""

from __future__ import annotations

from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig
from django.contrib.auth.apps import AuthConfig
from django_rq.apps import DjangoRqAdminConfig


class DeepExtensionAdminConfig(AdminConfig):
    default_site = "deepextension.admin.DeepExtensionAdminSite"


class PeopleConfig(AuthConfig):
    verbose_name = "People"


class TokensConfig(AppConfig):
    name = "knox"
    verbose_name = "API tokens"


class QueuesConfig(DjangoRqAdminConfig):
    verbose_name = "Background work"
