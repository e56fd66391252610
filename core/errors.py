"""The exception of services for a request that cannot be carried out."""

from __future__ import annotations


class UserError(Exception):
    """A refusal with its reason, by field; the field "" is the request as a whole.

    Forms show each message beside its field, the API answers 400 (or `status`) in its one error
    shape."""

    def __init__(
        self, fields: dict[str, list[str]] | str, *, code: str = "invalid", status: int = 400
    ) -> None:
        if isinstance(fields, str):
            fields = {"": [fields]}

        self.fields = fields
        self.code = code
        self.status = status
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """All reasons as one text."""
        messages: list[str] = []
        for texts in self.fields.values():
            messages.extend(texts)

        return " ".join(messages)
