from django.urls import path

from exports import views

app_name = "exports"

urlpatterns = [
    path("new/<int:pk>/", views.ExportNewView.as_view(), name="new"),
    path("<int:pk>/", views.ExportDetailView.as_view(), name="detail"),
    path("<int:pk>/cancel/", views.ExportCancelView.as_view(), name="cancel"),
    path("<int:pk>/retry/", views.ExportRetryView.as_view(), name="retry"),
    path("<int:pk>/compare/", views.ExportCompareView.as_view(), name="compare"),
    path("<int:pk>/deliver/", views.ExportDeliverView.as_view(), name="deliver"),
    path("<int:pk>/delete/", views.ExportDeleteView.as_view(), name="delete"),
    path("<int:pk>/download/", views.ExportDownloadView.as_view(), name="download"),
]
