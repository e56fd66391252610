from django.urls import path

from jobs import pages

app_name = "jobs"

urlpatterns = [
    path("", pages.JobListView.as_view(), name="list"),
    path("part/", pages.JobListPartView.as_view(), name="list_part"),
    path("<int:pk>/", pages.JobDetailView.as_view(), name="detail"),
    path("<int:pk>/part/", pages.JobDetailPartView.as_view(), name="detail_part"),
    path("<int:pk>/log/download/", pages.JobLogDownloadView.as_view(), name="log_download"),
    path("<int:pk>/stop/", pages.JobStopView.as_view(), name="stop"),
    path("<int:pk>/move/", pages.JobMoveView.as_view(), name="move"),
    path("<int:pk>/delete/", pages.JobDeleteView.as_view(), name="delete"),
]
