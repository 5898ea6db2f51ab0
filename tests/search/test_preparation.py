"""What a study has decoded before its trials, where it comes from, and what it says of it."""

from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from datasets import cleaning, sources
from datasets.dataset_config import DatasetConfig
from datasets.errors import DatasetError
from search import data_roots, grid, identity, image_counts, images_needed, ray_cluster, worker
from search.errors import StudyError
from search.preparation import Preparation
from search.study import Machine, StudyRun
from search.study_config import StudyConfig
from search.study_folder import StudyFolder
from search.study_state import StudyState
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


def test_a_table_that_is_all_test_serves_to_measure_on_and_not_to_train_on(tmp_path):
    options = miniatures.csv_table(tmp_path / "theirs")
    table = tmp_path / "theirs" / "labels.csv"
    table.write_text(table.read_text().replace("Train", "TEST").replace("valid", "TEST"))
    place = {"data_root": tmp_path / "theirs", "cache": tmp_path / "c", "resolutions": (32,)}
    config = DatasetConfig(name="theirs", source="csv", options=options)
    order = worker.PreparationOrder(dataset=config, key="k", task="multilabel", trained_on=False, **place)
    images = list(worker.prepare(order))[-1]["data"]["images"]
    assert images == {"train": 0, "val": 0, "test": 2 * miniatures.PATIENTS}
    with pytest.raises(DatasetError, match=r"the train partition is empty .*theirs"):
        list(worker.prepare(order.model_copy(update={"trained_on": True})))


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
    assert local["people"] == remote["people"] == sources.load(config, tmp_path / "nih").people
    assert set(local["images"]) == {"train", "val", "test"}


def test_a_root_is_a_folder_that_exists_or_an_address(tmp_path):
    assert data_roots.parse([f"a={tmp_path}", "b=s3://bucket/x"]) == {"a": Path(tmp_path), "b": "s3://bucket/x"}
    assert data_roots.parse(["phantom=not/there/yet"]) == {"phantom": Path("not/there/yet").resolve()}
    (tmp_path / "file").touch()
    for pair in ("a=/nowhere", f"a={tmp_path}/file", f"phantom={tmp_path}/file"):
        with pytest.raises(StudyError, match=f"--data-root {pair}: .* is not a folder"):
            data_roots.parse([pair])
    with pytest.raises(StudyError, match=r"--data-root a=s3://b/x: a was given before as /.*; give one of them"):
        data_roots.parse([f"a={tmp_path}", "a=s3://b/x"])


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
    of_others = SimpleNamespace(dataset_key="other", epochs={1: 0.5})
    state = SimpleNamespace(datasets={"k": before}, trials={"a": trained, "b": of_others}, unusable={})
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
    for root in roots.values():
        (root / "labels.csv").write_text("path,patient,split\na.png,1,train\n")
    told = r"no column 'nodule' \(data set ours, labels.csv, key `findings`\).*\n.*data set theirs"
    with pytest.raises(StudyError, match=told):
        prepare(asked, roots, recorded)


class Told:
    """Prepares data sets of which nothing is read: some can be used, some cannot."""

    def __init__(self, monkeypatch, folder: Path, targets: dict[str, list[str]], torn: tuple[str, ...] = ()):
        monkeypatch.setattr(ray_cluster, "stream", self.stream)
        self.targets, self.torn, self.folder = targets, torn, StudyFolder(folder, "tiny")
        self.folder.path.mkdir(exist_ok=True)
        self.state, self.events, self.notes = StudyState(), [], []

    def stream(self, _function, need, _slot):
        name = need.dataset.name
        yield {"note": f"reading {name}"}
        yield {"caches": [f"{name}-cache"]}
        if name in self.torn:
            raise DatasetError("4 of 9 images cannot be read", f"source {name}")
        about = {"dataset": name, "fingerprint": f"{name} f", "people": f"{name} p", "quarantined": {}}
        about["images"] = {"train": 5, "val": 2, "test": 2}
        declared = {"declaration": {"targets": self.targets[name]}}
        yield {"data": {"kind": "data", "key": identity.key_of(need.dataset), **about, **declared}}

    def record(self, *events):
        for event in events:
            self.state.apply(event)
            self.events.append((event["kind"], event["dataset"]))

    def all(self, asked: StudyConfig) -> tuple[StudyConfig, list[tuple[str, str]]]:
        """Returns the study that is left, and what was recorded."""
        self.events = []
        desk = SimpleNamespace(progress=SimpleNamespace(note=self.notes.append), state=self.state, record=self.record)
        return Preparation(asked, self.folder, desk, lambda need: need).all(grid.expand(asked)), self.events


SETS = {"chexpert": ["edema", "nodule"], "padchest": ["edema"], "mimic_cxr": ["fracture"]}
EARLIER = {"dataset": ["padchest"], "resolution": [48]}


def two_sets(**changes) -> StudyConfig:
    return study(axes={"dataset": ["chexpert", "padchest"]}, exclude=[EARLIER], **changes)


def test_a_data_set_that_cannot_be_used_stops_its_own_cells(monkeypatch, tmp_path, caplog):
    told = Told(monkeypatch, tmp_path, SETS, torn=("padchest",))
    cleaning.record_uses(told.folder.path, ["earlier-cache"])
    left, events = told.all(two_sets())
    assert left.exclude == [EARLIER, {"dataset": ["padchest"]}]
    assert events == [("data", "chexpert"), ("unusable", "padchest")]
    assert told.notes == ["reading chexpert", "reading padchest"]
    assert "data set padchest cannot be used, its cells stop: 4 of 9 images cannot be read (source" in caplog.text
    # It is tried again: what trials of it have read stays.
    assert cleaning.recorded_uses(told.folder.path) == {"earlier-cache", "chexpert-cache", "padchest-cache"}
    assert told.all(two_sets())[1] == []
    told.torn = ()
    left, events = told.all(two_sets())
    assert (left.exclude, events) == ([EARLIER], [("data", "padchest")])
    assert cleaning.recorded_uses(told.folder.path) == {"chexpert-cache", "padchest-cache"}
    told.torn = ("padchest",)
    told.all(two_sets())
    told.torn = ()
    assert told.all(two_sets())[1] == [("data", "padchest")]  # the same as ever, and usable again
    assert not told.state.unusable


def test_a_preparation_that_is_killed_leaves_the_caches_of_before_and_its_own_recorded(monkeypatch, tmp_path):
    told = Told(monkeypatch, tmp_path, SETS)
    cleaning.record_uses(told.folder.path, ["earlier-cache"])
    seen = []
    monkeypatch.setattr(told, "record", lambda _: seen.append(cleaning.recorded_uses(told.folder.path)))
    told.all(study(axes={"dataset": ["chexpert", "padchest"]}))
    assert seen == [{"earlier-cache", "chexpert-cache"}, {"earlier-cache", "chexpert-cache", "padchest-cache"}]


@pytest.mark.parametrize("other", ["padchest", "mimic_cxr"], ids=["trained on, too", "external only"])
def test_a_data_set_that_others_are_measured_on_must_be_usable(monkeypatch, tmp_path, other):
    told = Told(monkeypatch, tmp_path, SETS, torn=(other,))
    with pytest.raises(DatasetError, match=f"4 of 9 images cannot be read .source {other}"):
        told.all(two_sets(evaluation={"external": {"chexpert": [other]}}))


def test_others_are_recorded_once_by_what_they_are_and_must_share_a_pathology(monkeypatch, tmp_path):
    """However often their images are prepared, each time as what is trained on."""
    axes = {"dataset": ["chexpert", "padchest"], "preprocessing": ["paper", "standard"]}
    asked = study(axes=axes, evaluation={"external": {"padchest": ["mimic_cxr"]}})
    told = Told(monkeypatch, tmp_path, SETS | {"mimic_cxr": ["edema"]})
    assert told.all(asked)[1] == [
        *[("data", "chexpert")] * 2,
        *[("data", "padchest")] * 2,
        ("external", "mimic_cxr"),
    ]
    assert told.all(asked)[1] == []
    key = identity.key_of(grid.external_datasets(asked)["mimic_cxr"])
    assert image_counts.recorded([told.state])[key] == image_counts.Images(9, 5, "recorded")
    known = told.state.data_identity(key)
    assert known == {"fingerprint": "mimic_cxr f", "people": "mimic_cxr p"}
    with pytest.raises(StudyError, match="padchest and mimic_cxr share no pathology"):
        Told(monkeypatch, tmp_path, SETS).all(asked)
    # Nothing is measured on it where what is trained on cannot be used.
    left, _ = Told(monkeypatch, tmp_path, SETS, torn=("padchest",)).all(asked)
    assert left.exclude[-1] == {"dataset": ["padchest"]}


def test_where_data_lie_is_told_by_name_before_source_and_by_option_before_folder(monkeypatch, tmp_path):
    ours = DatasetConfig(name="ours", source="csv")
    for name in ("a", "b", "common/ours", "common/csv"):
        (tmp_path / name).mkdir(parents=True)
    by_name, by_source = {"ours": tmp_path / "a", "csv": tmp_path / "b"}, {"csv": tmp_path / "b"}
    assert data_roots.find(ours, by_name, tmp_path) == tmp_path / "a"
    assert data_roots.find(ours, by_source, tmp_path) == tmp_path / "b"
    assert data_roots.address_of(ours, {"csv": "s3://source", "ours": "s3://name"}) == "s3://name"
    assert data_roots.address_of(ours, {"csv": "s3://source", "ours": tmp_path}) is None
    with pytest.raises(StudyError, match=r"data set ours: no folder given. Say --data-root ours=PATH, or set RADSWEEP"):
        data_roots.find(ours, {}, tmp_path)
    monkeypatch.setenv("RADSWEEP_DATA", str(tmp_path / "common"))
    assert data_roots.find(ours, by_source, tmp_path) == tmp_path / "b"
    assert data_roots.find(ours, {}, tmp_path) == tmp_path / "common" / "ours"
    (tmp_path / "common" / "ours").rmdir()
    assert data_roots.find(ours, {}, tmp_path) == tmp_path / "common" / "csv"
    with pytest.raises(StudyError, match=r"RADSWEEP_DATA=.*common has no folder theirs"):
        data_roots.find(DatasetConfig(name="theirs", source="other"), {}, tmp_path)
    drawn = [data_roots.find(DatasetConfig(name=name, source="phantom"), {}, tmp_path) for name in ("p", "q")]
    assert drawn == [tmp_path / "generated" / "p", tmp_path / "generated" / "q"]  # two phantoms are two data sets


@pytest.mark.parametrize("pair", ["", "nih", "nih=", "=/data"])
def test_a_root_without_a_name_or_a_place_is_told(pair):
    with pytest.raises(StudyError, match=f"--data-root {pair}: expected SOURCE=PATH"):
        data_roots.parse([pair])
