"""The addresses of trains. Numbers before words: `compare` and `new` are no ids."""

from __future__ import annotations

from django.urls import path

from core.sharing_views import SharingView
from training.form import views as form_views
from training.models import TrainRun
from training.pages import chart_views, compare_views, queue_views, starter_views
from training.pages import trains as views

app_name = "training"

urlpatterns = [
    path("", views.TrainListView.as_view(), name="list"),
    path("live/", views.TrainLiveView.as_view(), name="live"),
    path("new/", form_views.MethodChoiceView.as_view(), name="new"),
    path("new/<slug:slug>/", form_views.TrainFormView.as_view(), name="form"),
    path("new/<slug:slug>/plan/", form_views.TrainPlanView.as_view(), name="plan"),
    path("new/<slug:slug>/try-step/", form_views.StepTrialView.as_view(), name="try_step"),
    path("new/<slug:slug>/try/", form_views.RewardTrialView.as_view(), name="try"),
    path("queue/", queue_views.QueuePageView.as_view(), name="queue"),
    path("queue/pause/", queue_views.QueuePauseView.as_view(), name="queue_pause"),
    path("queue/resume/", queue_views.QueueResumeView.as_view(), name="queue_resume"),
    path("try-sample/", starter_views.TrySampleView.as_view(), name="try_sample"),
    path("columns/", views.TrainColumnsView.as_view(), name="columns"),
    path("compare/", compare_views.CompareView.as_view(), name="compare"),
    path("compare/series/", compare_views.CompareSeriesView.as_view(), name="compare_series"),
    path("<int:pk>/", views.TrainOverviewView.as_view(), name="overview"),
    path("<int:pk>/evaluation/", chart_views.EvaluationView.as_view(), name="evaluation"),
    path("<int:pk>/evaluation/answers/", chart_views.AnswersView.as_view(), name="answers"),
    path("<int:pk>/completions/", chart_views.CompletionsView.as_view(), name="completions"),
    path("<int:pk>/judgement/", chart_views.JudgementView.as_view(), name="judgement"),
    path("<int:pk>/alerts/", chart_views.AlertsView.as_view(), name="alerts"),
    path("<int:pk>/series/", chart_views.SeriesView.as_view(), name="series"),
    path("<int:pk>/metrics.csv", chart_views.MetricsCsvView.as_view(), name="metrics_csv"),
    path("<int:pk>/log/", views.TrainLogPageView.as_view(), name="log"),
    path("<int:pk>/log/download/", views.TrainLogDownloadView.as_view(), name="log_download"),
    path("<int:pk>/stop/", views.TrainStopView.as_view(), name="stop"),
    path("<int:pk>/save/", views.TrainSaveView.as_view(), name="save"),
    path("<int:pk>/resume/", views.TrainResumeView.as_view(), name="resume"),
    path("<int:pk>/move/", queue_views.TrainMoveView.as_view(), name="move"),
    path("<int:pk>/wait/", queue_views.TrainWaitView.as_view(), name="wait"),
    path("<int:pk>/edit/", views.TrainEditView.as_view(), name="edit"),
    path("<int:pk>/delete/", views.TrainDeleteView.as_view(), name="delete"),
    path("<int:pk>/copy/", views.TrainCopyView.as_view(), name="copy"),
    path("<int:pk>/merge/", views.TrainMergeView.as_view(), name="merge"),
    path("<int:pk>/download/", views.TrainDownloadView.as_view(), name="download"),
    path("<int:pk>/sharing/", SharingView.as_view(model=TrainRun), name="sharing"),
]
