from django.urls import path

from playground import api

ANSWER = "<int:pk>/turns/<int:position>/answers/<int:place>/"

urlpatterns = [
    path("", api.ConversationListView.as_view(), name="api-conversations"),
    path("datasets/", api.DatasetMakeView.as_view(), name="api-conversations-dataset"),
    path("feedback/", api.TalliesView.as_view(), name="api-conversations-feedback"),
    path("prompts/", api.PromptsView.as_view(), name="api-conversations-prompts"),
    path("targets/", api.TargetsView.as_view(), name="api-conversations-targets"),
    path("tokens/", api.TokensView.as_view(), name="api-conversations-tokens"),
    path("warm/", api.WarmView.as_view(), name="api-conversations-warm"),
    path("<int:pk>/", api.ConversationDetailView.as_view(), name="api-conversation"),
    path("<int:pk>/link/", api.ConversationLinkView.as_view(), name="api-conversation-link"),
    path("<int:pk>/turns/", api.TurnListView.as_view(), name="api-conversation-turns"),
    path(
        "<int:pk>/turns/<int:position>/vote/",
        api.VoteView.as_view(),
        name="api-conversation-vote",
    ),
    path(ANSWER, api.AnswerStreamView.as_view(), name="api-conversation-answer"),
    path(f"{ANSWER}thumb/", api.ThumbView.as_view(), name="api-conversation-thumb"),
    path(
        f"{ANSWER}correction/",
        api.CorrectionView.as_view(),
        name="api-conversation-correction",
    ),
    path(
        f"{ANSWER}results/",
        api.ResultsView.as_view(),
        name="api-conversation-results",
    ),
    path(
        "<int:pk>/sharing/", api.ConversationSharingView.as_view(), name="api-conversation-sharing"
    ),
    path(
        "<int:pk>/hand-over/",
        api.ConversationHandOverView.as_view(),
        name="api-conversation-hand-over",
    ),
]
