from django.urls import path

from methods import api

urlpatterns = [
    path("", api.TrainingMethodListView.as_view(), name="api-methods"),
    path("<str:key>/", api.TrainingMethodDetailView.as_view(), name="api-method"),
    path("<str:key>/versions/", api.MethodVersionsView.as_view(), name="api-method-versions"),
    path("<str:key>/retire/", api.MethodRetireView.as_view(), name="api-method-retire"),
    path("<str:key>/restore/", api.MethodRestoreView.as_view(), name="api-method-restore"),
]
