"""The rules the source keeps, read from the source itself (ast), so that none can rot."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "finery"
MODULES = sorted(SOURCE.rglob("*.py"))
EVERY_FILE = sorted(
    path for part in ("src", "tests", "benchmarks") for path in (ROOT / part).rglob("*.py")
)

# From the bottom up: a part imports itself and the parts before it, nothing after it.
ORDER = (
    "errors",
    "files",
    "quickstart",
    "recipe",
    "chat",
    "model",
    "inference",
    "evaluation",
    "planning",
    "training",
    "components",
    "workspace",
    "runners",
    "jobs",
    "endpoints",
    "azureml",
    "studio",
    "service",
    "cli",
)
HEAVY = ("torch", "transformers", "mlflow", "datasets", "peft", "accelerate", "deepspeed", "trl")
# Parts that must load in a moment: the command line, and what it reads before any model.
LIGHT = ("cli", "errors", "files", "quickstart", "recipe")

LONGEST_FILE = 400
LONGEST_LOOP = 300
VAGUE = frozenset({"util", "utils", "helper", "helpers", "common", "misc", "manager", "managers"})
PICKLES = frozenset({"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"})
HOMES = r"/home/\w+/|/Users/\w+/|/root/|[A-Z]:\\Users\\"


def shown(path: Path) -> str:
    """A file as the repository names it."""
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def part_of(path: Path) -> str:
    """The part of the house a source file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(node: ast.AST) -> list[str]:
    """The dotted names that an import statement, anywhere in a file, reaches."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = "." * node.level + (node.module or "")
        return [f"{base}.{alias.name}" for alias in node.names]
    return []


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of every import of a file: inside functions and for types alone too."""
    for node in ast.walk(tree(path)):
        for name in imported(node):
            yield getattr(node, "lineno", 0), name


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an attribute chain, "" for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def test_every_part_of_the_source_has_its_place_in_the_order() -> None:
    parts = {part_of(path) for path in MODULES} - {"__init__"}
    assert parts <= set(ORDER), "give the new part its place in ORDER"


def test_imports_go_downwards_only() -> None:
    wrong = []
    for path in MODULES:
        part = part_of(path)
        allowed = ORDER[: ORDER.index(part) + 1] if part in ORDER else ()
        for line, name in imports(path):
            package, _, rest = name.partition(".")
            target = rest.split(".")[0]
            if package == "finery" and target in ORDER and target not in allowed:
                wrong.append(f"{shown(path)}:{line} imports {name}")
    assert not wrong


def test_imports_name_the_whole_path() -> None:
    relative = [
        f"{shown(path)}:{line}"
        for path in MODULES
        for line, name in imports(path)
        if name.startswith(".")
    ]
    assert not relative


def loaded_by(statements: str) -> set[str]:
    """The modules that a fresh interpreter holds after `statements`."""
    code = f"import sys\n{statements}\nprint('\\n'.join(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return set(answer.stdout.split())


def module_name(path: Path) -> str:
    """The name under which a source file is imported."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def light_modules() -> list[str]:
    readers = (SOURCE / "chat").glob("read*.py")
    return [
        module_name(path)
        for path in [*MODULES, *readers]
        if part_of(path) in LIGHT or path.match("chat/read*.py")
    ]


def test_importing_the_command_line_loads_no_model_library() -> None:
    statements = "\n".join(f"import {name}" for name in light_modules())
    heavy = loaded_by(statements) & set(HEAVY)
    guilty = [name for name in light_modules() if heavy and loaded_by(f"import {name}") & heavy]
    assert not heavy, f"loaded by {guilty}: import inside the function that needs it"


def test_importing_finery_imports_nothing_else_of_it() -> None:
    modules = loaded_by("import finery")
    assert not modules & set(HEAVY)
    assert {name for name in modules if name.startswith("finery")} == {"finery"}


def test_the_training_loop_can_be_read_in_one_sitting() -> None:
    lines = (SOURCE / "training" / "loop.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) < LONGEST_LOOP


def test_no_file_is_too_long_to_read() -> None:
    lengths = {shown(path): len(path.read_bytes().splitlines()) for path in EVERY_FILE}
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}


def test_every_test_module_has_a_name_of_its_own() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names)), "pytest imports test modules by name"


def test_names_say_what_they_hold() -> None:
    vague = [
        shown(path) for path in EVERY_FILE for word in path.stem.split("_") if word.lower() in VAGUE
    ]
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                last = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", node.name)[-1]
                vague += [f"{shown(path)}: {node.name}"] if last.lower() in VAGUE else []
    assert not vague


def test_every_folder_of_the_source_is_a_package() -> None:
    folders = {path.parent for path in MODULES}
    assert not [shown(folder) for folder in folders if not (folder / "__init__.py").is_file()]


def test_every_module_says_what_it_is_for() -> None:
    silent = [shown(path) for path in MODULES if not ast.get_docstring(tree(path))]
    assert not silent


def unsafe_loads(path: Path) -> Iterator[str]:
    """Calls and imports that would run code hidden in a data file."""
    for line, name in imports(path):
        if name.split(".")[0] in PICKLES:
            yield f"{shown(path)}:{line} imports {name}"
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Call):
            continue
        permits = any(
            keyword.arg == "allow_pickle"
            and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
            for keyword in node.keywords
        )
        name = dotted(node.func)
        if permits or name in ("torch.load", "torch.save"):
            yield f"{shown(path)}:{node.lineno} calls {name}"


def test_nothing_reads_or_writes_pickles() -> None:
    files = [path for path in EVERY_FILE if not path.is_relative_to(ROOT / "tests")]
    assert not [found for path in files for found in unsafe_loads(path)]


def swallows(handler: ast.ExceptHandler) -> bool:
    """Whether a handler takes any error and does nothing with it."""
    broad = handler.type is None or dotted(handler.type) in ("Exception", "BaseException")
    return broad and all(isinstance(step, ast.Pass | ast.Continue) for step in handler.body)


def test_no_error_is_swallowed() -> None:
    swallowed = [
        f"{shown(path)}:{node.lineno}"
        for path in EVERY_FILE
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler) and swallows(node)
    ]
    assert not swallowed


def written_files() -> Iterator[Path]:
    """Everything in the repository that people wrote, data files included."""
    for part in ("src", "tests", "benchmarks", "docs", ".ci"):
        yield from (path for path in (ROOT / part).rglob("*") if path.is_file())
    yield from (path for path in ROOT.glob("*") if path.is_file())


def test_no_file_names_a_place_on_a_developers_machine() -> None:
    here = ROOT.parent.as_posix()
    patterns = [HOMES]
    if here not in ("/", "/tmp", "/app", "/src", "/home"):  # noqa: S108
        patterns.append(re.escape(here) + "/")
    place = re.compile(r"(?<![\w.~/-])(?:" + "|".join(patterns) + ")")
    found = []
    for path in written_files():
        if path == Path(__file__) or "__pycache__" in path.parts or ".egg-info" in str(path):
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        found += [f"{shown(path)}: {match.group()}" for match in place.finditer(text)]
    assert not found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from finery.cli import main", ["finery.cli.main"]),
        ("def f():\n    import finery.cli.main", ["finery.cli.main"]),
        ("if TYPE_CHECKING:\n    from finery.training.loop import x", ["finery.training.loop.x"]),
        ("from . import x", ["..x"]),
    ],
)
def test_the_reader_of_imports_sees_every_kind(source: str, found: list[str]) -> None:
    names = [name for node in ast.walk(ast.parse(source)) for name in imported(node)]
    assert names == found
