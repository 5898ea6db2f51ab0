"""What a run is called: in MLflow's tables a name is all that most people read of it."""

import pytest

from search.study_folder import StudyFolder
from search.tracking_receiver import TrackingReceiver


class Names:
    """A tracker that keeps the names of the runs it is asked to open."""

    def __init__(self):
        self.opened = []

    def open(self, run, *, parent=None):
        self.opened.append(run.name)

    def reopen(self, identity):
        pass


def events(axes, seeds):
    cell = {"dataset": "phantom", "initialization": "imagenet", "resolution": 224}
    return [
        {"kind": "study", "study": {"name": "s", "axes": axes, "seeds": seeds}, "version": "v", "time_ms": 1},
        {"kind": "data", "key": "k", "dataset": "phantom", "fingerprint": "f"},
        {
            "kind": "trial",
            "trial": "t",
            "cell": "/".join(map(str, cell.values())),
            "axes": cell,
            "searched": {"learning_rate": 1e-4},
            "seed": 1,
            "config": {},
            "dataset_key": "k",
        },
        {"kind": "started", "trial": "t", "time_ms": 2},
    ]


@pytest.mark.parametrize(
    ("axes", "seeds", "name"),
    [
        ({"dataset": ["phantom"], "initialization": ["imagenet"], "resolution": [224, 512]}, [0, 1],
         "224 learning_rate=0.0001 seed=1"),
        ({"dataset": ["phantom"], "initialization": ["random", "imagenet"], "resolution": [224, 512]}, [1],
         "imagenet 224 learning_rate=0.0001"),
        ({"dataset": ["phantom"], "initialization": ["imagenet"], "resolution": [224]}, [1],
         "phantom/imagenet/224 learning_rate=0.0001"),
    ],
)  # fmt: skip
def test_a_run_is_named_by_what_tells_it_from_the_others(tmp_path, axes, seeds, name):
    tracker = Names()
    TrackingReceiver(tracker, StudyFolder(tmp_path, "s"), []).receive(events(axes, seeds))
    assert tracker.opened == ["s", name]
