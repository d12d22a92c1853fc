"""The one expensive fixture of these tests: a finished study, built once a session."""

import finished_study
import pytest

from emosafe_lib import site
from emosafe_lib.params import load_study


@pytest.fixture(scope="session")
def finished_root(tmp_path_factory):
    """A folder with a toy `checkout` and the `outputs` of its one study, whose notebook 05 really ran."""
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        point_to(patch, root)
        finished_study.build(root / "checkout")
        site.write_index(load_study("toy"))
    return root


@pytest.fixture
def study(finished_root, monkeypatch):
    """The outputs of the finished toy study; the library looks there and into the toy checkout."""
    point_to(monkeypatch, finished_root)
    return finished_root / "outputs" / "toy"


def point_to(patch, root) -> None:
    """Let the library use a checkout and outputs below `root`."""
    patch.setenv("EMOSAFE_ROOT", str(root / "checkout"))
    patch.setenv("EMOSAFE_OUTPUTS", str(root / "outputs"))
