"""Addresses of this app."""

from django.urls import include, path

from openai_api.views import files, fine_tuning, models

app_name = "openai_api"

JOBS = "fine_tuning/jobs"
JOB = f"{JOBS}/<str:public_id>"

urlpatterns = [
    path("", include("openai_api.inference.urls")),
    path("models", models.ModelsView.as_view(), name="models"),
    # Names of hubs hold strokes.
    path("models/<path:name>", models.ModelView.as_view(), name="model"),
    path("files", files.FilesView.as_view(), name="files"),
    path("files/<str:public_id>", files.FileView.as_view(), name="file"),
    path("files/<str:public_id>/content", files.FileContentView.as_view(), name="file-content"),
    path("uploads", files.UploadsView.as_view(), name="uploads"),
    path("uploads/<str:public_id>/parts", files.UploadPartsView.as_view(), name="upload-parts"),
    path(
        "uploads/<str:public_id>/complete",
        files.UploadCompleteView.as_view(),
        name="upload-complete",
    ),
    path("uploads/<str:public_id>/cancel", files.UploadCancelView.as_view(), name="upload-cancel"),
    path(JOBS, fine_tuning.JobsView.as_view(), name="jobs"),
    path(JOB, fine_tuning.JobView.as_view(), name="job"),
    path(f"{JOB}/cancel", fine_tuning.JobCancelView.as_view(), name="job-cancel"),
    path(f"{JOB}/pause", fine_tuning.JobPauseView.as_view(), name="job-pause"),
    path(f"{JOB}/resume", fine_tuning.JobResumeView.as_view(), name="job-resume"),
    path(f"{JOB}/events", fine_tuning.JobEventsView.as_view(), name="job-events"),
    path(f"{JOB}/checkpoints", fine_tuning.JobCheckpointsView.as_view(), name="job-checkpoints"),
    path(
        "fine_tuning/alpha/graders/validate",
        fine_tuning.GraderValidateView.as_view(),
        name="grader-validate",
    ),
    path("fine_tuning/alpha/graders/run", fine_tuning.GraderRunView.as_view(), name="grader-run"),
]
