"""From a recipe file and options to one checked Recipe that knows where each value came from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from finery.errors import Fault, InputError, os_reason
from finery.recipe.disk import disk_faults
from finery.recipe.inputs import SETTINGS, Recipe, nearest_input
from finery.recipe.parse import coerce
from finery.recipe.rules import cross_faults, remarks

_MAX_RECIPE_BYTES = 1_000_000
_YAML = "tag:yaml.org,2002:"
_TEXT_TAGS = tuple(_YAML + name for name in ("str", "int", "float", "timestamp", "value"))


@dataclass(frozen=True)
class Resolved:
    """A recipe that passed every check; every path in it is absolute."""

    recipe: Recipe
    origins: dict[str, str]  # by input: "default", "recipe.yaml:12" or "--learning-rate"
    notes: tuple[str, ...] = ()  # what was accepted but has no effect or deserves a look


@dataclass(frozen=True)
class _Given:
    name: str
    value: object
    origin: str
    folder: Path  # what a relative path is relative to


def resolve(
    file: Path | None, flags: Mapping[str, object], *, faults: Iterable[Fault] = ()
) -> Resolved:
    """The recipe that a file (or none) and options give; an option wins over the file.

    Relative paths are relative to the file that names them, or to the working folder for
    options and defaults. `model` is a path when it starts with `.`, `/` or `~`, ends in
    `.gguf`, or names something that is there.

    Raises InputError with every fault of the file, the options, their combination and the
    paths, after the `faults` a caller found already.
    """
    found = list(faults)
    root, file_faults = (None, []) if file is None else _read_mapping(file)
    readable = not file_faults
    found += file_faults
    here = Path.cwd()
    given: list[_Given] = []
    if file is not None and root is not None:
        given, file_faults = _pairs(root, file)
        found += file_faults
    given += [_Given(name, value, _flag(name), here) for name, value in flags.items()]

    values = {name: _absolute(name, row.default, here) for name, row in SETTINGS.items()}
    origins = dict.fromkeys(SETTINGS, "default")
    faulty: set[str] = set()
    for one in given:
        value = _checked(one)
        if isinstance(value, Fault):
            found.append(value)
            faulty |= {one.name, nearest_input(one.name)}
        else:
            values[one.name] = _absolute(one.name, value, one.folder)
            origins[one.name] = one.origin

    recipe = Recipe(**values)
    if readable:  # else every rule would complain of what the file may well say
        late = cross_faults(recipe, faulty) + disk_faults(recipe, faulty)
        found += [replace(fault, where=_place(origins[fault.where], fault.where)) for fault in late]
    if found:
        raise InputError(found, subject="recipe" if file is None else file.name)
    return Resolved(recipe, origins, remarks(recipe))


def _flag(name: str) -> str:
    return SETTINGS[name].flag if name in SETTINGS else "--" + name.replace("_", "-")


def _checked(one: _Given) -> Any:
    where = _place(one.origin, one.name)
    if one.name in SETTINGS:
        return coerce(SETTINGS[one.name], one.value, where)
    near = nearest_input(one.name)
    remedy = f"Did you mean {near}?" if near else "docs/reference/recipe.md lists them."
    return Fault(where, "an unknown input", "the name of an input", remedy)


def _place(origin: str, name: str) -> str:
    """Where a person looks for the value: `recipe.yaml:12:seed`, `--seed`, or just `seed`."""
    if origin == "default":
        return name
    return origin if origin.startswith("--") else f"{origin}:{name}"


def _absolute(name: str, value: Any, folder: Path) -> Any:
    """`value`, made absolute when it is a path; links are kept, since suffixes carry meaning."""
    if not value or not (SETTINGS[name].is_path or name == "model"):
        return value
    # os.path, since Path's own refuse unknown users, raise for long names and follow links.
    path = os.path.abspath(folder / os.path.expanduser(value))  # noqa: PTH100, PTH111
    is_path = value.startswith((".", "/", "~")) or value.endswith(".gguf") or os.path.exists(path)  # noqa: PTH110
    return path if is_path or name != "model" else value


def _read_mapping(path: Path) -> tuple[yaml.MappingNode | None, list[Fault]]:
    """The YAML mapping in a recipe file (None when the file says nothing), or why there is none."""
    try:
        content = path.read_bytes()
        if len(content) > _MAX_RECIPE_BYTES:
            raise yaml.YAMLError(f"{len(content)} bytes, more than a recipe has")
        root = yaml.compose(content.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except OSError as error:
        return None, [Fault(str(path), os_reason(error), "a recipe file that can be read")]
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        return None, [Fault(str(path), f"no YAML ({reason})", "a recipe in YAML")]
    if root is None or isinstance(root, yaml.MappingNode):
        return root, []
    return None, [Fault(str(path), "YAML that is no mapping", "lines such as `seed: 42`")]


def _pairs(root: yaml.MappingNode, path: Path) -> tuple[list[_Given], list[Fault]]:
    given: dict[str, _Given] = {}
    faults = []
    for key, node in root.value:
        origin = f"{path.name}:{key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            faults.append(Fault(origin, "a key that is no text", "the name of an input"))
        elif key.value in given:
            first = given[key.value].origin
            where = _place(origin, key.value)
            faults.append(Fault(where, f"the key again, after {first}", "each key once"))
        else:
            given[key.value] = _Given(key.value, _plain(node), origin, path.parent.absolute())
    return list(given.values()), faults


def _plain(node: yaml.Node) -> object:
    """The text of a scalar as it stands, which the input's own type reads.

    So a model named 010 stays 010 and 1e-8 is a number; only unquoted yes, no, on, off, true,
    false and null are what YAML 1.1 says. What is no scalar comes back as what coerce refuses.
    """
    if isinstance(node, yaml.SequenceNode):
        return []
    if not isinstance(node, yaml.ScalarNode):
        return {}
    if node.tag in _TEXT_TAGS:
        return node.value
    if node.tag == _YAML + "bool":
        return yaml.SafeLoader.bool_values.get(node.value.lower(), node)
    return None if node.tag == _YAML + "null" else node
