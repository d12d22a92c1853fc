"""A few kills of a toy study in the ordinary suite; `make chaos` does fifty on the real notebooks (faults 72, 74)."""

import chaos
import pytest


@pytest.mark.slow
def test_72_74_a_study_that_is_killed_again_and_again_loses_nothing_and_ends_as_if_nobody_had(tmp_path):
    count = chaos.torment(chaos.toy_world(tmp_path), kills=5, seed=1)
    assert sum(count.kills.values()) == 5 and count.finished_rounds >= 1
    assert count.clean(), count.as_json()["faults"]


def test_the_check_notices_a_receipt_that_does_not_hold(tmp_path):
    world = chaos.toy_world(tmp_path)
    folder = world.outputs / "toy" / "01_data_merge"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "receipt.json").write_text('{"stage": "01_data_merge", "files": {}, "manifest": "no such hash"}')
    (folder / "page.html").write_text("<html><p>cut")
    count = chaos.Count()
    assert chaos.look_through(world, count, "planted") == {}
    assert len(count.corrupt) == 2 and not count.clean()
