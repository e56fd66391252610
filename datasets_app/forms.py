"""Forms of the dataset pages. What may be is decided by the services; these only carry it."""

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
            field.widget.attrs |= {"class": "form-control", "aria-describedby": f"{name}-help"}
            if self.is_bound and self.errors.get(name):
                field.widget.attrs |= {
                    "aria-invalid": "true",
                    "aria-describedby": f"{name}-error {name}-help",
                }

    @property
    def words(self) -> list[str]:
        return str(self.cleaned_data["labels"]).split(",")

    def add_refusal(self, fields: dict[str, list[str]]) -> None:
        """A UserError's reasons beside their fields."""
        for name, texts in fields.items():
            target = name if name in self.fields else None
            for text in texts:
                self.add_error(target, text)


class DatasetUploadForm(DatasetForm):
    """`file` is not a Django field: the services look at it more closely, and say more."""

    name = forms.CharField(max_length=120, required=False)

    def add_refusal(self, fields: dict[str, list[str]]) -> None:
        self.file_errors = fields.get("file", [])
        super().add_refusal({name: texts for name, texts in fields.items() if name != "file"})


class DatasetImportForm(DatasetForm):
    """A split of a dataset on the Hugging Face hub."""

    reference = forms.CharField(
        max_length=300,
        widget=forms.TextInput(
            attrs={"placeholder": "openai/gsm8k", "autocapitalize": "off", "spellcheck": "false"}
        ),
        error_messages={"required": "Say which dataset."},
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


def columns_offered(dataset: Dataset, chosen: str) -> tuple[Format, list[tuple[str, bool, str]]]:
    """The format to map columns for, and its columns: (name, whether it is needed, the file's
    column so far)."""
    item = FORMATS.get(chosen) or FORMATS["question-answer"]
    there = {column["name"] for column in dataset.columns}
    so_far = {name: name for name in there} | (
        dataset.column_map if item.slug == dataset.format else {}
    )
    columns = [(name, True) for name in item.columns] + [(name, False) for name in item.optional]

    return item, [(name, needed, so_far.get(name, "")) for name, needed in columns]
