"""The hash of the code of a trial: a change of the code gives another trial."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ecgexp.tracking import code

CODE = "import sys; from ecgexp.tracking.code import own_code; print(own_code({'a': [{'_target_': sys.argv[1]}]}))"
PACKAGE = {
    "mine/__init__.py": "",
    "mine/nets.py": (
        "import importlib\nfrom . import parts\nfrom mine.deep.more import x\nimport beside\n"
        "named = importlib.import_module('mine.named')\nother = __import__('hidden')\n"
        "near = importlib.import_module('.near', __package__)\n\n\nclass Net: ...\n"
    ),
    "mine/named.py": "",
    "mine/near.py": "",
    "hidden.py": "",
    "mine/parts.py": "import torch\n",
    "mine/deep/__init__.py": "",
    "mine/deep/more.py": "x = 1\n",
    "mine/unused.py": "",
    "mine/broken.py": "def",
    "beside.py": "y = 1\n",
    "alone.py": "class Net:\n    class Inner: ...\n",
}
UNUSED = {"mine/unused.py", "mine/broken.py", "alone.py"}


@pytest.fixture
def folder(tmp_path):
    for name, text in PACKAGE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def own_code(folder, target):
    """In a process of its own, as each start of a command is."""
    command = [sys.executable, "-c", CODE, target]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    "name", [name for name in PACKAGE if name not in ("mine/unused.py", "mine/broken.py", "alone.py")]
)
def test_a_change_of_what_is_imported_changes_the_hash(folder, name):
    before = own_code(folder, "mine.nets.Net")
    assert before == own_code(folder, "mine.nets.Net")
    with (folder / name).open("a") as file:
        file.write("# changed\n")
    assert own_code(folder, "mine.nets.Net") != before


def test_what_is_not_imported_makes_no_difference(folder):
    before = own_code(folder, "mine.nets.Net")
    for name in UNUSED:
        (folder / name).write_text("# changed\n")
    assert own_code(folder, "mine.nets.Net") == before


def test_another_folder_with_the_same_files_is_the_same_code(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "deeper"
    folder.rename(other)
    moved = own_code(other, "mine.nets.Net")
    other.rename(folder)
    assert moved == own_code(folder, "mine.nets.Net") != ""


def test_a_file_alone_and_a_class_within_a_class(folder):
    alone = own_code(folder, "alone.Net")
    assert alone == own_code(folder, "alone.Net.Inner") != own_code(folder, "mine.nets.Net")


@pytest.mark.parametrize("target", ["ecgexp.models.Ribeiro", "torch.optim.Adam", "functools.partial", "builtins.dict"])
def test_of_this_package_of_torch_and_of_python_nothing_is_hashed(target):
    assert code.own_code({"model": {"_target_": target}}) == ""


def test_the_hash_of_an_installed_package_uses_the_hashes_of_its_installer(monkeypatch):
    before = code.own_code({"loss": {"_target_": "filelock.FileLock"}})
    assert before and before == code.own_code({"loss": [{"_target_": "filelock.Timeout"}]})
    listed = SimpleNamespace(read_text=lambda name: "filelock/a.py,sha256=other,1\n")
    monkeypatch.setattr(code.metadata, "packages_distributions", lambda: {"filelock": ["filelock"]})
    monkeypatch.setattr(code.metadata, "distribution", lambda name: listed)
    code._installed.cache_clear()
    code._source.cache_clear()
    assert code.own_code({"loss": {"_target_": "filelock.FileLock"}}) != before
    code._installed.cache_clear()
    code._source.cache_clear()


def test_the_version_of_this_package_includes_a_hash_of_its_code(tmp_path, monkeypatch):
    version, plus, digest = code.package().partition("+")
    assert (version, plus) == (code.ecgexp.__version__, "+")
    monkeypatch.setattr(code.ecgexp, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "a.py").write_text("x = 1\n")
    content = b"a.py\n" + hashlib.sha256(b"x = 1\n").digest()
    assert code.package.__wrapped__() == f"{version}+{hashlib.sha256(content).hexdigest()[:8]}"
    assert digest != code.package.__wrapped__().partition("+")[2]


@pytest.mark.parametrize("function", ["get_class", "get_method", "get_object"])
def test_names_that_hydra_imports_count(folder, monkeypatch, function):
    monkeypatch.syspath_prepend(str(folder))
    config = {"model": {"_target_": "ecgexp.models.Ribeiro", "act": {"_target_": f"hydra.utils.{function}"}}}
    assert code.own_code(config) == code.own_code({"a": {"_target_": "hydra.utils.get_class"}})
    config["model"]["act"]["path"] = "alone.Net"
    assert code.own_code(config) not in ("", code.own_code({"a": {"_target_": "hydra.utils.get_class"}}))


def test_what_a_link_imports_is_sought_beside_the_link(folder):
    (folder / "lib").mkdir()
    (folder / "lib" / "linked.py").write_text("import beside\n\n\nclass Net: ...\n")
    (folder / "linked.py").symlink_to("lib/linked.py")
    before = own_code(folder, "linked.Net")
    (folder / "beside.py").write_text("y = 2\n")
    changed = own_code(folder, "linked.Net")
    (folder / "lib" / "linked.py").write_text("import beside\n\n\nclass Net:\n    x = 1\n")
    assert len({before, changed, own_code(folder, "linked.Net")}) == 3


def test_files_that_a_net_is_given_count_and_those_of_a_dataset_do_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "weights.txt"
    weights.write_text("1.0")
    config = {"model": {"_target_": "ecgexp.models.Ribeiro", "deep": [{"pretrained": "weights.txt"}]}}
    before = code.own_code(config)
    assert before == code.own_code(config) != ""
    weights.write_text("-4.0")
    assert code.own_code(config) != before
    assert code.own_code({"dataset": {"labels_csv": "weights.txt"}, "model": {"name": "x" * 5000}}) == ""
