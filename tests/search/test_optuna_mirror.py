"""A driver that is killed while it makes a new optuna.db."""

import signal
import subprocess
import sys
from pathlib import Path

import optuna

from search.optuna_mirror import OptunaMirror
from search.study_folder import StudyFolder
from search.study_sections import Pruning

KILLED = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from sqlalchemy.engine import Engine

from search.optuna_mirror import OptunaMirror
from search.study_folder import StudyFolder
from search.study_sections import Pruning

@event.listens_for(Engine, "before_cursor_execute")
def die(connection, cursor, statement, *_):
    if "UNIQUE INDEX" in statement and "study_name" in statement:
        os.kill(os.getpid(), signal.SIGKILL)

OptunaMirror(StudyFolder(Path(sys.argv[1]), "killed"), Pruning(), [])
"""


def test_a_kill_between_tables_and_indices_leaves_a_file_that_keeps_names_apart(tmp_path):
    """Without the index of names, Optuna makes a study again instead of loading it."""
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -signal.SIGKILL
    folder = StudyFolder(tmp_path, "killed")
    assert not folder.optuna.exists()
    OptunaMirror(folder, Pruning(), [])
    storage = f"sqlite:///{folder.optuna}"
    for _ in range(2):
        optuna.create_study(storage=storage, study_name="same", load_if_exists=True)
    assert optuna.get_all_study_names(storage) == ["same"]
    assert [path.name for path in folder.path.iterdir()] == ["optuna.db"]
