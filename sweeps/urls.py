from django.urls import path

from core.sharing_views import SharingView
from sweeps import form, pages
from sweeps.models import Sweep

app_name = "sweeps"

urlpatterns = [
    path("", pages.SweepListView.as_view(), name="list"),
    path("new/<slug:slug>/", form.SweepFormView.as_view(), name="new"),
    path("new/<slug:slug>/plan/", form.SweepPlanView.as_view(), name="plan"),
    path("<int:pk>/", pages.SweepDetailView.as_view(), name="detail"),
    path("<int:pk>/pause/", pages.SweepPauseView.as_view(), name="pause"),
    path("<int:pk>/stop/", pages.SweepStopView.as_view(), name="stop"),
    path("<int:pk>/continue/", pages.SweepContinueView.as_view(), name="continue"),
    path("<int:pk>/rename/", pages.SweepRenameView.as_view(), name="rename"),
    path("<int:pk>/delete/", pages.SweepDeleteView.as_view(), name="delete"),
    path("<int:pk>/sharing/", SharingView.as_view(model=Sweep), name="sharing"),
]
