from django.urls import path

from core.sharing_views import SharingView
from datasets_app import row_views, views, views_checking
from datasets_app.models import Dataset

app_name = "datasets"

urlpatterns = [
    path("", views.DatasetListPage.as_view(), name="list"),
    path("new/", views.DatasetUploadPage.as_view(), name="upload"),
    path("import/", views.DatasetImportPage.as_view(), name="import"),
    path("<int:pk>/", views.DatasetDetailPage.as_view(), name="detail"),
    path("<int:pk>/lengths/", views.DatasetLengthsPanel.as_view(), name="lengths"),
    path("<int:pk>/tokens/", views.DatasetTokensPanel.as_view(), name="tokens"),
    path(
        "<int:pk>/lengths/cancel/", views_checking.CountCancelAction.as_view(), name="count-cancel"
    ),
    path("<int:pk>/lengths/retry/", views_checking.CountRetryAction.as_view(), name="count-retry"),
    path("<int:pk>/cancel/", views_checking.CheckCancelAction.as_view(), name="check-cancel"),
    path("<int:pk>/check/", views_checking.CheckRetryAction.as_view(), name="check-retry"),
    path("<int:pk>/edit/", views.DatasetEditPage.as_view(), name="edit"),
    path("<int:pk>/findings/<str:key>/", row_views.FindingPanel.as_view(), name="finding"),
    path("<int:pk>/rows/<int:line>/", row_views.RowEditPage.as_view(), name="row"),
    path("<int:pk>/set-aside/", row_views.RowAsideAction.as_view(), name="set-aside"),
    path("<int:pk>/put-back/", row_views.RowPutBackAction.as_view(), name="put-back"),
    path("<int:pk>/discard/", row_views.DiscardAction.as_view(), name="discard"),
    path("<int:pk>/repair/", views.DatasetRepairAction.as_view(), name="repair"),
    path("<int:pk>/columns/", views.DatasetColumnsAction.as_view(), name="columns"),
    path("<int:pk>/archive/", views.DatasetArchiveAction.as_view(), name="archive"),
    path("<int:pk>/restore/", views.DatasetRestoreAction.as_view(), name="restore"),
    path("<int:pk>/delete/", views.DatasetDeleteAction.as_view(), name="delete"),
    path("<int:pk>/file/", views.DatasetDownload.as_view(), name="download"),
    path("<int:pk>/sharing/", SharingView.as_view(model=Dataset), name="sharing"),
]
