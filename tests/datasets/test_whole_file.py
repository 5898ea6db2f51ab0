import subprocess
import sys
from pathlib import Path

import pytest

from datasets.whole_file import replacing


def test_the_file_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "file"
    with replacing(path) as aside:
        aside.write_text("first half, ")
        assert not path.exists()
        with aside.open("a") as stream:
            stream.write("second half")
    assert path.read_text() == "first half, second half"
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_fails_leaves_everything_as_it_was(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_at_once_do_not_mix(tmp_path):
    path = tmp_path / "file"
    with replacing(path) as one:
        one.write_text("one")
        with replacing(path) as two:
            two.write_text("two")
        assert path.read_text() == "two"
    assert path.read_text() == "one"


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    program = (
        "import os, signal, sys; from pathlib import Path; from datasets.whole_file import replacing\n"
        "with replacing(Path(sys.argv[1])) as aside:\n"
        "    aside.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(path)], cwd=Path(__file__).parents[2], check=False)
    assert ended.returncode == -9
    assert path.read_text() == "old"
