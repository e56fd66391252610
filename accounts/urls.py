from django.urls import path

from accounts import views

app_name = "accounts"

urlpatterns = [
    path("", views.AccountPage.as_view(), name="account"),
    path("profile/", views.ProfileAction.as_view(), name="profile"),
    path("password/", views.PasswordAction.as_view(), name="password"),
    path("tokens/", views.TokenCreateAction.as_view(), name="token-create"),
    path("tokens/<uuid:public_id>/revoke/", views.TokenRevokeAction.as_view(), name="token-revoke"),
    path("hub-token/", views.HubTokenAction.as_view(), name="hub-token"),
    path("hub-token/remove/", views.HubTokenRemoveAction.as_view(), name="hub-token-remove"),
]
