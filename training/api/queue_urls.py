from django.urls import path

from training.api import queue as api_queue

urlpatterns = [
    path("", api_queue.QueueView.as_view(), name="api-queue"),
    path("pause/", api_queue.QueuePauseView.as_view(), name="api-queue-pause"),
    path("resume/", api_queue.QueueResumeView.as_view(), name="api-queue-resume"),
]
