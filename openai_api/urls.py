"""Addresses of this app."""

from django.urls import URLPattern, URLResolver, include, path

app_name = "openai_api"
urlpatterns: list[URLPattern | URLResolver] = [
    path("", include("openai_api.asking.urls")),
]
