"""The form of a fine-tuning as a value: what a person typed, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from finery.components.spec import PIPELINE, load_specs
from finery.errors import Fault
from finery.recipe.inputs import MODEL_SOURCES, SETTINGS, SPLITS, Recipe
from finery.recipe.parse import Value, coerce
from finery.recipe.reference import default_text, grouped
from finery.recipe.rules import cross_faults
from finery.recipe.settings import Setting

NAME, MODEL = "name", "model"
HEAD = (NAME, MODEL, *SPLITS)  # fields that are no settings
SENT, FROM, UPLOAD = "sent", "from", "_upload"  # hidden fields, and the ending of files' fields
LONGEST_NAME = 100

_CHOSEN_ELSEWHERE = frozenset(
    (*MODEL_SOURCES, *(f"{split}_{kind}_path" for split in SPLITS for kind in ("file", "mltable")))
)
# What a first fine-tuning is most likely to want, where the component's default is another: an
# adapter, with a rate that adapters learn at, in the precision that devices compute fastest in.
SENSIBLE = {
    "apply_lora": "true",
    "learning_rate": "0.0002",
    "lr_scheduler_type": "cosine",
    "precision": "16",
    "per_device_train_batch_size": "4",
    "per_device_eval_batch_size": "8",
}
# Shown at once; the others of their group open on demand.
LEADING = frozenset(
    (
        *("max_seq_length", "long_rows", "num_train_epochs", "max_steps", "precision"),
        *("per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate"),
        *("lr_scheduler_type", "warmup_steps", "apply_lora", "lora_r", "lora_alpha"),
        *("evaluation_strategy", "eval_generations", "max_new_tokens"),
        "validation_split_percent",
    )
)
_OF_FLAGS = {row.flag: name for name, row in SETTINGS.items()}


@dataclass(frozen=True)
class Form:
    """What stands in the form: texts by field, and sentences by field about what is wrong."""

    values: Mapping[str, str]
    faults: Mapping[str, Sequence[str]] = field(default_factory=dict)  # "" is the whole form
    original: Mapping[str, str] = field(default_factory=dict)  # of the run that it is cloned from
    origin: str = ""  # the name of that run

    def differs(self, name: str) -> bool:
        """Whether a field of a clone is not as in its original."""
        return bool(self.origin) and self.values[name] != self.original.get(name, "")

    def was(self, name: str) -> str:
        """What a field of the original holds, as a person reads it."""
        return _shown(name, self.original.get(name, ""))

    def now(self, name: str) -> str:
        """What a field holds, as a person reads it."""
        return _shown(name, self.values[name])

    @property
    def differences(self) -> list[str]:
        """The fields of a clone that are not as in its original."""
        return [name for name in self.values if name != NAME and self.differs(name)]


def _shown(name: str, text: str) -> str:
    return (short(text) if name in HEAD else text) or "nothing"


def short(reference: str) -> str:
    """A reference as a list shows it: NAME:VERSION, or the end of a path."""
    parts = reference.rsplit("/", 3)
    if parts[-2:-1] == ["versions"]:
        return f"{parts[-3]}:{parts[-1]}"
    return "/".join(parts[-2:])


@dataclass(frozen=True)
class Group:
    """A group of the table of inputs, as the form shows it."""

    name: str
    title: str
    leading: Sequence[Setting]
    others: Sequence[Setting]


def offered() -> dict[str, Setting]:
    """The settings of the form: the inputs of the pipeline but for model and data."""
    known = load_specs()[PIPELINE]["inputs"]
    return {
        name: row
        for name, row in SETTINGS.items()
        if name in known and name not in _CHOSEN_ELSEWHERE
    }


def groups() -> list[Group]:
    """The settings by group, in the order of the table."""
    wanted = offered()
    found = []
    for name, title, rows in grouped():
        mine = [row for row in rows if row.name in wanted]
        leading = [row for row in mine if row.name in LEADING]
        others = [row for row in mine if row.name not in LEADING]
        found += [Group(name, title, leading, others)] if mine else []
    return found


def blank(**given: str) -> Form:
    """The form as it is before anything is typed."""
    return Form({**dict.fromkeys(HEAD, ""), **defaults(), **SENSIBLE, **given})


def defaults() -> dict[str, str]:
    """Every setting as the table has it."""
    return {name: default_text(row) for name, row in offered().items()}


def typed(form: Mapping[str, str]) -> Form:
    """The form as a browser sent it. A box that is not ticked is not sent at all."""
    whole = form.get(SENT) == "1"
    values = {name: form.get(name, "").strip() for name in HEAD}
    for name, row in offered().items():
        missing = "false" if whole and row.kind == "boolean" else default_text(row)
        values[name] = form.get(name, missing).strip()
    return Form(values)


def with_faults(form: Form, faults: Iterable[tuple[str, str]]) -> Form:
    """The form with sentences at its fields; each of them once."""
    found = {name: list(texts) for name, texts in form.faults.items()}
    for name, text in faults:
        place = found.setdefault(name if name in form.values else "", [])
        if text not in place:
            place.append(text)
    return replace(form, faults=found)


def settings_of(form: Form) -> dict[str, Value | Fault]:
    """Every setting in its type, or why it is none."""
    return {name: coerce(row, form.values[name]) for name, row in offered().items()}


def chosen(form: Form) -> dict[str, Value]:
    """The settings that are not at their default; one that is wrong is left out."""
    return {
        name: value
        for name, value in settings_of(form).items()
        if not isinstance(value, Fault) and value != SETTINGS[name].default
    }


def own_faults(form: Form) -> Iterator[tuple[str, str]]:
    """What is wrong with the form in itself: values out of range, what does not go together."""
    yield from _head_faults(form)
    read = settings_of(form)
    wrong = {name: one for name, one in read.items() if isinstance(one, Fault)}
    for name, fault in wrong.items():
        yield name, sentence(fault)
    fine: dict[str, Any] = {name: value for name, value in read.items() if name not in wrong}
    recipe = Recipe(model="given", train_file_path="given", **fine)
    for fault in cross_faults(recipe, wrong):
        yield field_of(fault.where), sentence(fault)


def _head_faults(form: Form) -> Iterator[tuple[str, str]]:
    if not form.values[MODEL]:
        yield MODEL, "Choose a model to start from."
    if not form.values["train"]:
        yield "train", "Choose or upload the conversations to train on."
    if len(form.values[NAME]) > LONGEST_NAME:
        yield NAME, f"Found {len(form.values[NAME])} characters; expected at most {LONGEST_NAME}."


def sentence(fault: Fault, *, with_place: str = "") -> str:
    """A fault as it stands below its field, which says where it is by itself."""
    place = f"{with_place}: " if with_place else ""
    text = f"{place}found {fault.found}; expected {fault.expected}. {fault.remedy}".strip()
    return text[:1].upper() + text[1:] if not place else text


def field_of(where: str) -> str:
    """The field that a fault of the recipe, of its options or of the job's body is about."""
    name = _OF_FLAGS.get(where, "") or where.rpartition(".")[2].rpartition(":")[2]
    name = name.removeprefix("--").replace("-", "_")
    if name in MODEL_SOURCES:
        return MODEL
    split = name.partition("_")[0]
    if name in _CHOSEN_ELSEWHERE or name in (f"{one}_data" for one in SPLITS):
        return split
    return {"displayName": NAME, "display_name": NAME}.get(name, name)


def group_of(name: str) -> str:
    """The group that a setting is in; "" for what is no setting."""
    return SETTINGS[name].group if name in SETTINGS and name not in HEAD else ""


def changed(form: Form, group: Group) -> int:
    """How many settings of a group are not at their default."""
    plain = defaults()
    rows = (*group.leading, *group.others)
    return sum(form.values[row.name] != plain[row.name] for row in rows)
