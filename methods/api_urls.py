from django.urls import path

from methods import api

urlpatterns = [
    path("", api.TrainingMethodListView.as_view(), name="api-methods"),
    path("<str:key>/", api.TrainingMethodDetailView.as_view(), name="api-method"),
]
