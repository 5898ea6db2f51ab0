"""What is refused of a Ray cluster, and what is told of one that does not answer; Ray itself is played."""

import os
from types import SimpleNamespace

import pytest
import ray

from search import ray_cluster
from search.errors import StudyError
from search.resources import Slot


class Played:
    """Ray as far as nodes are asked for their code: each answers with a digest or raises."""

    exceptions = ray.exceptions

    def __init__(self, answers, *, init=None):
        self.answers, self.problem, self.dead = answers, init, []
        self.seen = {}

    def init(self, address, **settings):
        self.seen = {"address": address, "path": os.environ.get("PYTHONPATH"), **settings}
        if self.problem is not None:
            raise self.problem

    def nodes(self):
        return [
            {
                "NodeID": name.encode().hex().ljust(56, "0"),
                "NodeManagerAddress": name,
                "Alive": name not in self.dead,
                "Resources": {"CPU": 1.0},
            }
            for name in self.answers
        ]

    def remote(self, **_):
        return lambda _function: self

    def options(self, scheduling_strategy):
        assert not scheduling_strategy.soft  # another node's answer would stand for it
        name = bytes.fromhex(scheduling_strategy.node_id).rstrip(b"\0").decode()
        return SimpleNamespace(remote=lambda: name)

    def wait(self, references, *, num_returns, timeout):
        assert num_returns == len(references)
        assert timeout == ray_cluster.SECONDS_FOR_A_NODE

    def get(self, reference, timeout):
        answer = self.answers[reference]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def cluster_resources(self):
        return {"CPU": 2.0}

    def shutdown(self):
        pass


@pytest.fixture
def play(monkeypatch, tmp_path):
    def played(answers, **more):
        found = Played(answers, **more)
        monkeypatch.setattr(ray_cluster, "ray", found)
        monkeypatch.setattr(ray_cluster, "code_digest", lambda: "same")
        monkeypatch.setattr(ray_cluster, "TOKEN", tmp_path / "token")
        monkeypatch.setattr(ray_cluster.signal, "signal", lambda *_: None)
        return found

    return played


def test_nodes_with_this_code_are_taken_and_those_that_are_gone_not_asked(play):
    played = play({"first": "same", "second": "same", "third": "other"})
    played.dead = ["third"]
    with ray_cluster.cluster("auto") as resources:
        assert resources == {"CPU": 2.0}
        assert ray_cluster.nodes() == [{"CPU": 1.0}] * 2


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("other", "(other)"),
        (ModuleNotFoundError("No module named 'search'\nmore"), "(No module named 'search')"),
        (ray.exceptions.GetTimeoutError("timed out"), "(timed out)"),
        (ray.exceptions.RayError(), "(RayError)"),
    ],
)
def test_a_node_without_this_drivers_code_is_refused(play, answer, told):
    play({"first": "same", "10.0.0.2": answer})
    with pytest.raises(StudyError) as refused, ray_cluster.cluster("auto"):
        pass
    assert str(refused.value).startswith("node 10.0.0.2 does not have this driver's code at ")
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("address", "problem", "told"),
    [
        (None, RuntimeError("no port\nmore"), "Ray does not start on this machine (no port); its logs are in /tmp/ray"),
        (None, RuntimeError(), "Ray does not start on this machine (RuntimeError)"),
        ("auto", ConnectionError(), "--address auto: no Ray cluster answers there (ConnectionError)"),
        ("127.0.0.1:1", None, "--address 127.0.0.1:1: no Ray cluster answers there ("),
    ],
)
def test_a_ray_that_does_not_answer_is_told(play, address, problem, told):
    play({}, init=problem)
    with pytest.raises(StudyError) as refused, ray_cluster.cluster(address):
        pass
    assert str(refused.value).startswith(told)


@pytest.mark.slow
@pytest.mark.parametrize("before", [None, "/elsewhere"])
def test_workers_import_from_here_and_this_process_keeps_its_path(play, monkeypatch, tmp_path, before):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if before:
        monkeypatch.setenv("PYTHONPATH", before)
    played = play({})
    (tmp_path / "token").touch(0o644)
    with ray_cluster.cluster(None, cpus=3):
        pass
    path = os.pathsep.join(filter(None, (str(ray_cluster.ROOT), before)))
    assert (played.seen["address"], played.seen["path"], played.seen["num_cpus"]) == ("local", path, 3)
    assert os.environ.get("PYTHONPATH") == before
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600  # Ray leaves it for all to read
    with ray_cluster.cluster("auto"):
        pass
    assert played.seen["runtime_env"] == {"env_vars": {"PYTHONPATH": path}}


class Workers:
    """Ray as far as functions run on workers: in this process, the middle one of those that are left ends first."""

    exceptions = ray.exceptions

    def __init__(self):
        self.asked = []

    def remote(self, **options):
        self.asked.append(options)
        return lambda function: SimpleNamespace(remote=lambda order: (function, order))

    def wait(self, references, *, num_returns):
        assert num_returns == 1
        ended = references[len(references) // 2]
        return [ended], [one for one in references if one is not ended]

    def get(self, reference):
        function, order = reference
        try:
            return function(order)
        except ArithmeticError as cause:
            raise ray.exceptions.RayTaskError("divide", "its traceback", cause) from None


@pytest.fixture
def workers(monkeypatch):
    found = Workers()
    monkeypatch.setattr(ray_cluster, "ray", found)
    return found


def test_functions_run_in_the_slots_that_they_were_given_and_are_told_by_their_place(workers):
    slots = [Slot(2), Slot(1, 0.5, 3.0), Slot(1, 1.0, gpu_type="A100")]
    assert list(ray_cluster.each(lambda order: 10 * order, [1, 2, 3], slots)) == [(1, 20), (2, 30), (0, 10)]
    assert workers.asked == [
        {"num_cpus": 2, "num_gpus": 0.0, "resources": {}},
        {"num_cpus": 1, "num_gpus": 0.5, "resources": {}, "memory": 3e9},
        {"num_cpus": 1, "num_gpus": 1.0, "resources": {"accelerator_type:A100": 0.001}},
    ]


def test_an_error_of_a_worker_is_the_worker_s_own(workers):
    with pytest.raises(ZeroDivisionError) as found:
        list(ray_cluster.each(lambda order: 1 // order, [0], [Slot(1)]))
    assert "traceback" not in str(found.value)
