"""Finished work directories, built once."""

import pytest
from report_workdir import HOSTILE, write_workdir


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    """A finished work directory; tests must not change it."""
    return write_workdir(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="session")
def hostile_workdir(tmp_path_factory):
    """The same with markup, script ends and terminal escapes in every text."""
    return write_workdir(tmp_path_factory.mktemp("hostile") / "run", HOSTILE)
