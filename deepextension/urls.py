from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from deepextension.health import healthz

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="training:list"), name="home"),
    path("trains/", include("training.urls")),
    path("chains/", include("chains.urls")),
    path("sweeps/", include("sweeps.urls")),
    path("datasets/", include("datasets_app.urls")),
    path("models/", include("models_app.urls")),
    path("exports/", include("exports.urls")),
    path("methods/", include("methods.urls")),
    path("serving/", include("serving.urls")),
    path("playground/", include("playground.urls")),
    path("jobs/", include("jobs.urls")),
    path("account/", include("accounts.urls")),
    path("", include("accounts.sign_in_urls")),
    path("admin/queue/", include("django_rq.urls")),
    path("admin/", admin.site.urls),
    path("api/v1/", include("deepextension.api_urls")),
    path("hub/", include("mirror.urls")),
    path("v1/", include("openai_api.urls")),
    path("programs/", include("openai_api.page_urls")),
    path("healthz", healthz, name="healthz"),
]

handler400 = "deepextension.refusals.bad_request"
handler404 = "deepextension.refusals.not_found"
handler500 = "deepextension.refusals.server_error"
