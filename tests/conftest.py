"""Fixtures that every test folder shares: offline by force, one thread, and the real data where it is at hand."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parents[1]


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
