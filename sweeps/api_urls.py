from django.urls import path

from sweeps import api

urlpatterns = [
    path("", api.SweepListView.as_view(), name="api-sweeps"),
    path("plan/", api.SweepPlanView.as_view(), name="api-sweeps-plan"),
    path("<int:pk>/", api.SweepDetailView.as_view(), name="api-sweep"),
    path("<int:pk>/pause/", api.SweepPauseView.as_view(), name="api-sweep-pause"),
    path("<int:pk>/stop/", api.SweepStopView.as_view(), name="api-sweep-stop"),
    path("<int:pk>/continue/", api.SweepContinueView.as_view(), name="api-sweep-continue"),
    path("<int:pk>/sharing/", api.SweepSharingView.as_view(), name="api-sweep-sharing"),
    path("<int:pk>/hand-over/", api.SweepHandOverView.as_view(), name="api-sweep-hand-over"),
]
