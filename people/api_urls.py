from django.urls import path

from people import api

urlpatterns = [
    path("", api.PersonListView.as_view(), name="api-users"),
    path("<str:key>/", api.PersonDetailView.as_view(), name="api-user"),
]
