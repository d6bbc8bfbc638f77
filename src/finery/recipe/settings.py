"""What one input is: its type, default, range, choices, group and help, in one value."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal[
    "integer",
    "number",
    "boolean",
    "string",
    "uri_file",
    "mltable",
    "custom_model",
    "mlflow_model",
    "folder",
]
PATH_KINDS = ("uri_file", "mltable", "custom_model", "mlflow_model", "folder")
_KIND_OF_DEFAULT: dict[type, Kind] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
}


@dataclass(frozen=True)
class Setting:
    """One row of the table of inputs; everything that is said or checked about an input."""

    kind: Kind
    default: bool | int | float | str
    help: str
    group: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None  # the least value allowed
    maximum: float | None = None
    above: float | None = None  # like minimum, the bound itself not allowed
    below: float | None = None
    also: int | None = None  # one value outside the range that has a meaning of its own
    component: bool = True  # an input of Azure ML's chat_completion_pipeline, or ours
    spec_minimum: int | None = None  # the range the component's own spec declares
    spec_choices: tuple[str, ...] = ()  # choices the component's own spec declares
    short: str = ""  # a short name on the command line
    name: str = ""  # filled in from the field that carries this setting

    @property
    def flag(self) -> str:
        """The option a person types: the short name where there is one."""
        return "--" + (self.short or self.name).replace("_", "-")

    @property
    def component_type(self) -> str:
        """The type in the component's spec, where booleans are strings "true" and "false"."""
        return {"boolean": "string", "folder": "string"}.get(self.kind, self.kind)

    @property
    def is_path(self) -> bool:
        """Whether the value names a file or folder on disk ("" when not given)."""
        return self.kind in PATH_KINDS

    @property
    def expects(self) -> str:
        """What a value must be, in words that fit after "expected"."""
        if self.kind == "boolean":
            return "true or false"
        if self.choices:
            names = [repr(choice) for choice in self.choices]
            return f"one of {', '.join(names)}" if len(names) > 1 else names[0]
        if self.kind in ("integer", "number"):
            noun = "an integer" if self.kind == "integer" else "a finite number"
            special = "" if self.also is None else f"{self.also} or "
            of = " of " if self.range.startswith("at ") else " "
            return f"{special}{noun}{of}{self.range}".rstrip()
        return "text" if self.kind == "string" else "a path, as text"

    @property
    def range(self) -> str:
        """The bounds in words ("at least 1", "above 0"); empty when there are none."""
        words = (
            ("at least", self.minimum),
            ("above", self.above),
            ("below", self.below),
            ("at most", self.maximum),
        )
        return " and ".join(f"{word} {bound}" for word, bound in words if bound is not None)

    def holds(self, number: float) -> bool:
        """Whether a number is inside the range, or is the one value allowed besides it."""
        return number == self.also or (
            (self.minimum is None or number >= self.minimum)
            and (self.maximum is None or number <= self.maximum)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )


def setting(
    default: bool | int | float | str,
    help: str,
    *,
    group: str,
    kind: Kind | None = None,
    **more: Any,
) -> Any:
    """A dataclass field with its row of the table; the kind follows from the default's type."""
    row = Setting(kind or _KIND_OF_DEFAULT[type(default)], default, help, group, **more)
    return dataclasses.field(default=default, metadata={"setting": row})


def settings_of(recipe_class: type) -> dict[str, Setting]:
    """The table of a dataclass declared with `setting`, by field name, in declared order."""
    return {
        field.name: dataclasses.replace(field.metadata["setting"], name=field.name)
        for field in dataclasses.fields(recipe_class)
    }
