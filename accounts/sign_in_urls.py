from django.contrib.auth.views import LogoutView
from django.urls import path

from accounts import reset_views, views

urlpatterns = [
    path("login/", views.SignInPage.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("password-reset/", reset_views.ResetAskPage.as_view(), name="password-reset"),
    path("password-reset/done/", reset_views.ResetDonePage.as_view(), name="password-reset-done"),
    path(
        "password-reset/<uidb64>/<token>/",
        reset_views.ResetConfirmPage.as_view(),
        name="password-reset-confirm",
    ),
]
