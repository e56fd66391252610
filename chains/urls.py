from django.urls import path

from chains import form, pages
from chains.models import Chain
from core.sharing_views import SharingView

app_name = "chains"

STAGE = "<int:pk>/stages/<int:position>/"

urlpatterns = [
    path("", pages.ChainListView.as_view(), name="list"),
    path("new/<slug:slug>/", form.ChainBeginView.as_view(), name="begin"),
    path("<int:pk>/", pages.ChainDetailView.as_view(), name="detail"),
    path("<int:pk>/add/", form.StageMethodView.as_view(), name="add"),
    path("<int:pk>/run/", pages.ChainOrderView.as_view(), name="run"),
    path("<int:pk>/cancel/", pages.ChainCancelView.as_view(), name="cancel"),
    path("<int:pk>/go-on/", pages.ChainGoOnView.as_view(), name="go_on"),
    path("<int:pk>/rename/", pages.ChainRenameView.as_view(), name="rename"),
    path("<int:pk>/copy/", pages.ChainCopyView.as_view(), name="copy"),
    path("<int:pk>/delete/", pages.ChainDeleteView.as_view(), name="delete"),
    path("<int:pk>/sharing/", SharingView.as_view(model=Chain), name="sharing"),
    path(f"{STAGE}remove/", pages.StageRemoveView.as_view(), name="stage_remove"),
    path(f"{STAGE}move/", pages.StageMoveView.as_view(), name="stage_move"),
    path(f"{STAGE}gate/", pages.StageGateView.as_view(), name="stage_gate"),
    path(f"{STAGE}form/<slug:slug>/", form.StageView.as_view(), name="stage"),
    path(f"{STAGE}form/<slug:slug>/plan/", form.StagePlanView.as_view(), name="stage_plan"),
]
