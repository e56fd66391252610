"""The addresses of trains. Numbers before words: `compare` and `new` are no ids."""

from __future__ import annotations

from django.urls import path

from training import views

app_name = "training"

urlpatterns = [
    path("", views.TrainListView.as_view(), name="list"),
    path("live/", views.TrainLiveView.as_view(), name="live"),
    path("<int:pk>/", views.TrainOverviewView.as_view(), name="overview"),
    path("<int:pk>/log/", views.TrainLogPageView.as_view(), name="log"),
    path("<int:pk>/log/download/", views.TrainLogDownloadView.as_view(), name="log_download"),
    path("<int:pk>/stop/", views.TrainStopView.as_view(), name="stop"),
    path("<int:pk>/edit/", views.TrainEditView.as_view(), name="edit"),
    path("<int:pk>/delete/", views.TrainDeleteView.as_view(), name="delete"),
    path("<int:pk>/copy/", views.TrainCopyView.as_view(), name="copy"),
    path("<int:pk>/download/", views.TrainDownloadView.as_view(), name="download"),
]
