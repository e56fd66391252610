"""What services raise when a person asked for something that cannot be done."""

from __future__ import annotations


class UserError(Exception):
    """A refusal with its reason, by field; the field "" is the request as a whole.

    Forms show each message beside its field, the API answers 400 (or `status`) in its one error
    shape."""

    def __init__(
        self, fields: dict[str, list[str]] | str, *, code: str = "invalid", status: int = 400
    ) -> None:
        self.fields = {"": [fields]} if isinstance(fields, str) else fields
        self.code = code
        self.status = status
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """All reasons as one text."""
        return " ".join(text for texts in self.fields.values() for text in texts)
