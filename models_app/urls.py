from django.urls import path

from core.sharing_views import SharingView
from models_app import views
from models_app.models import BaseModel

app_name = "models"

urlpatterns = [
    path("", views.ModelListView.as_view(), name="list"),
    path("new/", views.ModelAddView.as_view(), name="add"),
    path("<int:pk>/", views.ModelDetailView.as_view(), name="detail"),
    path("<int:pk>/passport/", views.ModelPassportView.as_view(), name="passport"),
    path("<int:pk>/edit/", views.ModelUpdateView.as_view(), name="update"),
    path("<int:pk>/archive/", views.ModelArchiveView.as_view(), name="archive"),
    path("<int:pk>/restore/", views.ModelRestoreView.as_view(), name="restore"),
    path("<int:pk>/retry/", views.ModelRetryView.as_view(), name="retry"),
    path("<int:pk>/cancel/", views.ModelCancelView.as_view(), name="cancel"),
    path("<int:pk>/delete/", views.ModelDeleteView.as_view(), name="delete"),
    path("<int:pk>/sharing/", SharingView.as_view(model=BaseModel), name="sharing"),
]
