"""Addresses of this app."""

from django.urls import path

from core.sharing_views import SharingView
from playground import pages
from playground.models import Conversation

app_name = "playground"

urlpatterns = [
    path("", pages.NewView.as_view(), name="new"),
    path("conversations/", pages.ListView.as_view(), name="list"),
    path("feedback/", pages.FeedbackView.as_view(), name="feedback"),
    path("shared/<str:link>/", pages.SharedView.as_view(), name="shared"),
    path("<int:pk>/", pages.ConversationView.as_view(), name="detail"),
    path("<int:pk>/rename/", pages.RenameView.as_view(), name="rename"),
    path("<int:pk>/delete/", pages.DeleteView.as_view(), name="delete"),
    path("<int:pk>/link/", pages.LinkView.as_view(), name="link"),
    path("<int:pk>/sharing/", SharingView.as_view(model=Conversation), name="sharing"),
]
