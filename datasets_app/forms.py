"""Forms of the dataset pages. They carry values; the services validate them."""

from __future__ import annotations

from typing import Any

from django import forms

from datasets_app.models import Dataset
from engine.rows.formats import FORMATS, Format


class DatasetForm(forms.Form):
    """What people call a dataset."""

    name = forms.CharField(max_length=120)
    description = forms.CharField(
        max_length=20_000, required=False, widget=forms.Textarea(attrs={"rows": 3})
    )
    labels = forms.CharField(max_length=1000, required=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, field in self.fields.items():
            attributes = field.widget.attrs
            attributes["class"] = "form-control"
            attributes["aria-describedby"] = f"{name}-help"

            if self.is_bound and self.errors.get(name):
                attributes["aria-invalid"] = "true"
                attributes["aria-describedby"] = f"{name}-error {name}-help"

    @property
    def label_names(self) -> list[str]:
        return str(self.cleaned_data["labels"]).split(",")

    def add_refusal(self, fields: dict[str, list[str]]) -> None:
        """Show a UserError's reasons beside their fields."""
        for name, texts in fields.items():
            field_name = name if name in self.fields else None
            for text in texts:
                self.add_error(field_name, text)


class DatasetUploadForm(DatasetForm):
    """`file` is not a Django field: the services look at it more closely, and say more."""

    name = forms.CharField(max_length=120, required=False)

    def add_refusal(self, fields: dict[str, list[str]]) -> None:
        others = dict(fields)
        self.file_errors = others.pop("file", [])
        super().add_refusal(others)


class DatasetImportForm(DatasetForm):
    """A split of a dataset on the Hugging Face hub."""

    reference = forms.CharField(
        max_length=300,
        widget=forms.TextInput(
            attrs={"placeholder": "openai/gsm8k", "autocapitalize": "off", "spellcheck": "false"}
        ),
        error_messages={"required": "Enter the name of a dataset."},
    )
    configuration = forms.CharField(max_length=100, required=False)
    split = forms.CharField(
        max_length=100, required=False, widget=forms.TextInput(attrs={"placeholder": "train"})
    )
    most_rows = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=10**9,
        widget=forms.NumberInput(attrs={"placeholder": "all"}),
    )
    name = forms.CharField(max_length=120, required=False)


def columns_offered(dataset: Dataset, slug: str) -> tuple[Format, list[tuple[str, bool, str]]]:
    """The format to map columns for, and its columns: (name, whether it is required, the file's
    column that is chosen for it so far)."""
    item = FORMATS.get(slug) or FORMATS["question-answer"]
    # A column of the format's own name is the first guess.
    sources = {column["name"]: column["name"] for column in dataset.columns}
    if item.slug == dataset.format:
        sources |= dataset.column_map

    required = [(name, True, sources.get(name, "")) for name in item.columns]
    optional = [(name, False, sources.get(name, "")) for name in item.optional]

    return item, required + optional
