from django.urls import path

from serving import api

urlpatterns = [
    path("", api.ServingView.as_view(), name="api-serving"),
    path("unload/", api.ServingUnloadView.as_view(), name="api-serving-unload"),
    path("policy/", api.ServingPolicyView.as_view(), name="api-serving-policy"),
]
