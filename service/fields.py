"""What requests may hold beside images."""

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Fields(BaseModel):
    """Members or options of a request: any other is refused, and neither `true` nor `false` is a number.

    Numbers may come as text, as they do in a query or a form.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and bool not in (annotation, *get_args(annotation)):
            raise ValueError(f"must not be {str(value).lower()}")
        return value
