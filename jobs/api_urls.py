from django.urls import path

from jobs import api

urlpatterns = [
    path("", api.JobListView.as_view(), name="api-jobs"),
    path("<int:pk>/", api.JobDetailView.as_view(), name="api-job"),
    path("<int:pk>/stop/", api.JobStopView.as_view(), name="api-job-stop"),
    path("<int:pk>/move/", api.JobMoveView.as_view(), name="api-job-move"),
    path("<int:pk>/log/", api.JobLogView.as_view(), name="api-job-log"),
    path("<int:pk>/log/search/", api.JobLogSearchView.as_view(), name="api-job-log-search"),
]
