from django.urls import path

from methods import edit_views, views

app_name = "methods"

urlpatterns = [
    path("", views.MethodListView.as_view(), name="list"),
    path("new/", edit_views.MethodNewView.as_view(), name="new"),
    path("<slug:slug>/edit/", edit_views.MethodEditView.as_view(), name="edit"),
    path("<slug:slug>/retire/", edit_views.MethodRetireView.as_view(), name="retire"),
]
