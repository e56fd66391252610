from django.urls import path

from accounts import api

urlpatterns = [
    path("", api.AccountView.as_view(), name="api-account"),
    path("password/", api.PasswordView.as_view(), name="api-account-password"),
    path("tokens/", api.TokensView.as_view(), name="api-account-tokens"),
    path("tokens/<uuid:public_id>/", api.TokenDetailView.as_view(), name="api-account-token"),
]
