"""What a study has decoded before its trials, where it comes from, and what it says of it."""

from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from datasets import cleaning
from search import data_roots, grid, images_needed, ray_cluster, worker
from search.errors import StudyError
from search.preparation import Preparation
from search.study import Machine, StudyRun
from search.study_config import StudyConfig
from search.study_folder import StudyFolder
from tests.datasets import miniatures


def study(**changes):
    axes = {"dataset": "phantom", "initialization": "random", "backbone": "test_vit3", "resolution": [32, 48]}
    return StudyConfig.model_validate({"name": "tiny", "axes": axes | changes.pop("axes", {})} | changes)


def test_images_are_prepared_at_the_size_that_trials_read_them():
    patch14 = study(axes={"backbone": "eva02_tiny_patch14_224", "resolution": 58})  # the network itself sees 56 px
    (need,) = images_needed.needed(patch14, grid.expand(patch14))
    assert need.resolutions == (58,)


def test_external_data_sets_are_prepared_as_the_winners_will_read_them():
    asked = study(
        axes={"dataset": ["chexpert", "phantom"], "preprocessing": ["paper", "standard"]},
        exclude=[{"dataset": "phantom", "resolution": 48}],
        evaluation={"external": {"chexpert": ["mimic_cxr"]}},
    )
    found = images_needed.needed(asked, grid.expand(asked))
    told = [(need.dataset.name, need.dataset.preprocessing, need.resolutions, need.trained_on) for need in found]
    assert told == [
        ("chexpert", "paper", (32, 48), True),
        ("chexpert", "standard", (32, 48), True),
        ("phantom", "paper", (32,), True),
        ("phantom", "standard", (32,), True),
        ("mimic_cxr", "paper", (32, 48), False),
        ("mimic_cxr", "standard", (32, 48), False),
    ]


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """Runs the step of a study that prepares data, in this process, and returns its folder and what was recorded."""
    monkeypatch.setattr(ray_cluster, "stream", lambda function, order, slot: function(order))

    def run(
        asked: StudyConfig, roots: dict[str, data_roots.Root], recorded: list[dict] | None = None
    ) -> tuple[StudyFolder, list[dict]]:
        folder, recorded = StudyFolder(tmp_path / "storage", asked.name), [] if recorded is None else recorded
        folder.path.mkdir(parents=True, exist_ok=True)
        desk = SimpleNamespace(
            progress=SimpleNamespace(note=lambda _: None),
            state=SimpleNamespace(datasets={}, externals={}, trials={}, unusable={}),
            record=recorded.append,
        )
        machine = Machine(storage=folder.storage, data_roots=roots)
        StudyRun(asked, machine, folder, {}, SimpleNamespace(most_cpus=1), desk).prepare_data(grid.expand(asked))
        return folder, recorded

    return run


def test_a_study_says_which_caches_it_uses_and_an_edit_frees_the_others(prepare, tmp_path):
    miniatures.nih_chest_xray14(tmp_path / "nih")
    roots = {"nih_chest_xray14": tmp_path / "nih"}
    both, one = (
        study(axes={"dataset": "nih_chest_xray14"}),
        study(axes={"dataset": "nih_chest_xray14", "resolution": 32}),
    )
    folder, _ = prepare(both, roots)
    names = {entry.name for entry in cleaning.entries(folder.cache)}
    assert len(names) == 2
    assert cleaning.users(folder.cache) == {name: ["tiny"] for name in names}
    assert cleaning.remove_unused(folder.cache, dry_run=False) == []
    prepare(one, roots)
    (gone,) = cleaning.remove_unused(folder.cache, dry_run=False)
    assert "-48-" in gone.name
    (folder.path / cleaning.USES).unlink()  # as when the study's folder is removed
    (gone,) = cleaning.remove_unused(folder.cache, dry_run=False)
    assert "-32-" in gone.name


def test_caches_are_recorded_before_they_are_built(tmp_path):
    miniatures.nih_chest_xray14(tmp_path / "nih")
    config = grid.expand(study(axes={"dataset": "nih_chest_xray14"})).datasets[0]
    order = worker.PreparationOrder(
        dataset=config, key="k", task="multilabel", resolutions=(32,), data_root=tmp_path / "nih", cache=tmp_path / "c"
    )
    messages = worker.prepare(order)
    (name,) = next(messages)["caches"]
    assert not (tmp_path / "c").exists()
    assert list(messages)[-1]["data"]["images"]["train"] > 0
    assert (tmp_path / "c" / name / "complete.json").is_file()


def test_what_is_decoded_is_told_and_nothing_where_all_is_there(tmp_path):
    miniatures.nih_chest_xray14(tmp_path / "nih")
    config = grid.expand(study(axes={"dataset": "nih_chest_xray14"})).datasets[0]
    place = {"data_root": tmp_path / "nih", "cache": tmp_path / "c"}

    def told(*resolutions):
        order = worker.PreparationOrder(dataset=config, key="k", task="multilabel", resolutions=resolutions, **place)
        return [message["note"].partition(" images at ")[2] for message in worker.prepare(order) if "note" in message]

    assert told(32, 48) == ["32, 48 px"]
    assert told(32, 64) == ["64 px"]
    assert told(32, 48) == []


def test_data_at_an_address_are_brought_into_the_storage_and_are_the_same_data(prepare, tmp_path):
    miniatures.nih_chest_xray14(tmp_path / "nih")
    system = fsspec.filesystem("memory")
    system.put(str(tmp_path / "nih"), "/bucket/nih", recursive=True)
    asked = study(axes={"dataset": "nih_chest_xray14", "resolution": 32})
    try:
        folder, (remote,) = prepare(asked, data_roots.parse(["nih_chest_xray14=memory://bucket/nih"]))
    finally:
        system.rm("/bucket", recursive=True)
    config = grid.expand(asked).datasets[0]
    mirrored = data_roots.find(config, {"nih_chest_xray14": "memory://bucket/nih"}, folder.storage)
    assert mirrored.parent == folder.storage / "mirrors"
    _, (local,) = prepare(asked, {"nih_chest_xray14": tmp_path / "nih"})
    assert local["fingerprint"] == remote["fingerprint"]


def test_a_root_is_a_folder_that_exists_or_an_address(tmp_path):
    assert data_roots.parse([f"a={tmp_path}", "b=s3://bucket/x"]) == {"a": Path(tmp_path), "b": "s3://bucket/x"}
    with pytest.raises(StudyError, match=r"/nowhere is not a folder"):
        data_roots.parse(["a=/nowhere"])


@pytest.mark.parametrize(
    ("quarantined", "fingerprint", "epochs", "told"),
    [
        ({"g": "file is missing"}, "f", {1: 0.5}, "1 image can be read now and could not before, or the reverse"),
        ({"g": "file is missing", "i": "file is missing"}, "f", {1: 0.5}, ""),
        ({"h": "file is missing"}, "f", {}, ""),
        ({"h": "file is missing"}, "other", {1: 0.5}, ""),
    ],
)
def test_images_that_trials_have_not_seen_are_told(tmp_path, caplog, quarantined, fingerprint, epochs, told):
    before = {"dataset": "mine", "fingerprint": "f", "quarantined": {"g": "file is missing", "i": "file is missing"}}
    trained = SimpleNamespace(dataset_key="k", epochs=epochs)
    recorded = []
    state = SimpleNamespace(datasets={"k": before}, trials={"a": trained}, unusable={})
    desk = SimpleNamespace(state=state, record=recorded.append)
    preparation = Preparation(study(axes={}), StudyFolder(tmp_path, "s"), desk, None)
    preparation.record("k", {**before, "fingerprint": fingerprint, "quarantined": quarantined})
    assert told in caplog.text
    assert bool(caplog.text) == bool(told)
    assert len(recorded) == (quarantined != before["quarantined"] or fingerprint != "f")


def test_where_no_data_set_can_be_used_all_are_told_and_recorded(prepare, tmp_path):
    roots = {name: tmp_path / name for name in ("ours", "theirs")}
    for root in roots.values():
        root.mkdir()
    asked = study(
        axes={"dataset": list(roots)},
        data={name: {"source": "csv", "findings": ["nodule"], "partition": "split"} for name in roots},
    )
    recorded: list[dict] = []
    with pytest.raises(StudyError, match=r"no data set can be used:\n- .*\(.*ours\).*\n- .*\(.*theirs\)"):
        prepare(asked, roots, recorded)
    assert [(event["kind"], event["dataset"]) for event in recorded] == [("unusable", "ours"), ("unusable", "theirs")]
