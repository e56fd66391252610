"""Tokens for programs: name and password once, then a token that is hashed at rest and expires."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import authenticate
from drf_spectacular.utils import extend_schema
from knox.models import get_token_model
from rest_framework import exceptions, permissions, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView


class CredentialsSerializer(serializers.Serializer[Any]):
    username = serializers.CharField(max_length=150)
    password = serializers.CharField(max_length=4096, trim_whitespace=False)


class TokenSerializer(serializers.Serializer[Any]):
    token = serializers.CharField(read_only=True)
    expires_at = serializers.DateTimeField(read_only=True)


class TokenView(APIView):
    """Sign in for a program. The token is shown this once; send it as `Authorization: Token …`."""

    authentication_classes = ()
    permission_classes = (permissions.AllowAny,)

    @extend_schema(request=CredentialsSerializer, responses={200: TokenSerializer})
    def post(self, request: Request) -> Response:
        data = CredentialsSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        # The plain HttpRequest: the lock-out counts failures by address and name there.
        user = authenticate(request._request, **data.validated_data)
        if user is None:
            raise exceptions.AuthenticationFailed(
                "Wrong name or password, or too many tries: wait a quarter of an hour."
            )
        instance, token = get_token_model().objects.create(user=user)
        return Response({"token": token, "expires_at": instance.expiry})
