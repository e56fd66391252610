"""What ranks on several machines must have alike."""

import json
from pathlib import Path
from typing import Any

from engine.cluster.checks import clock_check, data_check
from engine.contract.rundir import read_spec
from engine.distributed.launch import Ending, run_ranks
from engine.distributed.ranks import Ranks
from tests.engine.runs import prepare, toy_rows

NODES = ("north (10.0.0.1)", "south (10.0.0.2)")


def on_two_ranks(folder: Path, check: Any) -> Ending:
    def work(ranks: Ranks) -> int:
        ranks.join()
        check(ranks)
        return 0

    return run_ranks(2, folder, work)


def specs(tmp_path: Path, tiny: Path) -> tuple[Any, Any]:
    """Of the two nodes: the same train in two places."""
    folders = [prepare(tmp_path / name, tiny, toy_rows(9)) for name in ("north", "south")]
    return read_spec(folders[0]), read_spec(folders[1])


def test_the_same_files_at_other_places_are_the_same(tiny, tmp_path):
    mine = specs(tmp_path, tiny)
    ending = on_two_ranks(tmp_path, lambda ranks: data_check(ranks, NODES, mine[ranks.index]))
    assert ending.failure is None


def test_a_node_with_other_rows_is_refused_and_named(tiny, tmp_path):
    mine = specs(tmp_path, tiny)
    path = Path(mine[1].dataset.path)
    path.write_text(path.read_text().replace("red", "rod"))
    ending = on_two_ranks(tmp_path, lambda ranks: data_check(ranks, NODES, mine[ranks.index]))
    assert ending.failure is not None
    assert ending.failure.code == "different_data"
    assert ending.failure.message.startswith(
        "Node south (10.0.0.2) has other files for the dataset than node north (10.0.0.1)."
    )


def test_a_node_without_a_file_is_refused_and_named(tiny, tmp_path):
    mine = specs(tmp_path, tiny)
    Path(mine[0].dataset.path).unlink()
    ending = on_two_ranks(tmp_path, lambda ranks: data_check(ranks, NODES, mine[ranks.index]))
    assert ending.failure is not None
    assert "Node north (10.0.0.1) does not have the dataset" in ending.failure.message


def test_a_clock_that_is_off_is_told(tmp_path):
    told = tmp_path / "told"

    def check(ranks: Ranks) -> None:
        def warn(code: str, message: str) -> None:
            if ranks.is_first:
                told.write_text(json.dumps([code, message]))

        clock_check(ranks, NODES, (1.5, -312.0)[ranks.index], warn)

    assert on_two_ranks(tmp_path, check).failure is None
    code, message = json.loads(told.read_text())
    assert code == "clock_off"
    assert "that of node south (10.0.0.2) is 312 s behind" in message
    assert "north" not in message


def test_clocks_that_agree_are_no_matter(tmp_path):
    def warn(code: str, message: str) -> None:
        raise AssertionError(message)

    assert (
        on_two_ranks(tmp_path, lambda ranks: clock_check(ranks, NODES, 2.1, warn)).failure is None
    )
