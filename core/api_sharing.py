"""API views for whatever belongs to people: share it with everyone, or hand it over.

An app subclasses both for each of its owned models and gives `queryset` and `serializer_class`.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.api import StrictSerializer, errors, object_or_404
from core.errors import UserError
from core.ownership import owner_set, sharing_set

# For the OpenAPI document; the answer of each is the row as the app's serializer has it.
REFUSALS = errors(400, 401, 403, 404)


class SharingSerializer(StrictSerializer):
    shared = serializers.BooleanField(
        help_text="Whether everyone on this platform can see it and use it."
    )


class HandOverSerializer(StrictSerializer):
    to = serializers.CharField(max_length=150, help_text="User name of the person who gets it.")


class OwnerField(serializers.CharField):
    """The user name of a row's owner, to be read."""

    def __init__(self, **options: Any) -> None:
        usual = {
            "source": "owner.username",
            "default": None,
            "read_only": True,
            "allow_null": True,
            "help_text": "Null for what came with the platform.",
        }
        super().__init__(**(usual | options))


class OwnedView(generics.GenericAPIView[Any]):
    """One row that this reader may see, by its id or slug; a stranger's is a 404."""

    filter_backends: Any = ()
    pagination_class: Any = None

    def get_queryset(self) -> QuerySet[Any]:
        visible: QuerySet[Any] = super().get_queryset().visible_to(self.request.user)  # type: ignore[attr-defined]
        return visible

    def get_row(self) -> Any:
        key = self.kwargs.get("key") or self.kwargs["pk"]
        return object_or_404(self.get_queryset(), str(key))

    @property
    def reader(self) -> User:
        assert isinstance(self.request.user, User)
        return self.request.user


class SharingView(OwnedView):
    @extend_schema(request=SharingSerializer)
    def put(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Share it with everyone, or stop doing so. Sharing is for operators; trains that use it
        keep it.
        """
        row = self.get_row()
        body = SharingSerializer(data=request.data)
        body.is_valid(raise_exception=True)

        sharing_set(row, by=self.reader, shared=body.validated_data["shared"])

        return Response(self.get_serializer(row).data)


class HandOverView(OwnedView):
    @extend_schema(request=HandOverSerializer)
    def post(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Hand it over to another person. For operators."""
        row = self.get_row()
        body = HandOverSerializer(data=request.data)
        body.is_valid(raise_exception=True)

        owner = _account_get(body.validated_data["to"])
        owner_set(row, by=self.reader, owner=owner)

        return Response(self.get_serializer(row).data)


def _account_get(name: str) -> User:
    """Raises UserError where nobody has this user name."""
    # No database stores a NUL character, and PostgreSQL refuses to look for one.
    user = User.objects.filter(username=name).first() if "\x00" not in name else None

    if user is None:
        raise UserError({"to": [f"There is no account {name[:80]!r}."]})

    return user
