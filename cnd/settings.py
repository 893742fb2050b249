"""What every settings class is: frozen, closed, typed. A part is one of several kinds that do the same job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Precision = Literal["float32", "bfloat16", "float16"]


class Config(BaseModel):
    """Frozen and closed: an unknown key is an error, and so is a number that is not finite. In paths ``~`` is home."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _from_home(cls, value: Any) -> Any:
        try:
            return value.expanduser() if isinstance(value, Path) else value
        except RuntimeError as error:  # ~somebody
            raise ValueError(str(error)) from error

    def identity(self) -> Any:
        """JSON values that decide what the settings make; for settings within them, what those say of themselves."""
        found = self.model_dump(mode="json")
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Config):
                found[name] = value.identity()
            elif isinstance(value, tuple | list):
                pairs = zip(value, found[name], strict=True)
                found[name] = [item.identity() if isinstance(item, Config) else dumped for item, dumped in pairs]
        return found


class Part(Config):
    """Settings that bring their behaviour along: a decoder, a metric, a data source, a generator, a judge.

    Importing the module of a part must be quick (no torch), because ``plan`` and ``--help`` do; what is heavy is
    imported by the methods that need it. A subclass has a field ``kind: Literal["name"] = "name"``.
    """

    # settings of its own, dotted where they are in a group: where the kind that it replaces has them
    takes_over: ClassVar[Mapping[str, str]] = {}

    def missing(self) -> list[str]:
        """What is not there, where to get it and where to put it, one entry a file; empty when all is there."""
        return []

    def check(self) -> None:
        """Read what can be read before any training starts.

        Raises:
            UserError: a file is missing or malformed.
        """

    def warnings(self) -> list[str]:
        """What a reader must know before believing scores: a name, a colon and a sentence each."""
        return []


class FileOf(Config):
    """A file whose content counts, wherever it lies; of a field of type Path it is the path that counts."""

    path: Path

    def identity(self) -> Any:
        from cnd.keys import file_hash

        return file_hash(self.path) if self.path.is_file() else {"missing": str(self.path)}
