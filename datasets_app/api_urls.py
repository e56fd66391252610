from django.urls import path

from datasets_app import api, api_checking, api_doctor, api_rows, api_sharing

urlpatterns = [
    path("", api.DatasetListView.as_view(), name="api-datasets"),
    path("import/", api.DatasetImportView.as_view(), name="api-dataset-import"),
    path("<str:key>/", api.DatasetDetailView.as_view(), name="api-dataset"),
    path("<str:key>/rows/", api.DatasetRowsView.as_view(), name="api-dataset-rows"),
    path("<str:key>/rows/<int:line>/", api_rows.DatasetRowView.as_view(), name="api-dataset-row"),
    path("<str:key>/search/", api_rows.DatasetSearchView.as_view(), name="api-dataset-search"),
    path("<str:key>/changes/", api_rows.DatasetChangesView.as_view(), name="api-dataset-changes"),
    path(
        "<str:key>/changes/<int:change>/",
        api_rows.DatasetChangeView.as_view(),
        name="api-dataset-change",
    ),
    path("<str:key>/problems/", api.DatasetProblemsView.as_view(), name="api-dataset-problems"),
    path("<str:key>/lengths/", api.DatasetLengthsView.as_view(), name="api-dataset-lengths"),
    path(
        "<str:key>/lengths/cancel/",
        api_checking.DatasetCountCancelView.as_view(),
        name="api-dataset-count-cancel",
    ),
    path(
        "<str:key>/lengths/retry/",
        api_checking.DatasetCountRetryView.as_view(),
        name="api-dataset-count-retry",
    ),
    path(
        "<str:key>/cancel/",
        api_checking.DatasetCheckCancelView.as_view(),
        name="api-dataset-cancel",
    ),
    path(
        "<str:key>/check/", api_checking.DatasetCheckRetryView.as_view(), name="api-dataset-check"
    ),
    path("<str:key>/tokens/", api.DatasetTokensView.as_view(), name="api-dataset-tokens"),
    path("<str:key>/doctor/", api_doctor.DatasetDoctorView.as_view(), name="api-dataset-doctor"),
    path(
        "<str:key>/doctor/<str:finding>/",
        api_doctor.DatasetFindingView.as_view(),
        name="api-dataset-finding",
    ),
    path("<str:key>/repairs/", api_doctor.DatasetRepairsView.as_view(), name="api-dataset-repairs"),
    path("<str:key>/file/", api.DatasetFileView.as_view(), name="api-dataset-file"),
    path("<str:key>/archive/", api.DatasetArchiveView.as_view(), name="api-dataset-archive"),
    path("<str:key>/restore/", api.DatasetRestoreView.as_view(), name="api-dataset-restore"),
    path(
        "<str:key>/sharing/", api_sharing.DatasetSharingView.as_view(), name="api-dataset-sharing"
    ),
    path(
        "<str:key>/hand-over/",
        api_sharing.DatasetHandOverView.as_view(),
        name="api-dataset-hand-over",
    ),
]
