from django.urls import path

from training.api import events
from training.api import lists as api_lists
from training.api import merge as api_merge
from training.api import queue as api_queue
from training.api import rewards as api_rewards
from training.api import sharing as api_sharing
from training.api import steps as api_steps
from training.api import trains as api
from training.pages import starter_views

urlpatterns = [
    path("", api.TrainListView.as_view(), name="api-trains"),
    path("plan/", api.TrainPlanView.as_view(), name="api-trains-plan"),
    path("try-rewards/", api_rewards.RewardTrialView.as_view(), name="api-trains-try"),
    path(
        "try-rewards/<str:key>/",
        api_rewards.RewardTrialResultView.as_view(),
        name="api-trains-tried",
    ),
    path("try-step/", api_steps.StepTrialView.as_view(), name="api-trains-try-step"),
    path("try-step/<int:pk>/", api_steps.StepTrialResultView.as_view(), name="api-trains-step"),
    path("sample/", starter_views.SampleTrainView.as_view(), name="api-trains-sample"),
    path("bulk/", api_lists.TrainBulkView.as_view(), name="api-trains-bulk"),
    path("labels/", api_lists.TrainLabelsView.as_view(), name="api-trains-labels"),
    path("columns/", api_lists.TrainColumnsView.as_view(), name="api-trains-columns"),
    path("compare/", api.TrainCompareView.as_view(), name="api-trains-compare"),
    path("<int:pk>/", api.TrainDetailView.as_view(), name="api-train"),
    path("<int:pk>/live/", api.TrainLiveView.as_view(), name="api-train-live"),
    path("<int:pk>/events/", events.TrainEventsView.as_view(), name="api-train-events"),
    path("<int:pk>/metrics/", api.TrainMetricsView.as_view(), name="api-train-metrics"),
    path("<int:pk>/log/", api.TrainLogView.as_view(), name="api-train-log"),
    path("<int:pk>/log/search/", api.TrainLogSearchView.as_view(), name="api-train-log-search"),
    path("<int:pk>/samples/", api.TrainSamplesView.as_view(), name="api-train-samples"),
    path(
        "<int:pk>/completions/",
        api_rewards.TrainCompletionsView.as_view(),
        name="api-train-completions",
    ),
    path("<int:pk>/checkpoints/", api.TrainCheckpointsView.as_view(), name="api-train-checkpoints"),
    path("<int:pk>/stop/", api.TrainStopView.as_view(), name="api-train-stop"),
    path("<int:pk>/save/", api.TrainSaveView.as_view(), name="api-train-save"),
    path("<int:pk>/resume/", api.TrainResumeView.as_view(), name="api-train-resume"),
    path("<int:pk>/move/", api_queue.TrainMoveView.as_view(), name="api-train-move"),
    path("<int:pk>/copy/", api.TrainCopyView.as_view(), name="api-train-copy"),
    path("<int:pk>/merge/", api_merge.TrainMergeView.as_view(), name="api-train-merge"),
    path("<int:pk>/model/", api.TrainModelView.as_view(), name="api-train-model"),
    path("<int:pk>/sharing/", api_sharing.TrainSharingView.as_view(), name="api-train-sharing"),
    path(
        "<int:pk>/hand-over/", api_sharing.TrainHandOverView.as_view(), name="api-train-hand-over"
    ),
]
