"""Accounts: who is there, what they may do, and what happens to their things when they go."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse

from core.errors import UserError
from people.forms import RemovalForm
from people.holdings import holdings_text, uses_by_others, uses_text
from people.removing import person_remove, removal_check
from people.rights import may_manage, may_remove

# Only superusers may change rights: whoever can give rights can give them to themselves.
RIGHTS = ("is_staff", "is_superuser", "groups", "user_permissions")

admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(Group)
class GroupOfRightsAdmin(GroupAdmin):
    """Members have the rights of their group, so that changing a group changes rights."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return operator(request).is_superuser

    def has_change_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        return operator(request).is_superuser

    def has_delete_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        return operator(request).is_superuser


@admin.register(User)
class PersonAdmin(UserAdmin):  # type: ignore[type-arg]
    list_display = (
        "username",
        "email",
        "first_name",
        "last_name",
        "is_active",
        "is_staff",
        "leaving",
    )
    list_select_related = ("removal",)
    actions = ("remove",)

    @admin.display(description="being removed", empty_value="–")
    def leaving(self, person: User) -> str | None:
        """Why the account is still there although it is being removed."""
        if not hasattr(person, "removal"):
            return None

        return person.removal.obstacle or "Its trains are stopping"

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> tuple[str, ...]:
        fields = tuple(super().get_readonly_fields(request, obj))
        if operator(request).is_superuser:
            return fields

        return (*fields, *RIGHTS)

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        if not super().has_change_permission(request, obj):
            return False

        return obj is None or may_manage(operator(request), obj)

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        if not super().has_delete_permission(request, obj):
            return False

        return obj is None or may_remove(operator(request), obj)

    def get_actions(self, request: HttpRequest) -> Any:
        # Django's own action would delete accounts without asking about their things.
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        person = self.get_object(request, unquote(object_id))
        if person is None:
            raise Http404

        return self._removal_page(request, User.objects.filter(pk=person.pk))

    @admin.action(description="Remove the chosen accounts", permissions=["delete"])
    def remove(self, request: HttpRequest, people: QuerySet[User]) -> HttpResponse:
        return self._removal_page(request, people)

    def _removal_page(self, request: HttpRequest, chosen: QuerySet[User]) -> HttpResponse:
        """Asks what happens to everything that belongs to these people, and carries out the
        answer."""
        people = list(chosen.order_by("username"))
        for person in people:
            if not self.has_delete_permission(request, person):
                raise PermissionDenied

        form = self._removal_form(request, people)
        if form.is_valid() and self._remove_all(request, people, form):
            return redirect("admin:auth_user_changelist")

        rows = []
        for person in people:
            uses = uses_by_others(person)
            rows.append((person, holdings_text(person), uses_text(uses)))

        names = people[0].get_username() if len(people) == 1 else f"{len(people)} accounts"
        context = {
            **self.admin_site.each_context(request),
            "title": f"Remove {names}",
            "opts": self.model._meta,
            "people": rows,
            "form": form,
            "is_bulk": request.POST.get("action") == "remove",
        }

        return TemplateResponse(request, "admin/people/remove.html", context)

    def _removal_form(self, request: HttpRequest, people: list[User]) -> RemovalForm:
        leaving = [person.pk for person in people]
        heirs = User.objects.filter(is_active=True).exclude(pk__in=leaving)
        is_answer = request.method == "POST" and "what" in request.POST

        return RemovalForm(
            request.POST if is_answer else None,
            heirs=heirs.order_by("username"),
        )

    def _remove_all(self, request: HttpRequest, people: list[User], form: RemovalForm) -> bool:
        """All or nobody: every obstacle is found before the first account is removed."""
        by = operator(request)
        choice = form.choice

        try:
            for person in people:
                removal_check(person=person, by=by, **choice)
        except UserError as error:
            form.add_error(None, error.message)
            return False

        for person in people:
            name = person.get_username()
            self.log_deletions(request, User.objects.filter(pk=person.pk))

            removal = person_remove(person=person, by=by, **choice)
            if removal is None:
                text = f"The account {name} is removed."
            else:
                text = (
                    f"The account {name} is closed. It is removed as soon as its trains have "
                    "stopped."
                )

            self.message_user(request, text, messages.SUCCESS)

        return True


def operator(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user
