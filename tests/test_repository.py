"""Laws of the house: what imports what, what an import may cost, how public names and pages are kept.

Each law is a function from source text to the list of its breaches, so that it is tried on text that breaks
it as well as on this repository: a law that cannot fail holds nothing.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "enxuto"
SOURCES = sorted(PACKAGE.rglob("*.py"))

#: From top to bottom. A module imports from lower lines or from its own package, never up or sideways.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("__init__", "__main__"),
    ("cli",),
    ("testing",),
    ("comparing", "monitoring"),
    ("compressing",),
    ("fitting",),
    ("verifying",),
    ("applying",),
    ("planning",),
    ("techniques",),
    ("predicting",),
    ("explaining",),
    ("tracing",),
    ("targets",),
    ("workload", "samples"),
    ("architectures", "devices", "serving"),
    ("reporting",),
    ("records",),
    ("units", "_torch_private"),
    ("errors",),
)
DEPTH = {name: depth for depth, names in enumerate(LAYERS) for name in names}

BANNED_NAMES = re.compile(r"(utils?|helpers?|misc|managers?)", re.IGNORECASE)


def source_id(path: Path) -> str:
    """The path of a source file as a test's name."""
    return path.relative_to(PACKAGE).as_posix()


each_source = pytest.mark.parametrize("path", SOURCES, ids=source_id)


# 1. Imports point one way


def module_parts(path: Path) -> tuple[str, ...]:
    """The dotted name of a source file below the package, as parts; a package's `__init__` is the package.

    The root's own is ("__init__",), the layer above all.
    """
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts


def imported_layers(source: str, *, package: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Each layer of enxuto that a source text imports, with its line.

    `package` is where relative imports start. Imports inside functions and under TYPE_CHECKING count: they
    bind two modules all the same.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root, *below = alias.name.split(".")
                if root == "enxuto":
                    yield below[0] if below else "__init__", node.lineno
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(node, package)
            if origin is None:
                continue
            if origin:
                yield origin[0], node.lineno
                continue
            for alias in node.names:
                # __version__ is a constant that is there before anything else; it binds nothing
                if alias.name != "__version__":
                    yield alias.name if alias.name in DEPTH else "__init__", node.lineno


def _origin(node: ast.ImportFrom, package: tuple[str, ...]) -> tuple[str, ...] | None:
    """Where a from-import reads, as parts below enxuto; None for other projects."""
    named = tuple(node.module.split(".")) if node.module else ()
    if node.level == 0:
        return named[1:] if named[0] == "enxuto" else None
    return (*package[: len(package) - (node.level - 1)], *named)


def upward_imports(source: str, parts: tuple[str, ...], *, is_package: bool) -> list[str]:
    """The imports of one module that point up or sideways, as "line: layer"."""
    own = parts[0]
    package = parts if is_package else parts[:-1]
    return [
        f"line {line}: {own} imports {layer}"
        for layer, line in imported_layers(source, package=() if own == "__init__" else package)
        if layer != own and DEPTH.get(layer, -1) <= DEPTH[own]  # a layer without a place is above all
    ]


@each_source
def test_imports_point_one_way(path: Path) -> None:
    parts = module_parts(path)
    assert parts[0] in DEPTH, f"{parts[0]} has no place in LAYERS: give it one here and in docs/design.md"
    assert upward_imports(path.read_text(), parts, is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("source", "parts", "is_package", "breaches"),
    [
        ("from .. import units", ("records", "codec"), False, 0),
        ("from . import codec", ("records", "timeline"), False, 0),
        ("from .columns import Columns", ("records",), True, 0),
        ("from enxuto import __version__", ("cli", "explain"), False, 0),
        ("import torch, numpy", ("records",), True, 0),
        ("from .workload import Workload", ("__init__",), True, 0),
        ("from ..reporting import html", ("records", "display"), False, 1),
        ("from .. import reporting", ("records", "display"), False, 1),
        ("from .errors import UsageError", ("units",), False, 0),
        ("from .units import format_bytes", ("errors",), False, 1),
        ("from enxuto.devices import cpu", ("architectures", "gpt"), False, 1),
        ("from enxuto import trace", ("explaining", "peak"), False, 1),
        ("import enxuto", ("tracing", "recorder"), False, 1),
        ("def late():\n    import enxuto.cli", ("tracing", "recorder"), False, 1),
        ("if TYPE_CHECKING:\n    from ..explaining import explain", ("tracing", "recorder"), False, 1),
    ],
)
def test_the_import_law_sees(source: str, parts: tuple[str, ...], is_package: bool, breaches: int) -> None:
    assert len(upward_imports(source, parts, is_package=is_package)) == breaches


# 2. Importing enxuto is cheap and touches nothing


def run_python(code: str, *arguments: str) -> str:
    """What a fresh interpreter prints for this code; its errors are the test's."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


IMPORT_PROBE = """
import json, sys
import torch
before, touched = set(sys.modules), []
WATCHED = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec", "os.fork")
sys.addaudithook(lambda event, _: touched.append(event) if event in WATCHED else None)
import enxuto
print(json.dumps({
    "new": sorted(set(sys.modules) - before),
    "touched": touched,
    "cuda": torch.cuda.is_initialized(),
    "argv": sys.argv[1:],
    "version": enxuto.__version__,
}))
"""

HEAVY = ("plotly", "rich", "typer", "torch._dynamo", "torch._inductor", "onnx", "torchvision")


def test_importing_enxuto_is_cheap_and_touches_nothing() -> None:
    seen = json.loads(run_python(IMPORT_PROBE, "--help", "--version"))
    new: list[str] = seen["new"]
    heavy = [name for name in new if any(name == top or name.startswith(f"{top}.") for top in HEAVY)]
    assert seen["version"]  # a folder without its __init__ would import too, and prove nothing
    assert heavy == []
    assert seen["touched"] == []
    assert seen["cuda"] is False
    assert seen["argv"] == ["--help", "--version"]

    known = set(sys.stdlib_module_names) | {"torch"}
    foreign = [name for name in new if name.split(".")[0] not in known]
    assert {name.split(".")[0] for name in foreign} <= {"enxuto", "numpy", "msgspec", "psutil"}
    assert len(foreign) <= 40, foreign


def test_reaching_every_public_name_leaves_cuda_alone() -> None:
    code = (
        "import enxuto, torch\n"
        "for name in enxuto.__all__:\n    getattr(enxuto, name)\n"
        "print(torch.cuda.is_initialized())"
    )
    assert run_python(code).strip() == "False"


# 3. Private torch stays in one file


def private_torch(source: str) -> list[str]:
    """The private names of torch that a source text imports or reaches by a dotted name."""
    tree = ast.parse(source)
    names: dict[str, str] = {}
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "torch":
                    names[alias.asname or "torch"] = alias.name if alias.asname else "torch"
                    found += [alias.name] if _is_private(alias.name) else []
        elif isinstance(node, ast.ImportFrom) and _is_torch(node):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names[alias.asname or alias.name] = full
                found += [full] if _is_private(full) else []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            chain = _dotted(node)
            root, _, rest = chain.partition(".")
            if root in names:
                found.append(f"{names[root]}.{rest}")
    return sorted(set(found))


def _is_torch(node: ast.ImportFrom) -> bool:
    return node.level == 0 and (node.module or "").split(".")[0] == "torch"


def _is_private(dotted: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in dotted.split("."))


def _dotted(node: ast.expr) -> str:
    """`a.b.c` for a chain of attributes on a plain name, else the empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        value = _dotted(node.value)
        return f"{value}.{node.attr}" if value else ""
    return ""


@each_source
def test_private_torch_stays_in_one_file(path: Path) -> None:
    if path.name != "_torch_private.py":
        assert private_torch(path.read_text()) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch\ntorch.__version__", []),
        ("from torch import nn\nnn.Linear", []),
        ("import numpy\nnumpy._core", []),
        ("import torch\ntorch._C._cuda_init()", ["torch._C", "torch._C._cuda_init"]),
        ("import torch._functorch.config", ["torch._functorch.config"]),
        ("from torch._subclasses import FakeTensorMode", ["torch._subclasses.FakeTensorMode"]),
        ("from torch.utils import _pytree as tree", ["torch.utils._pytree"]),
        ("import torch.utils as tools\ntools._pytree", ["torch.utils._pytree"]),
    ],
)
def test_the_private_torch_law_sees(source: str, found: list[str]) -> None:
    assert private_torch(source) == found


# 4. Every module says what it is about


@pytest.mark.parametrize("folder", ["src/enxuto", "tests", "benchmarks", "examples"])
def test_no_module_has_a_name_that_says_nothing(folder: str) -> None:
    paths = [path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py")]
    assert [
        path for path in paths if any(BANNED_NAMES.fullmatch(Path(part).stem) for part in path.parts)
    ] == []


# 5. Public names


def export_order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, each by the alphabet: the order that ruff keeps."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2), name


def is_documented(name: str, value: object) -> bool:
    """Whether a public name explains itself; a dataclass's generated signature does not count."""
    if not isinstance(value, type | ModuleType) and not callable(value):
        return True  # a constant has no docstring of its own
    text = inspect.getdoc(value) or ""
    return bool(text.strip()) and not text.startswith(f"{name}(")


def test_public_names_are_sorted_reachable_and_documented() -> None:
    import enxuto

    assert enxuto.__all__ == sorted(enxuto.__all__, key=export_order)
    assert set(enxuto.__all__) <= set(dir(enxuto)), "autodoc and completion read dir()"
    assert [name for name in enxuto.__all__ if not is_documented(name, getattr(enxuto, name))] == []


def test_every_source_file_says_what_it_is() -> None:
    assert [source_id(path) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text()))] == []


# 6. The two READMEs


FENCE = re.compile(r"^```([a-z]*)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
SHELLS = {"bash", "sh", "shell", "console"}


def headings(markdown: str) -> list[str]:
    """The second-level headings of a page."""
    return re.findall(r"^## .+$", FENCE.sub("", markdown), re.MULTILINE)


def commands(markdown: str) -> list[str]:
    """The command lines in a page's shell blocks; comments may be translated and do not count."""
    found = []
    for language, body in FENCE.findall(markdown):
        if language in SHELLS:
            lines = (re.sub(r"(^|\s+)#+ .*$", "", line).strip() for line in body.splitlines())
            found += [
                line.removeprefix("$ ")
                for line in lines
                if line and (language != "console" or line[0] == "$")
            ]
    return found


@pytest.mark.parametrize("read", [lambda page: len(headings(page)), commands], ids=["headings", "commands"])
def test_both_readmes_say_the_same(read: Callable[[str], object]) -> None:
    english, portuguese = (read((ROOT / name).read_text()) for name in ("README.md", "README.pt-BR.md"))
    assert english
    assert english == portuguese


def test_the_readme_law_sees() -> None:
    shell = "```bash\n## no heading\nmake demo  # a comment\n```\n"
    page = f"## One\n{shell}```python\nx = 1\n```\n```console\n$ ls\nout\n```\n## Two\n"
    assert headings(page) == ["## One", "## Two"]
    assert commands(page) == ["make demo", "ls"]


# 7. Records are read without torch


def test_records_are_read_without_torch() -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"  # any `import torch` now raises
        "import enxuto.records, enxuto.errors, enxuto.units\n"
        "print(enxuto.records.Timeline.kind)"
    )
    assert run_python(code).strip() == "timeline"


# 8. Pages that must follow the code


def test_every_exit_code_is_on_its_page() -> None:
    from enxuto import errors

    page = (ROOT / "docs" / "how-to" / "exit-codes.md").read_text()
    documented = set(map(int, re.findall(r"^\| `(\d)` \|", page, re.MULTILINE)))
    raised = {value.exit_code for value in vars(errors).values() if isinstance(value, type)}
    assert raised <= documented
    assert documented == {0, 1, 2, 3, 4}


def test_every_target_of_the_makefile_is_in_its_help() -> None:
    text = (ROOT / "Makefile").read_text()
    declared = set(re.findall(r"^\.PHONY: (.+)$", text, re.MULTILINE)[0].split())
    assert declared == set(re.findall(r"^([a-z-]+):.*## \S", text, re.MULTILINE))
