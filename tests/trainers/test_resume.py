import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainers import checkpoint, checkpoint_files

ROOT = Path(__file__).parents[2]


def state(folder: Path) -> dict[str, object]:
    """Everything that must not depend on how often a training was killed."""
    last = checkpoint.find_last(folder)
    assert last is not None
    progress = checkpoint.read_progress(last)
    tensors = {
        f"{path.parent.name}/{path.name}": path.read_bytes()
        for path in sorted(folder.rglob("*.safetensors"))
        if not path.parent.name.startswith(".")
    }
    return {
        "tensors": {name.replace("-again", ""): content for name, content in tensors.items()},
        "metrics": [(event.epoch, event.metrics, event.undefined) for event in progress.history],
        "best": (progress.best_epoch, progress.best_value, progress.best_sha256),
        "place": (progress.epoch, progress.step, progress.loss_sum, progress.state),
    }


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_training_killed_at_random_moments_ends_with_the_same_bytes(tmp_path: Path, seed: int) -> None:
    """SIGKILL, in mid-epoch too, with augmentation, dropout, batch norm, moving average and two loader workers."""
    script = Path(__file__).with_name("killed_training.py")
    arguments = [tmp_path / "data", tmp_path / "undisturbed", tmp_path / "killed", seed]
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        check=False,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) >= 4  # of five, on a machine that is short of time
    undisturbed, killed = state(tmp_path / "undisturbed"), state(tmp_path / "killed")
    assert undisturbed["metrics"] == killed["metrics"]
    assert undisturbed["best"] == killed["best"]
    assert undisturbed["place"] == killed["place"]
    assert len(undisturbed["tensors"]) == 4  # network, optimizer, moving average; best network
    assert undisturbed["tensors"] == killed["tensors"]


TENSORS = {"network": {"weight": torch.ones(4)}, "optimizer": {"weight//exp_avg": torch.ones(4)}}


def save(folder, epoch):
    return checkpoint.save_last(folder, progress=checkpoint.Progress(epoch=epoch), tensors=TENSORS, trial={})


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_anew(tmp_path, monkeypatch):
    checkpoint.settle(tmp_path, save(tmp_path, 1), keep_best=None)
    read = checkpoint.read_tensors

    def read_slowly(folder, stem):
        if stem == "optimizer" and folder.name.startswith("last-0001"):
            checkpoint.settle(tmp_path, save(tmp_path, 2), keep_best=None)
        return read(folder, stem)

    monkeypatch.setattr(checkpoint, "read_tensors", read_slowly)
    found = checkpoint.load_last(tmp_path)
    assert found.progress.epoch == 2
    assert list(found.optimizer) == ["weight//exp_avg"]


@pytest.mark.parametrize("step", ["find_last", "read_progress", "read_trial"])
def test_a_checkpoint_that_is_replaced_while_it_is_looked_at_is_looked_at_anew(tmp_path, monkeypatch, step):
    """Before an attempt begins: the one that was given up may still write."""
    save(tmp_path, 1)
    original, others = getattr(checkpoint, step), [2]

    def slowly(folder):
        found = original(folder) if step == "find_last" else None
        if others:
            checkpoint.settle(tmp_path, save(tmp_path, others.pop()), keep_best=None)
        return found or original(folder)

    monkeypatch.setattr(checkpoint, step, slowly)
    last, progress, _ = checkpoint.look_at_last(tmp_path)
    assert (last.name, progress.epoch) == ("last-0002-000000", 2)


def test_a_checkpoint_that_goes_before_its_mark_is_read_is_none(tmp_path, monkeypatch):
    last = save(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "complete", lambda *_: [last, tmp_path / "last-0002-000000"])
    assert checkpoint.find_last(tmp_path) == last


def test_a_checkpoint_of_the_same_place_stays_until_its_successor_is_on_the_disk(tmp_path):
    first, second, third = save(tmp_path, 1), save(tmp_path, 1), save(tmp_path, 1)
    assert checkpoint_files.complete(tmp_path, "last-") == sorted([first, second, third])
    assert checkpoint.find_last(tmp_path) == third
    checkpoint.settle(tmp_path, third, keep_best=None)
    assert checkpoint_files.complete(tmp_path, "last-") == [third]


def test_what_a_checkpoint_replaces_goes_after_all_of_it_is_on_the_disk(tmp_path, monkeypatch):
    """After a crash of the machine the marked one is trusted: its mark comes after its content, then the rest goes."""
    old, older_best = save(tmp_path, 1), checkpoint.save_best(tmp_path, epoch=1, network=TENSORS["network"], trial={})
    newest, best = save(tmp_path, 2), checkpoint.save_best(tmp_path, epoch=2, network=TENSORS["network"], trial={})
    # another attempt is ahead already
    ahead, its_best = save(tmp_path, 3), checkpoint.save_best(tmp_path, epoch=3, network=TENSORS["network"], trial={})
    told = []

    def sync(path):
        told.append((path, (newest / checkpoint.DURABLE).exists(), old.exists() and older_best.exists()))

    monkeypatch.setattr(checkpoint, "sync", sync)
    checkpoint.settle(tmp_path, newest, keep_best=2)
    content = {path for folder in (newest, best) for path in folder.iterdir()} - {newest / checkpoint.DURABLE}
    assert {path for path, marked, _ in told if not marked} == {newest, best, tmp_path} | content
    assert told[-1] == (newest, True, True)
    assert all(there for _, _, there in told)
    assert sorted(path.name for path in tmp_path.iterdir()) == [best.name, its_best.name, newest.name, ahead.name]


@pytest.mark.parametrize(("boot", "settled", "trusted"), [("b", False, True), ("c", False, False), ("c", True, True)])
def test_a_checkpoint_that_was_not_on_the_disk_is_not_trusted_after_a_crash_of_the_machine(
    tmp_path, monkeypatch, boot, settled, trusted
):
    monkeypatch.setattr(checkpoint, "_boot", lambda: "b")
    last = save(tmp_path, 1)
    if settled:
        checkpoint.settle(tmp_path, last, keep_best=None)
    monkeypatch.setattr(checkpoint, "_boot", lambda: boot)
    assert (checkpoint.find_last(tmp_path) == last) is trusted


def test_a_file_system_without_hard_links_gets_the_network_twice(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    best = checkpoint.save_best(tmp_path, epoch=1, network=TENSORS["network"], trial={})
    for number, link in enumerate((os.link, refuse)):
        monkeypatch.setattr(os, "link", link)
        last = checkpoint.save_last(
            tmp_path,
            progress=checkpoint.Progress(epoch=1),
            tensors=TENSORS,
            trial={},
            network=best / checkpoint.NETWORK,
        )
        assert torch.equal(checkpoint.read_tensors(last, "network")["weight"], torch.ones(4))
        assert (best / checkpoint.NETWORK).stat().st_nlink == 2, number


def test_an_attempt_that_lives_on_leaves_what_its_successor_is_writing(tmp_path, monkeypatch):
    write, others = checkpoint.save_file, [2]

    def write_slowly(values, path):
        write(values, path)
        if others:
            save(tmp_path, others.pop())

    monkeypatch.setattr(checkpoint, "save_file", write_slowly)
    assert checkpoint.find_last(tmp_path) is None
    assert save(tmp_path, 3) == checkpoint.find_last(tmp_path)


@pytest.mark.parametrize(
    ("text", "left"),
    [('{"state": "COMPLETE"}', True), ('{"state": "PAUSED"}', False), ('{"state": "PAU', False)],
    ids=["complete", "did not complete", "torn"],
)
def test_nothing_to_go_on_from_is_left_of_a_trial_that_did_not_complete(tmp_path, text, left):
    last = save(tmp_path, 2)
    (last / "progress.json").write_text(text)
    checkpoint_files.drop_resume_state(tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert (checkpoint.find_last(tmp_path) == last) is left


def test_half_written_and_half_removed_checkpoints_are_swept_and_whole_ones_stay(tmp_path):
    whole = save(tmp_path, 2)
    (tmp_path / ".writing-last-0003-000000-ab").mkdir()
    for torn in ("last-0001-000000", "last-0001-000004-again", "best-0001"):
        (tmp_path / torn).mkdir()
        (tmp_path / torn / "network.safetensors").touch()
    checkpoint_files.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [whole]
