"""/api/v1/users/: the accounts of this platform. For operators."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.db.models import QuerySet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import exceptions, generics
from rest_framework.request import Request
from rest_framework.response import Response

from core.api import Pagination, errors
from core.errors import UserError
from people.accounts import person_create, person_update
from people.holdings import holdings_count
from people.removing import person_remove
from people.serializers import (
    PersonCreateSerializer,
    PersonSerializer,
    PersonUpdateSerializer,
    RemovalQuerySerializer,
)

KEY = OpenApiParameter(
    "key", OpenApiTypes.STR, OpenApiParameter.PATH, description="Id or user name."
)


class PeopleView(generics.GenericAPIView[User]):
    serializer_class: Any = PersonSerializer
    filter_backends: Any = ()
    pagination_class: Any = None

    def check_permissions(self, request: Request) -> None:
        super().check_permissions(request)
        if not request.user.has_perm("auth.view_user"):
            raise exceptions.PermissionDenied("Only operators may list accounts.")

    def get_queryset(self) -> QuerySet[User]:
        return User.objects.select_related("removal").order_by("pk")

    def get_person(self) -> User:
        person = person_find(self.get_queryset(), self.kwargs["key"])
        if person is None:
            raise exceptions.NotFound()

        return person

    @property
    def reader(self) -> User:
        assert isinstance(self.request.user, User)
        return self.request.user


def person_find(people: QuerySet[User], key: str) -> User | None:
    """The person of that user name, or, if nobody has it, of that id."""
    if "\x00" in key:
        return None

    person = people.filter(username=key).first()
    is_id = key.isascii() and key.isdigit() and len(key) < 19

    if person is None and is_id:
        person = people.filter(pk=int(key)).first()

    return person


class PersonListView(PeopleView, generics.ListAPIView[User]):
    """Everybody who has an account."""

    pagination_class = Pagination

    @extend_schema(responses={200: PersonSerializer(many=True), **errors(401, 403, 404)})
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Everybody who has an account, and how much belongs to each."""
        people = self.paginate_queryset(self.get_queryset()) or []
        context = {"holdings": holdings_count(people)}
        serializer = PersonSerializer(people, many=True, context=context)

        return self.get_paginated_response(serializer.data)

    @extend_schema(
        request=PersonCreateSerializer, responses={201: PersonSerializer, **errors(400, 401, 403)}
    )
    def post(self, request: Request) -> Response:
        """Create an account. It has no rights except over its own things."""
        body = PersonCreateSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        person = person_create(by=self.reader, **body.validated_data)

        return Response(PersonSerializer(person).data, status=201)


@extend_schema(parameters=[KEY])
class PersonDetailView(PeopleView):
    @extend_schema(responses={200: PersonSerializer, **errors(401, 403, 404)})
    def get(self, request: Request, key: str) -> Response:
        return Response(PersonSerializer(self.get_person()).data)

    @extend_schema(
        request=PersonUpdateSerializer,
        responses={200: PersonSerializer, **errors(400, 401, 403, 404)},
    )
    def patch(self, request: Request, key: str) -> Response:
        """Change the name or address of a person, or close or reopen the account. Rights are changed
        in the administration."""
        person = self.get_person()
        body = PersonUpdateSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        person_update(person=person, by=self.reader, **body.validated_data)

        return Response(PersonSerializer(self.get_person()).data)

    @extend_schema(
        parameters=[RemovalQuerySerializer],
        responses={204: None, 202: PersonSerializer, **errors(400, 401, 403, 404, 409)},
    )
    def delete(self, request: Request, key: str) -> Response:
        """Remove an account, and hand over or delete what belongs to it.

        204: the account is gone. 202: it is closed, and gone as soon as its trains have stopped.
        409: others use what would be deleted; name somebody who gets it.
        """
        person = self.get_person()
        # The serializer takes an empty value for none, and an account whose data was to be handed
        # over would be removed without that.
        if request.query_params.get("hand_over_to") == "":
            raise UserError({"hand_over_to": ["Name an account."]})

        query = RemovalQuerySerializer(data=request.query_params)
        query.is_valid(raise_exception=True)

        heir = None
        if name := query.validated_data.get("hand_over_to", ""):
            heir = person_find(User.objects.all(), name)
            if heir is None:
                raise UserError({"hand_over_to": [f"There is no account {name[:80]!r}."]})

        removal = person_remove(
            person=person,
            by=self.reader,
            hand_over_to=heir,
            delete_data=query.validated_data["delete_data"],
        )

        if removal is None:
            return Response(status=204)

        return Response(PersonSerializer(self.get_person()).data, status=202)
