from django.contrib.auth.decorators import login_required
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from accounts.api import SignInView
from exports.api import ModelExportsView
from training.api.search import SearchView

urlpatterns = [
    path("auth/token/", SignInView.as_view(), name="api-token"),
    path("account/", include("accounts.api_urls")),
    path("datasets/", include("datasets_app.api_urls")),
    path("models/<str:key>/exports/", ModelExportsView.as_view(), name="api-model-exports"),
    path("models/", include("models_app.api_urls")),
    path("exports/", include("exports.api_urls")),
    path("methods/", include("methods.api_urls")),
    path("trains/", include("training.api.urls")),
    path("chains/", include("chains.api_urls")),
    path("sweeps/", include("sweeps.api_urls")),
    path("conversations/", include("playground.api_urls")),
    path("jobs/", include("jobs.api_urls")),
    path("serving/", include("serving.api_urls")),
    path("queue/", include("training.api.queue_urls")),
    path("search/", SearchView.as_view(), name="api-search"),
    path("users/", include("people.api_urls")),
    path("schema/", SpectacularAPIView.as_view(), name="api-schema"),
    path(
        "docs/",
        login_required(SpectacularSwaggerSplitView.as_view(url_name="api-schema")),
        name="api-docs",
    ),
]
