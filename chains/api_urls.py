from django.urls import path

from chains import api

urlpatterns = [
    path("", api.ChainListView.as_view(), name="api-chains"),
    path("<int:pk>/", api.ChainDetailView.as_view(), name="api-chain"),
    path("<int:pk>/cancel/", api.ChainCancelView.as_view(), name="api-chain-cancel"),
    path("<int:pk>/go-on/", api.ChainGoOnView.as_view(), name="api-chain-go-on"),
    path("<int:pk>/run/", api.ChainRunView.as_view(), name="api-chain-run"),
    path("<int:pk>/copy/", api.ChainCopyView.as_view(), name="api-chain-copy"),
    path("<int:pk>/sharing/", api.ChainSharingView.as_view(), name="api-chain-sharing"),
    path("<int:pk>/hand-over/", api.ChainHandOverView.as_view(), name="api-chain-hand-over"),
]
