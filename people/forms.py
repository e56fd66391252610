"""The question to an operator before an account is removed."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib.auth.models import User
from django.db.models import QuerySet

HAND_OVER, DELETE = "hand_over", "delete"


class RemovalForm(forms.Form):
    what = forms.ChoiceField(
        label="What happens to it?",
        widget=forms.RadioSelect,
        choices=[
            (HAND_OVER, "Hand everything over. Trains that wait or run continue."),
            (
                DELETE,
                "Delete everything with its files. Trains that wait or run are stopped first.",
            ),
        ],
    )
    hand_over_to = forms.ModelChoiceField(
        label="Who gets it",
        queryset=User.objects.none(),
        required=False,
        empty_label="Choose a person",
        help_text="When everything is deleted: who gets what trains of others use, which cannot be "
        "deleted.",
    )

    def __init__(self, *args: Any, heirs: QuerySet[User], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["hand_over_to"]
        assert isinstance(field, forms.ModelChoiceField)
        field.queryset = heirs

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("what") == HAND_OVER and cleaned.get("hand_over_to") is None:
            self.add_error("hand_over_to", "Choose who gets it.")

        return cleaned

    @property
    def choice(self) -> dict[str, Any]:
        """The arguments for people.removing.person_remove."""
        return {
            "hand_over_to": self.cleaned_data["hand_over_to"],
            "delete_data": self.cleaned_data["what"] == DELETE,
        }
