from django.urls import path

from models_app import api, api_sharing

urlpatterns = [
    path("", api.BaseModelListView.as_view(), name="api-models"),
    path("folders/", api.FoldersView.as_view(), name="api-model-folders"),
    path("<str:key>/", api.BaseModelDetailView.as_view(), name="api-model"),
    path("<str:key>/passport/", api.BaseModelPassportView.as_view(), name="api-model-passport"),
    path("<str:key>/archive/", api.BaseModelArchiveView.as_view(), name="api-model-archive"),
    path("<str:key>/restore/", api.BaseModelRestoreView.as_view(), name="api-model-restore"),
    path("<str:key>/retry/", api.BaseModelRetryView.as_view(), name="api-model-retry"),
    path(
        "<str:key>/sharing/", api_sharing.BaseModelSharingView.as_view(), name="api-model-sharing"
    ),
    path(
        "<str:key>/hand-over/",
        api_sharing.BaseModelHandOverView.as_view(),
        name="api-model-hand-over",
    ),
    path("<str:key>/cancel/", api.BaseModelCancelView.as_view(), name="api-model-cancel"),
]
