"""requirements-lock.txt fits pyproject.toml and can be installed by anybody."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements-lock.txt").read_text()
ENTRIES = [entry.replace("\\\n", " ") for entry in re.findall(r"^[a-z](?:.*\\\n)*.*$", LOCK, flags=re.MULTILINE)]


def test_every_dependency_is_there_in_a_version_that_is_allowed() -> None:
    locked = [Requirement(entry.split("--hash")[0].strip()) for entry in ENTRIES]
    versions = {each.name: str(each.specifier).removeprefix("==") for each in locked}
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert len(wanted) > 10
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(versions[requirement.name.lower().replace("_", "-")]), requirement


def test_every_version_has_hashes_and_none_comes_from_elsewhere() -> None:
    assert len(ENTRIES) > 50
    for entry in ENTRIES:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
    assert not re.search(r"https?:|file:| @ |--(extra-)?index-url|--find-links|==\S*\+", LOCK)
