"""The page "For programs"."""

from django.urls import path

from openai_api.programs import ProgramsPage

app_name = "programs"
urlpatterns = [path("", ProgramsPage.as_view(), name="page")]
