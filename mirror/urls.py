from django.urls import path

from mirror import views

app_name = "mirror"

API = "api/models/<str:namespace>/<str:name>"

urlpatterns = [
    path(API, views.FactsView.as_view(), name="model"),
    path(f"{API}/refs", views.RefsView.as_view(), name="refs"),
    path(f"{API}/revision/<str:revision>", views.FactsView.as_view(), name="revision"),
    path(f"{API}/tree/<str:revision>", views.TreeView.as_view(), name="tree"),
    path(f"{API}/tree/<str:revision>/<path:folder>", views.TreeView.as_view(), name="folder"),
    path(
        "v2/<str:namespace>/<str:name>/manifests/<str:tag>",
        views.ManifestView.as_view(),
        name="manifest",
    ),
    path(
        "<str:namespace>/<str:name>/resolve/<str:revision>/<path:path>",
        views.FileView.as_view(),
        name="file",
    ),
]
