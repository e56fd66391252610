from django.urls import path

from exports import api

urlpatterns = [
    path("", api.ExportListView.as_view(), name="api-exports"),
    path("<int:pk>/", api.ExportDetailView.as_view(), name="api-export"),
    path("<int:pk>/cancel/", api.ExportCancelView.as_view(), name="api-export-cancel"),
    path("<int:pk>/retry/", api.ExportRetryView.as_view(), name="api-export-retry"),
    path("<int:pk>/compare/", api.ExportCompareView.as_view(), name="api-export-compare"),
    path("<int:pk>/deliver/", api.ExportDeliverView.as_view(), name="api-export-deliver"),
    path("<int:pk>/download/", api.ExportDownloadView.as_view(), name="api-export-download"),
]
