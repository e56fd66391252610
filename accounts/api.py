"""/api/v1/auth/ and /api/v1/account/: signing in as a program, and everything that the account page
can do."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib.auth import authenticate, update_session_auth_hash
from django.contrib.auth.models import User
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import exceptions, permissions
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.serializers import (
    AccountSerializer,
    AccountUpdateSerializer,
    CredentialsSerializer,
    NewTokenSerializer,
    PasswordChangeSerializer,
    SignedInSerializer,
    TokenCreateSerializer,
    TokenSerializer,
)
from accounts.services import (
    account_update,
    hub_token_clear,
    hub_token_set,
    hub_token_state,
    password_change,
    profile_of,
)
from accounts.tokens import token_create, token_revoke, tokens_of
from core.api import ErrorSerializer, errors

# How long to wait, with every 429 and 503.
RETRY_AFTER = OpenApiParameter(
    "Retry-After",
    OpenApiTypes.INT,
    OpenApiParameter.HEADER,
    response=[429, 503],
    description="Seconds until it is worth trying again.",
)
SIGN_IN_REFUSALS: dict[int, Any] = {
    **errors(400, 403),
    409: OpenApiResponse(
        ErrorSerializer, "You have as many tokens as a person may have. Revoke one."
    ),
    429: OpenApiResponse(
        ErrorSerializer, "Too many failed sign-ins from here or for this account."
    ),
    503: OpenApiResponse(ErrorSerializer, "Too many sign-ins at this moment."),
}
KNOWN_STATUSES = errors(400, 401, 403)


class SignInView(APIView):
    """Sign in for a program. The token is shown this once; send it as `Authorization: Token …`."""

    authentication_classes = ()
    permission_classes = (permissions.AllowAny,)

    @extend_schema(
        operation_id="auth_token_create",
        request=CredentialsSerializer,
        responses={200: SignedInSerializer, **SIGN_IN_REFUSALS},
        parameters=[RETRY_AFTER],
    )
    def post(self, request: Request) -> Response:
        body = CredentialsSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        data = body.validated_data

        # The plain HttpRequest has the address that failures are counted for.
        user = authenticate(request._request, username=data["username"], password=data["password"])
        if user is None:
            raise exceptions.AuthenticationFailed(
                "The name or the password is wrong. Passwords are case-sensitive."
            )

        token, text = token_create(user=user, name=data["name"], scope=data["scope"])
        return Response({"token": text, "expires_at": token.expiry})


class AccountAPIView(APIView):
    @property
    def reader(self) -> User:
        assert isinstance(self.request.user, User)
        return self.request.user


class AccountView(AccountAPIView):
    """Your own account."""

    @extend_schema(
        operation_id="account_read", responses={200: AccountSerializer, **KNOWN_STATUSES}
    )
    def get(self, request: Request) -> Response:
        return self.answer()

    @extend_schema(
        operation_id="account_update",
        request=AccountUpdateSerializer,
        responses={200: AccountSerializer, **KNOWN_STATUSES},
    )
    def patch(self, request: Request) -> Response:
        """Change your e-mail address, whether you get notices, and your Hugging Face token."""
        body = AccountUpdateSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        data = body.validated_data

        if data.get("hub_token"):
            hub_token_set(user=self.reader, token=data["hub_token"])
        elif "hub_token" in data:
            hub_token_clear(user=self.reader)

        account_update(user=self.reader, email=data.get("email"), notices=data.get("notices"))
        return self.answer()

    def answer(self) -> Response:
        user = self.reader
        account = {
            "username": user.get_username(),
            "email": user.email,
            "notices": profile_of(user).notices,
            "hub_token": hub_token_state(user),
        }

        return Response(AccountSerializer(account).data)


class PasswordView(AccountAPIView):
    @extend_schema(
        operation_id="account_password",
        request=PasswordChangeSerializer,
        responses={204: None, **KNOWN_STATUSES, 429: ErrorSerializer, 503: ErrorSerializer},
        parameters=[RETRY_AFTER],
    )
    def post(self, request: Request) -> Response:
        """Change your password. All your tokens, including the one of this call, and all your other
        sessions end."""
        body = PasswordChangeSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        password_change(
            user=self.reader,
            request=request._request,
            old=body.validated_data["old_password"],
            new=body.validated_data["new_password"],
        )

        if request.auth is None:
            update_session_auth_hash(request._request, self.reader)

        return Response(status=204)


class TokensView(AccountAPIView):
    """Your tokens for programs."""

    @extend_schema(
        operation_id="account_tokens_list",
        responses={200: TokenSerializer(many=True), **KNOWN_STATUSES},
    )
    def get(self, request: Request) -> Response:
        rows: Any = tokens_of(self.reader)
        return Response(TokenSerializer(rows, many=True).data)

    @extend_schema(
        operation_id="account_tokens_create",
        request=TokenCreateSerializer,
        responses={201: NewTokenSerializer, **KNOWN_STATUSES, 409: ErrorSerializer},
    )
    def post(self, request: Request) -> Response:
        """Create a token. Its text is in this answer only."""
        body = TokenCreateSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        token, text = token_create(user=self.reader, **body.validated_data)

        return Response(NewTokenSerializer(token, context={"text": text}).data, status=201)


class TokenDetailView(AccountAPIView):
    @extend_schema(
        operation_id="account_tokens_revoke", responses={204: None, **errors(401, 403, 404)}
    )
    def delete(self, request: Request, public_id: UUID) -> Response:
        """Revoke a token. Programs that use it are refused from now on."""
        if not token_revoke(user=self.reader, public_id=public_id):
            raise exceptions.NotFound

        return Response(status=204)
