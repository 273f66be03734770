"""The code that a trial was trained with: a user's own classes, and this package."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ecgexp
from ecgexp.saved import sha256

# Nearly every configuration names these. Tables show where their versions differ; no trial is trained again for it.
_KNOWN = ("ecgexp", "torch")


def targets(component: Any) -> Iterator[Any]:
    """Each ``_target_`` in a resolved configuration, at any depth: in general the name of a class or function."""
    if isinstance(component, Mapping):
        for key, value in component.items():
            if key == "_target_":
                yield value
            else:
                yield from targets(value)
    elif isinstance(component, list):
        for value in component:
            yield from targets(value)


def own_code(config: Mapping[str, Any]) -> str:
    """Hash of the source of every class and function that a configuration names, except those of ecgexp and torch.

    For a user's own module, the hash covers its file and each file below the same root folder that the module imports,
    directly or indirectly, by a statement or by a literal name. For an installed package, it covers the list of files
    and hashes that the installer wrote. It also covers the contents of files that the configuration names for the net
    or its training, such as initial weights.

    Parameters
    ----------
    config : mapping
        Resolved configuration, whose classes can be imported.

    Returns
    -------
    str
        12 hexadecimal digits; empty if the configuration names no such class.
    """
    # Statistics have no part in a training.
    config = {group: component for group, component in config.items() if group != "statistics"}
    named = {*targets(config), *_located(config)}
    modules = sorted({module for target in named if (module := _module_of(str(target))) is not None})
    parts = [f"{module} {_source(module)}" for module in modules]
    parts += [f"{file} {_content(file, *_stamp(file))}" for file in sorted(set(_files_in(config)))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12] if parts else ""


def _located(component: Any) -> Iterator[str]:
    """Names that Hydra's own functions, such as ``hydra.utils.get_class``, import."""
    if isinstance(component, Mapping):
        if str(component.get("_target_")).startswith("hydra.utils.get_"):
            yield str(component.get("path"))
        for value in component.values():
            yield from _located(value)
    elif isinstance(component, list):
        for value in component:
            yield from _located(value)


def _files_in(config: Mapping[str, Any]) -> Iterator[str]:
    """Files that a configuration names for its net and its training; its dataset has a fingerprint."""
    for group in ("model", "loss", "optimizer", "scheduler", "trainer"):
        yield from (text for text in _texts(config.get(group)) if _is_file(text))


def _texts(component: Any) -> Iterator[str]:
    if isinstance(component, Mapping):
        component = list(component.values())
    if isinstance(component, list):
        for value in component:
            yield from _texts(value)
    elif isinstance(component, str):
        yield component


def _is_file(text: str) -> bool:
    try:
        return Path(text).expanduser().is_file()
    except (OSError, ValueError):  # too long, or not a path
        return False


def _stamp(file: str) -> tuple[int, int, int]:
    stat = Path(file).expanduser().stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@cache
def _content(file: str, *stamp: int) -> str:
    return sha256(Path(file).expanduser())


@cache
def package() -> str:
    """Version of this package and a hash of its source, such as ``0.1.0+1f3a9c20``."""
    folder = Path(ecgexp.__file__).parent
    return f"{ecgexp.__version__}+{_hash_files(folder, sorted(folder.rglob('*.py')))[:8]}"


def _module_of(target: str) -> str | None:
    """Module of a target; None if it belongs to a known package."""
    if target.partition(".")[0] in (*_KNOWN, *sys.stdlib_module_names):
        return None
    parts = target.split(".")
    for end in range(len(parts) - 1, 0, -1):  # a target may also name a class within a class
        name = ".".join(parts[:end])
        try:
            if find_spec(name) is not None:
                return name
        except (ImportError, ValueError):  # the part before the last dot is no package
            continue
    return None


@cache  # a module that this process has imported stays the same, even if its file changes
def _source(module: str) -> str:
    spec = find_spec(module)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return "built in"
    path = Path(spec.origin).absolute()  # not resolved: a link imports other modules from its own folder
    # A list of installed packages takes half a second, and a user's own files are seldom among them.
    if "site-packages" in path.parts and (installed := _installed(module.partition(".")[0])) is not None:
        return installed
    # The folder on the import path: one level up for the file, and one for each package.
    depth = module.count(".") + (path.name == "__init__.py")
    root = path.parents[depth]
    return _hash_files(root, _files(root, path))


@cache
def _installed(package: str) -> str | None:
    """Hash of the installer's list of files; None for an editable installation."""
    for name in metadata.packages_distributions().get(package, ()):
        distribution = metadata.distribution(name)
        record = distribution.read_text("RECORD") or ""
        lines = sorted(
            line for line in record.splitlines() if line.startswith(f"{package}/") or f"{package}.py" in line
        )
        if any(",sha256=" in line for line in lines):
            return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return None


def _files(root: Path, first: Path) -> list[Path]:
    """A file, and the files below `root` that it imports, directly or indirectly; sorted."""
    found: set[Path] = set()
    waiting = [first]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        folders = path.relative_to(root).parts[:-1]
        # The import of a module runs the __init__.py of each package that contains it.
        names = [folders[:end] for end in range(1, len(folders) + 1)]
        names += _imports(path, folders)
        for name in names:
            waiting += [candidate for candidate in _candidates(root, name) if candidate.is_file()]
    return sorted(found)


def _imports(path: Path, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Imports of a file, as parts of absolute names; a name that is imported from a module may itself be a module."""
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except SyntaxError:  # it cannot have been imported
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            yield module
            for alias in node.names:
                yield (*module, alias.name)
        elif isinstance(node, ast.Call) and (name := _imported_by_name(node)):
            base = package[: len(package) - len(name) + len(name.lstrip(".")) + 1] if name.startswith(".") else ()
            yield (*base, *name.lstrip(".").split("."))


def _imported_by_name(call: ast.Call) -> str:
    """Module that a call such as ``import_module("name")`` imports; empty if the name is not a literal."""
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if function not in ("import_module", "__import__", "resolve_name") or not call.args:
        return ""
    first = call.args[0]
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""


def _candidates(root: Path, name: tuple[str, ...]) -> Iterator[Path]:
    """Files that the import of a name would read."""
    for end in range(1, len(name) + 1):
        place = root.joinpath(*name[:end])
        yield place.with_name(f"{place.name}.py")
        yield place / "__init__.py"


def _hash_files(root: Path, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
