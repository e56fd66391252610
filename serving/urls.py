from django.urls import path

from serving import views

app_name = "serving"

urlpatterns = [
    path("", views.ServingPageView.as_view(), name="serving"),
    path("unload/", views.UnloadView.as_view(), name="unload"),
    path("policy/", views.PolicyView.as_view(), name="policy"),
]
