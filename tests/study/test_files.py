"""A file is the old one or the new one, whatever ends the writing, and others may read it as the umask says."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from emosafe_lib.study import files
from emosafe_lib.study.errors import StageError, TrainingError


def test_a_writer_killed_half_way_leaves_the_old_file_and_the_next_one_clears_up(tmp_path):
    target = tmp_path / "done.json"
    files.write_json(target, {"run": 1})
    half = (
        "import os, sys; from emosafe_lib.study.files import replacing\n"
        "with replacing(sys.argv[1]) as partial:\n    partial.write_text('{\"run\"'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", half, str(target)]).returncode == -9
    assert '"run": 1' in target.read_text() and len(list(tmp_path.iterdir())) == 2
    files.write_json(target, {"run": 2})
    assert '"run": 2' in target.read_text() and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [StageError, TrainingError])
def test_53_a_full_disk_is_one_line_that_names_the_file_and_the_old_one_stays(tmp_path, error):
    target = tmp_path / "results" / "table.csv"
    with files.replacing(target) as partial:
        partial.write_text("old")
    full = r"^results/table.csv: could not be saved \(No space left.*\); make room"
    with pytest.raises(error, match=full) as refusal, files.replacing(target, error) as partial:
        partial.write_text("new")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(partial))
    assert "\n" not in str(refusal.value) and str(tmp_path) not in str(refusal.value)
    assert target.read_text() == "old" and list(target.parent.iterdir()) == [target]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"
    for name in ("first", "second"):
        with files.replacing(target) as partial:
            partial.mkdir()
            (partial / name).write_text(name)
        assert [path.name for path in target.iterdir()] == [name]
    with pytest.raises(ZeroDivisionError), files.replacing(target) as partial:
        partial.mkdir()
        1 / 0  # noqa: B018
    assert [path.name for path in target.iterdir()] == ["second"] and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(("mask", "mode"), [("022", 0o644), ("077", 0o600), ("002", 0o664)])
def test_files_of_every_writer_get_the_mode_that_the_umask_gives(tmp_path, mask, mode):
    """safetensors and tempfile make files that only their owner may read."""
    write = """
import os, sys, tempfile, numpy, pathlib
from safetensors.numpy import save_file
from emosafe_lib.study import files
os.umask(int(sys.argv[1], 8))
home = pathlib.Path(sys.argv[2])
files.write_json(home / "plain.json", {})
with files.replacing(home / "model") as partial:
    partial.mkdir()
    save_file({"w": numpy.zeros(2)}, partial / "w.safetensors")
handle, name = tempfile.mkstemp(dir=home)
files.put_in_place(pathlib.Path(name), home / "moved")
"""
    subprocess.run([sys.executable, "-c", write, mask, str(tmp_path)], check=True)
    found = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
    assert found == dict.fromkeys(("plain.json", "w.safetensors", "moved"), mode)


def test_files_with_messages_are_for_their_owner_alone(tmp_path):
    """While they are written as well, and whoever moves them; and no notebook writes rows under another name."""
    for name in files.WITH_MESSAGES:
        with files.replacing(tmp_path / name) as partial:
            assert partial.stat().st_mode & 0o777 == 0o600
            partial.write_bytes(b"a message")
        (tmp_path / "moved").mkdir(exist_ok=True)
        files.put_in_place(tmp_path / name, tmp_path / "moved" / name)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "moved").iterdir()} == {0o600}
    notebooks = (Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb")
    written = re.findall(r"write_rows\(.*?\\\"([\w.]+)\\\"", "".join(path.read_text() for path in notebooks))
    assert len(written) == 3 and set(written) == set(files.WITH_MESSAGES)


def test_nothing_else_renames_files():
    """One way to write a file: where a room renames by itself, a crash or a umask is forgotten."""
    root = Path(__file__).resolve().parents[2]
    sources = [path for room in ("emosafe_lib", "workflow") for path in (root / room).rglob("*.py")]
    renames = {p.name for p in sources if re.search(r"os\.(replace|rename)\(|\.rename\((?!columns)", p.read_text())}
    assert renames == {"files.py"}
