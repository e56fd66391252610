"""Addresses that ask models."""

from django.urls import path

from openai_api.inference.batch_views import BatchCancelView, BatchesView, BatchView
from openai_api.inference.endpoints import RESPONSES
from openai_api.inference.views import AskingView, ResponseView
from serving.answering import CHAT, COMPLETIONS, EMBEDDINGS

urlpatterns = [
    path("chat/completions", AskingView.as_view(endpoint=CHAT), name="chat"),
    path("completions", AskingView.as_view(endpoint=COMPLETIONS), name="completions"),
    path("embeddings", AskingView.as_view(endpoint=EMBEDDINGS), name="embeddings"),
    path("responses", AskingView.as_view(endpoint=RESPONSES), name="responses"),
    path("responses/<str:identity>", ResponseView.as_view(), name="response"),
    path("batches", BatchesView.as_view(), name="batches"),
    path("batches/<str:identity>", BatchView.as_view(), name="batch"),
    path("batches/<str:identity>/cancel", BatchCancelView.as_view(), name="batch-cancel"),
]
