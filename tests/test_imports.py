"""What must never import what (STYLE.md), read from the source by its syntax tree."""

import ast
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = "ifir_lightning"
ROOT = Path(__file__).parents[1] / PACKAGE
PURE = ["losses", "distillation", "models.pooling", "models.scoring", "models.maxsim", "metrics", "data.sampling"]
LIGHTNING = ("module", "cli", "process", "trainer_checks", "callbacks", "data.datamodule", "fsdp")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join((PACKAGE, *parts)).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> frozenset[str]:
    """Full dotted names, those inside functions too: "from a import b" names both a and a.b."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: a relative import"  # noqa: PT018
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def imported(path: Path, *packages: str) -> list[str]:
    return [name for name in imports(path) if within(name, *packages)]


@cache
def own_imports(path: Path) -> set[str]:
    """Modules of the package that this one imports, and the packages around them, whose ``__init__`` runs too."""
    named = {module_name(path), *imports(path)}
    return {name for name in MODULES if any(within(each, name) for each in named)} - {module_name(path)}


def reached(name: str) -> set[str]:
    """Modules of the package that an import of ``name`` brings in."""
    found, waiting = set(), [name]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting += own_imports(MODULES[current])
    return found


def brought_in(name: str) -> set[str]:
    """Everything that is imported, here or further down."""
    return {imported for module in reached(name) for imported in imports(MODULES[module])}


def dotted(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: all but the insides of functions and of the main guard."""
    for child in ast.iter_child_nodes(node):
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if not inside and not (isinstance(child, ast.If) and ast.unparse(child.test) == "__name__ == '__main__'"):
            yield child
            yield from at_import(child)


def offenders(find: Callable[[Path], Iterable[str]], *exempt: str) -> dict[str, list[str]]:
    """Module -> what ``find`` found in it, the modules ``exempt`` (and what is in them) left out."""
    asked = {name: path for name, path in MODULES.items() if not within(name, *(f"{PACKAGE}.{e}" for e in exempt))}
    return {name: found for name, path in asked.items() if (found := sorted(set(find(path))))}


def test_there_is_something_to_read() -> None:
    assert {f"{PACKAGE}.{name}" for name in PURE} <= MODULES.keys()


@pytest.mark.parametrize(("one", "other"), [("models", "data"), ("data", "models")])
def test_models_and_data_never_meet(one: str, other: str) -> None:
    one, other = f"{PACKAGE}.{one}", f"{PACKAGE}.{other}"
    met = {name: sorted(m for m in reached(name) if within(m, other)) for name in MODULES if within(name, one)}
    assert {name: found for name, found in met.items() if found} == {}


@pytest.mark.parametrize("name", PURE)
def test_pure_parts_know_no_framework(name: str) -> None:
    forbidden = ("lightning", "pytorch_lightning", "transformers", "torch.distributed")
    assert [found for found in brought_in(f"{PACKAGE}.{name}") if within(found, *forbidden)] == []


def test_metrics_know_no_torch() -> None:
    assert [name for name in brought_in(f"{PACKAGE}.metrics") if within(name, "torch")] == []


def test_few_files_know_lightning() -> None:
    assert offenders(lambda path: imported(path, "lightning", "pytorch_lightning"), *LIGHTNING) == {}


def test_one_file_knows_torch_distributed() -> None:
    def uses(path: Path) -> list[str]:
        names = imports(path) | {dotted(node) for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}
        return [name for name in names if within(name, "torch.distributed")]

    assert offenders(uses, "distributed") == {}


def test_the_package_knows_nothing_of_the_folders_around_it() -> None:
    assert offenders(lambda path: imported(path, "tools", "configs", "tests", "conftest")) == {}


def test_nothing_is_imported_for_type_checkers_only() -> None:
    def uses(path: Path) -> list[str]:
        named = [dotted(node) for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute | ast.Name)]
        return [name for name in [*named, *imports(path)] if name.endswith("TYPE_CHECKING")]

    assert offenders(uses) == {}


def test_nothing_prints() -> None:
    def prints(path: Path) -> list[str]:
        calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
        return [f"line {call.lineno}" for call in calls if dotted(call.func) == "print"]

    assert offenders(prints) == {}


def test_an_import_has_no_effect() -> None:
    """While a module is imported it makes no bare call, sets nothing that belongs to another, reads no environment."""

    def effects(path: Path) -> Iterator[str]:
        for node in at_import(tree(path)):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                yield dotted(node.value.func)
            elif isinstance(node, ast.Attribute) and dotted(node) in ("os.environ", "sys.path"):
                yield dotted(node)
            elif isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
                yield ast.unparse(node)

    assert offenders(effects) == {}


def test_no_module_reaches_itself() -> None:
    """A circle is moved, not hidden."""
    assert offenders(lambda path: [name for name in own_imports(path) if module_name(path) in reached(name)]) == {}
