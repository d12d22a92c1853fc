"""Fixtures that every test folder shares: offline by force, one thread, the real data where it is at
hand, and one expensive thing: a finished study, built once for all workers.

The number in a test's name, as in `test_76_...`, stands for a fault that is attacked: tests of one fault share it, and
each name says what must hold.
"""

import os
import shutil
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items) -> None:
    """The longest first: begun last, they would leave the other cores idle."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def real_data_folder() -> Path | None:
    """The folder of raw sources: `EMOSAFE_DATA_DIR`, else `../shared/data` beside the checkout, if either exists."""
    named = os.environ.get("EMOSAFE_DATA_DIR")
    for folder in ([Path(named)] if named else []) + [ROOT.parent / "shared" / "data"]:
        if folder.is_dir():
            return folder.resolve()
    return None


@pytest.fixture
def real_data(monkeypatch) -> Path:
    """The raw real sources; the test is skipped, with the reason, where they are absent."""
    folder = real_data_folder()
    if folder is None:
        pytest.skip("no real data: set EMOSAFE_DATA_DIR to a folder with the raw sources")
    monkeypatch.setenv("EMOSAFE_DATA_DIR", str(folder))
    return folder


@pytest.fixture
def outputs(tmp_path, monkeypatch) -> Path:
    """A private outputs folder."""
    monkeypatch.setenv("EMOSAFE_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


@pytest.fixture(scope="session")
def finished_root(tmp_path_factory):
    """A folder with a toy `checkout` and the `outputs` of its one study, whose notebook 05 really ran."""
    from filelock import FileLock

    base, beside = tmp_path_factory.getbasetemp(), "PYTEST_XDIST_WORKER" in os.environ
    built = (base.parent if beside else base) / "built"
    with FileLock(f"{built}.lock"):  # one worker builds it, the others wait: notebook 05 takes a minute
        if not (built / "outputs" / "toy" / "index.html").is_file():
            build_finished(built)
    return shutil.copytree(built, base / "finished")


def build_finished(root) -> None:
    """Build the toy study below a folder; its front page is written last."""
    import finished_study
    import toy

    from emosafe_lib.study.parameters import load_study
    from workflow.pages import front_page

    with pytest.MonkeyPatch.context() as patch:
        toy.point_to(patch, root)
        finished_study.build(root / "checkout")
        front_page.write_index(load_study("toy"))


@pytest.fixture
def study(finished_root, monkeypatch):
    """The outputs of the finished toy study; the library looks there and into the toy checkout."""
    import toy

    toy.point_to(monkeypatch, finished_root)
    return finished_root / "outputs" / "toy"
