"""The documents name commands, options, inputs, files and packages that are there."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from finery.chat.mltable import READERS
from finery.cli.finetune import finetune_command
from finery.cli.flags import parse_flags
from finery.cli.main import app
from finery.cli.reference import commands, parameters
from finery.errors import Fault
from finery.recipe.finetune_config import KEYS, TRAINER_NAMES
from finery.recipe.inputs import SETTINGS
from finery.recipe.parse import coerce

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("benchmarks", "examples")
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / name / "README.md" for name in FOLDERS),
    ]
)
COMMANDS = dict(commands(app, "finery"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Where the name to import is not the name to install.
PACKAGE_OF = {"yaml": "pyyaml", "jwt": "pyjwt"}
# Loaded by another library, by no import of ours: DeepSpeed's compiler, SQLAlchemy's driver,
# uvicorn's loop and parser; and what is read as files.
LOADED_BY_OTHERS = {"ninja", "psycopg", "uvloop", "httptools", "django_js_lib_htmx"}
# Imported by scripts that run in the environment of an engine, not in finery's.
OF_ENGINES = {"openvino", "openvino_genai", "optimum"}

OF_FINERY_ITSELF = {"--help", "--version", "--install-completion", "--show-completion"}

EACH_PAGE = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix()
)


def blocks(page: Path, *languages: str) -> list[str]:
    """The code blocks of a page in one of `languages`."""
    text = page.read_text(encoding="utf-8")
    return [
        body for name, body in re.findall(r"```(\w*)\n(.*?)```", text, re.S) if name in languages
    ]


def typed(page: Path) -> list[list[str]]:
    """The words of every `finery` command in a page's console blocks and running text."""
    lines = "\n".join(blocks(page, "console")).replace("\\\n", " ").splitlines()
    shown = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    shown += re.findall(r"`(finery [^`]+)`", prose)
    found = [shlex.split(line, comments=True) for line in shown]
    return [words for words in found if words[:1] == ["finery"]]


def unknown_words(words: list[str]) -> list[str]:
    """What a command line names that the command line does not know."""
    if words[1:] and words[1].startswith("--"):
        return [word for word in words[1:] if word not in OF_FINERY_ITSELF]
    name = next((n for n in (3, 2) if " ".join(words[:n]) in COMMANDS), 0)
    function = COMMANDS.get(" ".join(words[:name]))
    if function is None:
        a_group = any(command.startswith(" ".join(words) + " ") for command in COMMANDS)
        return [] if a_group or words[1:] == ["--help"] else [" ".join(words[:3])]
    rest = list(itertools.takewhile(lambda word: word != "--", words[name:]))
    if function is finetune_command:
        return [str(f) for f in parse_flags([w for w in rest if w != "--dry-run"]).faults]
    known = {"--help"}
    for one in parameters(function):
        declared = [one.info.default, *(one.info.param_decls or ())]
        own = [text for text in declared if isinstance(text, str) and text.startswith("--")]
        known |= set(own or ["--" + one.name.replace("_", "-")])
    return [word for word in rest if word.startswith("--") and word.partition("=")[0] not in known]


@EACH_PAGE
def test_every_command_a_page_shows_is_understood(page: Path) -> None:
    assert [wrong for words in typed(page) for wrong in unknown_words(words)] == []


def test_the_reader_of_commands_finds_them_and_their_mistakes() -> None:
    names = {" ".join(words[:2]) for words in typed(ROOT / "README.md")}
    assert {"finery finetune", "finery chat", "finery data"} <= names
    assert unknown_words(["finery", "chat", "m", "--agianst", "x"]) == ["--agianst"]
    assert unknown_words(["finery", "serve", "m"]) == ["finery serve m"]
    assert unknown_words(["finery", "jobs"]) == ["finery jobs"]
    assert unknown_words(["finery", "job"]) == []
    assert unknown_words(["finery", "finetune", "--learnin-rate", "1"]) != []
    assert unknown_words(["finery", "exec", "--", "python", "x.py", "--theirs"]) == []


@EACH_PAGE
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, heading = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if "://" in link:
            continue
        is_page = target.suffix == ".md" and target.is_file()
        titles = re.findall(r"^#+ (.+)$", target.read_text(), re.M) if is_page else []
        anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
        if not target.exists() or (heading and heading not in anchors):
            dead.append(link)
    assert dead == []


@EACH_PAGE
def test_every_file_of_the_repository_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    parts = r"(?:src|tests|docs|benchmarks|model|training|chat|recipe|cli|evaluation)"
    named = re.findall(rf"`({parts}/[\w/.-]+\.(?:py|md|json|yaml))`", text)
    places = (ROOT, ROOT / "src" / "finery")
    assert [name for name in named if not any((at / name).is_file() for at in places)] == []


@EACH_PAGE
def test_every_make_target_a_page_names_is_there(page: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?:`|^\$? ?)make (\w+)", text, re.M)
    assert [name for name in named if name not in targets] == []


@EACH_PAGE
def test_every_recipe_a_page_shows_has_inputs_and_values_that_are_taken(page: Path) -> None:
    wrong = []
    for block in blocks(page, "yaml"):
        value = yaml.load(block, Loader=yaml.BaseLoader)  # noqa: S506 - text as it stands
        if "transformations" in value:  # an MLTable
            assert all(name in READERS for step in value["transformations"] for name in step)
            continue
        wrong += [key for key in value if key not in SETTINGS]
        taken = [coerce(SETTINGS[key], text) for key, text in value.items() if key in SETTINGS]
        wrong += [str(fault) for fault in taken if isinstance(fault, Fault)]
    assert wrong == []


def test_the_page_on_fine_tune_configurations_has_a_row_for_every_key() -> None:
    text = (ROOT / "docs" / "reference" / "finetune-config.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.M)) == {*KEYS, *TRAINER_NAMES}
    assert all(f"`{name}`" in text for name in TRAINER_NAMES.values())


def names_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=\[; ]", text)[0].lower().replace("-", "_") for text in requirements}


def imported_packages() -> set[str]:
    """What src imports from elsewhere, at the top of a file or inside a function."""
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {module.partition(".")[0] for module in modules}
    return {PACKAGE_OF.get(name, name) for name in found - {"finery", *sys.stdlib_module_names}}


def test_what_is_imported_is_what_is_installed_with_finery_or_an_extra_of_it() -> None:
    extras = PROJECT["optional-dependencies"]
    required = names_of(PROJECT["dependencies"])
    optional = names_of([*extras["deepspeed"], *extras["qlora"], *extras["postgres"]])
    assert imported_packages() - OF_ENGINES == (required | optional) - LOADED_BY_OTHERS


def test_every_package_that_is_installed_has_its_reason_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("## What it depends on")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", table, re.M)[1:]
    named = {
        name for names, _ in rows for name in re.findall(r"[a-z0-9_]+", names.replace("-", "_"))
    }
    assert names_of(PROJECT["dependencies"]) <= named
    assert all(reason.strip() for _, reason in rows)
