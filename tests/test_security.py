"""Each sentence of SECURITY.md has a test."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
TESTS = {
    "A run's folder,": [
        "test_predict.py::test_weights_that_are_no_weights_are_refused",
        "test_predict.py::test_a_config_that_names_what_is_no_net_of_ours_is_refused",
        "test_evaluate.py::test_a_config_that_names_a_foreign_class_is_refused",
        "integration/test_transfer.py::test_the_folder_of_a_stranger_is_read_as_tensors_and_its_config_builds_nothing",
    ],
    "Classes of other packages,": [
        "test_predict.py::test_a_foreign_class_is_not_even_imported_unless_its_package_is_trusted",
        "test_predict.py::test_an_exported_graph_is_loaded_only_where_it_is_trusted",
    ],
    "With a local store": [
        "test_strangers.py::test_no_file_is_written_to_the_place_that_a_copied_store_names",
        "test_strangers.py::test_a_copied_store_names_no_other_folder_of_this_machine",
        "test_strangers.py::test_a_run_without_files_gets_its_report_in_the_store_too",
        "test_security.py::test_no_usage_data_are_sent",
    ],
    "No folder that": [
        "test_strangers.py::test_a_config_decides_on_no_folder_that_is_written_to",
        "test_strangers.py::test_the_name_of_a_sweep_is_no_path",
    ],
    "A link in": [
        "test_strangers.py::test_a_link_in_a_run_leads_no_file_out_of_it",
        "test_strangers.py::test_a_link_in_place_of_a_file_is_not_written_through",
    ],
    "A server or": ["test_strangers.py::test_a_server_that_the_user_names_decides_where_its_artifacts_are"],
    "A configuration decides": ["config/test_config.py::test_arguments_that_a_class_of_ones_own_takes_pass"],
    "A password in": [
        "test_passwords.py::test_a_password_is_in_no_text",
        "test_passwords.py::test_no_file_and_no_run_has_a_password",
    ],
    "Patient identifiers are": [
        "tracking/test_privacy.py::test_the_predictions_of_a_trial_name_no_patient",
        "tracking/test_privacy.py::test_the_key_is_its_owners_alone_and_one_for_all_processes",
    ],
    "Checksums find damage": [
        "test_saved.py::test_a_flipped_bit_in_a_run_is_reported_instead_of_used",
        "test_saved.py::test_no_flipped_bit_of_a_file_of_tensors_gives_other_numbers",
    ],
    "Releases of": ["test_security.py::test_malicious_releases_of_lightning_are_excluded"],
}


@pytest.mark.skipif(not (ROOT / "SECURITY.md").is_file(), reason="needs the checkout")
def test_each_sentence_has_its_tests():
    lines = (ROOT / "SECURITY.md").read_text().splitlines()
    promises = [line.removeprefix("- ") for line in lines if line.startswith(("- ", "Releases"))]
    assert len(promises) == len(TESTS)
    for promise, (beginning, tests) in zip(promises, TESTS.items(), strict=True):
        assert promise.startswith(beginning)
        assert len(re.findall(r"\.(?: |$)", promise)) == 1, f"one sentence: {promise}"
        for test in tests:
            file, name = test.split("::")
            tree = ast.parse((ROOT / "tests" / file).read_text())
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test


@pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the checkout")
def test_malicious_releases_of_lightning_are_excluded():
    """GHSA-w37p-236h-pfx3."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (needed,) = (
        one for one in map(Requirement, project["optional-dependencies"]["train"]) if one.name == "pytorch-lightning"
    )
    assert [v for v in ("2.6.1", "2.6.2", "2.6.3", "2.6.4", "2.6.6") if v not in needed.specifier] == ["2.6.2", "2.6.3"]
    pinned = (ROOT / "constraints.txt").read_text().split()
    (version,) = (line.partition("==")[2] for line in pinned if line.startswith("pytorch-lightning=="))
    assert version in needed.specifier


def test_no_usage_data_are_sent():
    """MLflow sends usage data unless a variable forbids it before the import."""
    code = (
        "import ecgexp.tracking.store, os\n"
        "from mlflow.telemetry.client import get_telemetry_client\n"
        "print(get_telemetry_client(), os.environ['RAY_USAGE_STATS_ENABLED'])"
    )
    # where it sees one of these it reports nothing anyway
    tested = re.compile("PYTEST|CI$|GITHUB|CIRCLECI|GITLAB|JENKINS|TRAVIS|TF_BUILD|BITBUCKET|MLFLOW|RAY|DO_NOT_TRACK")
    environment = {key: value for key, value in os.environ.items() if not tested.match(key)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "0"]
