import pytest
import viewer_workdir


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    return viewer_workdir.make(tmp_path_factory.mktemp("viewer") / "<b>run")
