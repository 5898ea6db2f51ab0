"""A registered model by itself: what it takes, what it answers, what it needs, and that versions do not mix."""

import base64
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from packaging.requirements import Requirement
from safetensors.torch import load_file, save_file

from datasets import images
from datasets.dataset_config import DatasetConfig
from datasets.limits import Limits
from datasets.preprocessing import resolve
from mlflow_server import inference, packaging, reader
from mlflow_server.model_card import DESCRIPTION_CHARACTERS
from tests.datasets.miniatures import picture, write_dicom
from trainers import assembly, checkpoint, recipes
from trainers.trial import TrialConfig, TrialError

PATHOLOGIES = ("cardiomegaly", "nodule", "pneumothorax")
THRESHOLDS = {"cardiomegaly": 0.0, "nodule": 1.0, "pneumothorax": None}
SIDE = 32


def package(folder, *, backbone="test_vit3", pathologies=PATHOLOGIES, seed=0, side=SIDE, preprocessing="standard"):
    """Package a network as random as it was made."""
    config = TrialConfig(
        dataset=DatasetConfig(name="phantom", source="phantom", preprocessing=preprocessing),
        initialization="random",
        backbone=backbone,
        resolution=side,
        recipe=recipes.Recipe(),
        seed=seed,
    )
    network = assembly.build_network(config, pathologies, weights=None)
    return packaged(folder, config, network, network.state_dict(), pathologies)


def packaged(folder, config, network, state, pathologies=PATHOLOGIES):
    """Write a trial's best checkpoint with this state dict and say what goes with it."""
    described = assembly.describe(config, network, pathologies, "0" * 64)
    saved = checkpoint.save_best(folder / "trial", epoch=1, network=state, trial=described)
    return packaging.Package(
        checkpoint=saved,
        name="tiny",
        facts={"study": "s", "trial": "t", "run_id": "r", "data_fingerprint": "0" * 64},
        data={"images": {"train": 70, "test": 30}, "quarantined": {}, "fingerprint": "0" * 64},
        evaluation={"rows": rows(pathologies), "subgroups": [], "external": [], "thresholds": THRESHOLDS},
        procedure="95% intervals, 1000 bootstrap redraws of patients.",
    )


def rows(pathologies, **more):
    return [
        {"metric": metric, "target": name, "value": 0.8125, "low": 0.7, "high": 0.9, "positives": 5, "negatives": 9}
        | more
        for metric in ("auroc", "average_precision", "sensitivity", "specificity", "ece")
        for name in (*pathologies, "macro")
    ]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The package, its folder, and the model as a user loads it."""
    folder = tmp_path_factory.mktemp("packaged")
    made = package(folder)
    packaging.save_model(made, folder / "model")
    return made, folder / "model", mlflow.pyfunc.load_model(str(folder / "model"))


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.dcm"
    write_dicom(path, picture(3))
    return path


def squares_of(radiograph):
    return resolve("standard").square(radiograph, SIDE)[None]


def scored(made, squares):
    """What the network itself says, by the library's own code."""
    network, _, _ = assembly.load_network(made.checkpoint)
    with torch.no_grad():
        return network(torch.from_numpy(np.stack(squares))).sigmoid().numpy()


def test_an_image_is_scored_as_the_network_scores_it_however_it_is_given(saved, film):
    made, _, model = saved
    content = film.read_bytes()
    radiograph = images.decode(content, cover=SIDE, window=0, limits=Limits())
    expected = scored(made, [squares_of(radiograph)])
    given = {
        "bytes": [content],
        "base64": [base64.b64encode(content).decode()],
        "base64 in lines": [base64.encodebytes(content).decode()],
        "path": [film],
        "one alone": film,
        "series": pd.Series([content]),
        "table": pd.DataFrame({"note": ["a"], "image": [content]}),
        "its only column": pd.DataFrame({"film": [film]}),
        "by name": {"image": [content]},
        "square": [squares_of(radiograph)],
        "squares": squares_of(radiograph)[None],
    }
    for name, images_given in given.items():
        answer = model.predict(images_given)
        assert list(answer.columns) == list(PATHOLOGIES), name
        assert answer.shape == (1, 3), name
        assert np.abs(answer.to_numpy() - expected).max() < 1e-6, name


@pytest.mark.parametrize(("ending", "kind"), [(".png", np.uint8), (".png", np.uint16), (".jpg", np.uint8)])
def test_picture_files_and_grey_values_are_prepared_like_films(saved, ending, kind):
    made, _, model = saved
    values = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (60, 44)).astype(kind)
    content = cv2.imencode(ending, values)[1].tobytes()
    decoded = images.decode(content, cover=SIDE, window=0, limits=Limits())
    expected = scored(made, [squares_of(decoded)])
    assert np.abs(model.predict([content]).to_numpy() - expected).max() < 1e-6
    assert np.abs(model.predict([decoded.values]).to_numpy() - expected).max() < 1e-6
    assert np.abs(model.predict(decoded.values).to_numpy() - expected).max() < 1e-6


def test_grey_values_are_as_bright_as_a_file_of_them_where_intensities_are_fixed(tmp_path):
    """`plain` shows 16 bits as 0 to 65,535, whatever of it an image uses."""
    made = package(tmp_path, preprocessing="plain")
    packaging.save_model(made, tmp_path / "model")
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    values = np.random.default_rng(0).integers(0, 4096, (60, 44)).astype(np.uint16)
    content = cv2.imencode(".png", values)[1].tobytes()
    square = resolve("plain").square(images.decode(content, cover=SIDE, window=None, limits=Limits()), SIDE)[None]
    assert square.max() <= 16  # 4,095 of 65,535 of 255
    for given in (content, values):
        assert np.abs(model.predict([given]).to_numpy() - scored(made, [square])).max() < 1e-6


def test_any_number_of_images_keeps_its_order_and_index(saved):
    made, _, model = saved
    squares = np.random.default_rng(1).integers(0, 255, (70, 1, SIDE, SIDE), dtype=np.uint8)
    expected = scored(made, squares)
    table = pd.DataFrame({"image": list(squares)}, index=[f"film-{i}" for i in range(70)])
    answer = model.predict(table)
    assert list(answer.index) == list(table.index)
    assert np.abs(answer.to_numpy() - expected).max() < 1e-6
    assert np.abs(model.predict(squares).to_numpy() - expected).max() < 1e-6
    assert model.predict([]).shape == (0, 3)


def test_an_array_counts_its_images_along_its_first_axis(saved):
    _, _, model = saved
    grey = np.random.default_rng(3).integers(0, 255, (2, SIDE + 16, SIDE), dtype=np.uint8)
    both = model.predict(grey).to_numpy()
    assert both.shape == (2, 3)
    for alone in (grey[:1], grey[0]):
        assert np.abs(model.predict(alone).to_numpy() - both[:1]).max() < 1e-6


def test_a_mapping_may_hold_one_image_or_a_list(saved, film):
    _, _, model = saved
    text = base64.b64encode(film.read_bytes()).decode()
    one, listed = (model.predict(given).to_numpy() for given in ({"image": text}, {"image": [text]}))
    assert np.array_equal(one, listed)


def test_decisions_are_made_at_the_thresholds_of_validation(saved, film):
    _, _, model = saved
    answer = model.predict([film], params={"decisions": True})
    assert list(answer.columns) == [*PATHOLOGIES, *(f"decision_{name}" for name in PATHOLOGIES)]
    assert answer.iloc[0, 3:].tolist() == [True, False, None]
    assert model.predict([film], params={"decisions": False}).shape == (1, 3)


def test_a_score_at_its_threshold_reaches_it(saved, film, tmp_path):
    made, _, model = saved
    at = {name: float(score) for name, score in model.predict([film]).iloc[0].items()}
    above = {name: float(np.nextafter(score, 1)) for name, score in at.items()}  # less than a float32 would tell
    for thresholds, reached in ((at, True), (above, False)):
        evaluation = made.evaluation | {"thresholds": thresholds}
        folder = tmp_path / str(reached)
        packaging.save_model(dataclasses.replace(made, evaluation=evaluation), folder)
        answer = mlflow.pyfunc.load_model(str(folder)).predict([film], params={"decisions": True})
        assert answer.iloc[0, 3:].tolist() == [reached] * 3


@pytest.mark.slow
def test_a_network_whose_patches_do_not_fit_the_resolution_is_packaged_at_its_true_size(tmp_path, film):
    made = package(tmp_path, backbone="eva02_tiny_patch14_224", side=58)
    assert checkpoint.read_trial(made.checkpoint)["plan"]["input_size"] == 56  # four patches of 14
    packaging.save_model(made, tmp_path / "model")
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert model.metadata.metadata["resolution"] == 58
    radiograph = images.decode(film.read_bytes(), cover=58, window=0, limits=Limits())
    square = resolve("standard").square(radiograph, 58)[None]
    expected = scored(made, [square])
    assert np.abs(model.predict([film]).to_numpy() - expected).max() < 1e-6
    assert np.abs(model.predict(square[None]).to_numpy() - expected).max() < 1e-6


@pytest.mark.slow
def test_a_network_that_uses_a_module_in_several_places_is_packaged(tmp_path):
    made = package(tmp_path, backbone="coat_lite_tiny", side=32)
    packaging.save_model(made, tmp_path / "model")
    square = np.arange(SIDE * SIDE).reshape(1, SIDE, SIDE).astype(np.uint8)
    predicted = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(square[None])
    assert np.abs(predicted.to_numpy() - scored(made, [square])).max() < 1e-6


@pytest.fixture
def probe(tmp_path):
    """A probe whose checkpoint holds its head alone, the folder of its encoder's weights, and the network it was."""
    config = TrialConfig(
        dataset=DatasetConfig(name="phantom", source="phantom"),
        initialization="imagenet",
        backbone="test_vit3",
        resolution=SIDE,
        adaptation="probe",
        recipe=recipes.Recipe(),
    )
    weights = tmp_path / "weights"
    weights.mkdir()
    drawn = assembly.build_network(config.model_copy(update={"initialization": "random"}), PATHOLOGIES, weights=None)
    save_file(drawn.encoder.body.state_dict(), weights / f"{assembly.plan_network(config).tag}.safetensors")
    network = assembly.build_network(config, PATHOLOGIES, weights=weights).eval()
    return packaged(tmp_path, config, network, network.head.state_dict()), weights, network


def test_a_probe_is_packaged_with_the_encoder_from_the_folder_of_weights(probe, tmp_path):
    made, weights, network = probe
    packaging.save_model(dataclasses.replace(made, weights=weights), tmp_path / "model")
    squares = np.random.default_rng(2).integers(0, 255, (3, 1, SIDE, SIDE), dtype=np.uint8)
    with torch.no_grad():
        expected = network(torch.from_numpy(squares)).sigmoid().numpy()
    answer = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(squares)
    assert np.abs(answer.to_numpy() - expected).max() < 1e-6


def test_a_probe_without_its_weights_is_refused_with_what_to_do(probe, tmp_path):
    made, _, _ = probe
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrialError, match=r"no weights test_vit3\.\w+ in .*the folder holds nothing.*fetch-weights"):
        packaging.save_model(dataclasses.replace(made, weights=tmp_path / "empty"), tmp_path / "model")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("/etc/hostname", "image 0: text is read as base64, and this is none; give the path of a file as pathlib.Path"),
        ([b""], "image 0: file is empty"),
        ([b"\x89PNG\r\n\x1a\n"], "image 0: PNG without a header"),
        (["AAAA"], "image 0: neither PNG, JPEG nor DICOM"),
        ([Path("/nowhere.dcm")], "image 0: file is missing"),
        ([np.zeros((4, 4))], r"image 0: grey values are uint8 or uint16 \(H, W\), not float64 \(4, 4\)"),
        (np.zeros((2, 1, 8, 8), np.uint8), r"prepared squares are uint8 \(N, 1, 32, 32\), not uint8 \(2, 1, 8, 8\)"),
        (np.zeros((2, 1, SIDE, SIDE), np.float32), r"prepared squares are uint8 \(N, 1, 32, 32\), not float32"),
        ([np.zeros((1, SIDE, SIDE), np.float32)], r"image 0: prepared squares are uint8 \(N, 1, 32, 32\), not float32"),
        ([np.eye(8, dtype=np.uint8)] * 40 + [b""], "image 40: file is empty"),
        (np.zeros((40, 40, 3), np.uint8), r"an array \(40, 40, 3\) looks like a colour image; give its grey values"),
        (np.zeros((40, 40, 2), np.uint8), r"an array \(40, 40, 2\) looks like a colour image; give its grey values"),
        ({"image": np.zeros((40, 40, 3), np.uint8)}, r"an array \(40, 40, 3\) looks like a colour image"),
        (np.zeros((0, 0), np.uint8), r"image 0: grey values are uint8 or uint16 \(H, W\), not uint8 \(0, 0\)"),
        (
            np.zeros((1, SIDE, SIDE), np.uint8),
            r"\(1, 32, 32\) may be one image of grey values or one prepared square; give the former as \(32, 32\)",
        ),
        *(({"image": odd}, "image 0: an image is bytes, base64 text, .* not (int|NoneType)") for odd in (5, None)),
        ({"image": "/etc/hostname"}, "image 0: text is read as base64, and this is none"),
        (np.uint8(3) + np.zeros((), np.uint8), "an array of images has 1 to 4 dimensions|not as uint8"),
        ([3], "image 0: an image is bytes, base64 text, a pathlib.Path or an array, not int"),
        (3, "images are given as a list, a DataFrame, a Series or an array, not as int"),
        (pd.DataFrame({"a": [b""], "b": [b""]}), "which column holds the images. Name it `image`; found a, b"),
    ],
)
def test_what_is_no_image_is_refused_and_named(saved, given, message):
    with pytest.raises(ValueError, match=message):
        saved[2].predict(given)


def test_a_grey_image_with_a_channel_of_its_own_is_one_image(saved):
    grey = np.random.default_rng(0).integers(0, 255, (40, 36), np.uint8)
    expected = saved[2].predict([grey])
    for given in (grey, grey[..., None], {"image": grey[..., None]}, {"image": grey}):
        pd.testing.assert_frame_equal(saved[2].predict(given), expected)


def test_text_never_names_a_file_of_the_server(saved, film, monkeypatch):
    monkeypatch.chdir(film.parent)
    for text in (film.name, str(film), f"file://{film}"):
        with pytest.raises(ValueError, match="text is read as base64"):
            saved[2].predict([text])


@pytest.mark.slow
def test_versions_whose_code_differs_work_side_by_side(saved, film, tmp_path, monkeypatch):
    made, _, champion = saved
    before = champion.predict([film])
    copy = reader.copy_modules

    def changed(target):
        names = copy(target)
        path = target / "preprocessing.py"
        text = path.read_text()
        turned = text.replace(
            "pixels = self._quantized(resized, radiograph)", "pixels = 255 - self._quantized(resized, radiograph)"
        )
        assert turned != text
        path.write_text(turned)
        return names

    monkeypatch.setattr(reader, "copy_modules", changed)
    packaging.save_model(made, tmp_path / "challenger")
    challenger = mlflow.pyfunc.load_model(str(tmp_path / "challenger"))
    turned = challenger.predict([film])
    assert np.abs(turned.to_numpy() - before.to_numpy()).max() > 1e-4
    assert champion.predict([film]).equals(before)
    assert challenger.predict([film]).equals(turned)
    assert mlflow.pyfunc.load_model(str(saved[1])).predict([film]).equals(before)


ALONE = """
import json, sys
from importlib.machinery import PathFinder
from pathlib import Path

class Installed:
    find_distributions = staticmethod(PathFinder.find_distributions)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in LEFT_OUT else PathFinder.find_spec(name, path, target)

LEFT_OUT = set(json.loads(sys.argv[3]))
sys.meta_path[sys.meta_path.index(PathFinder)] = Installed()
import mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
print(json.dumps(model.predict([Path(sys.argv[2])]).iloc[0].to_dict()))
print(json.dumps([file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))]))
"""
"""A fresh environment: what is not asked for is as good as not installed."""


def normal(name):
    return re.sub(r"[-_.]+", "-", name.lower())


def needed(names):
    """Names of distributions and of all they require."""
    waiting, found = list(names), set()
    while waiting:
        name = normal(waiting.pop())
        if name in found:
            continue
        found.add(name)
        try:
            listed = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:
            continue
        waiting += [r.name for r in listed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


@pytest.mark.slow
def test_it_needs_mlflow_and_what_the_card_lists_and_nothing_of_this_repository(saved, film, tmp_path):
    made, folder, model = saved
    asked = (folder / "requirements.txt").read_text().splitlines()
    assert set(asked) == {*made.card().requirements, f"mlflow=={mlflow.__version__}"}
    wanted = needed(Requirement(line).name for line in asked)
    others = [name for name, owners in packages_distributions().items() if not wanted & set(map(normal, owners))]
    assert {"timm", "ray", "optuna"} <= set(others)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, folder, film, json.dumps(others)],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer, files = map(json.loads, done.stdout.splitlines()[-2:])
    assert answer == pytest.approx(model.predict([film]).iloc[0].to_dict(), abs=1e-6)
    root = str(Path(__file__).parents[2])
    assert [file for file in files if file.startswith(root) and "site-packages" not in file] == []


def test_nothing_in_it_is_a_pickle(saved):
    _, folder, _ = saved
    contents = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with zipfile.ZipFile(folder / "artifacts" / "program.pt2") as archive:
        contents |= {name: archive.read(name) for name in archive.namelist()}
    assert len(contents) > 20
    assert [name for name, content in contents.items() if content[:1] == b"\x80"] == []
    assert [name for name in contents if name.endswith((".pkl", ".pickle", ".pth"))] == []


def test_who_may_read_one_file_may_read_all(saved):
    _, folder, _ = saved
    assert len({path.stat().st_mode for path in folder.rglob("*") if path.is_file()}) == 1


def test_the_weights_are_in_one_file_alone(saved, tmp_path):
    """Its hash says which they are."""
    _, folder, _ = saved
    program, weights = (folder / "artifacts" / name for name in ("program.pt2", "weights.safetensors"))
    tensors = load_file(weights)
    exported = torch.export.load(program)
    assert exported.state_dict.keys() == tensors.keys()
    assert {tensor.numel() for tensor in exported.state_dict.values()} == {0}
    assert exported.example_inputs is None
    tensors.pop(next(iter(tensors)))
    save_file(tensors, tmp_path / "others.safetensors")
    with pytest.raises(ValueError, match="the weights are not those of the program"):
        inference.load_network(program, tmp_path / "others.safetensors")


def test_a_logged_model_lies_with_the_runs_of_its_study(saved, store_uri, tmp_path, monkeypatch):
    """MLflow's own choice is the active experiment, by default one whose files lie wherever a command was run."""
    monkeypatch.chdir(tmp_path)
    # What MLflow takes for the whole process, and for those that it starts, ends with this test.
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    for name, value in {"MLFLOW_TRACKING_URI": store_uri, "MLFLOW_EXPERIMENT_ID": "0"}.items():
        monkeypatch.setenv(name, value)
    client = MlflowClient(store_uri)
    experiment = client.create_experiment("with a model", artifact_location=(tmp_path / "mlartifacts").as_uri())
    run_id = client.create_run(experiment).info.run_id
    uri = packaging.log_model(saved[0], run_id=run_id, uri=store_uri)
    logged = client.get_logged_model(uri.removeprefix("models:/"))
    assert (logged.experiment_id, logged.source_run_id) == (experiment, run_id)
    (weights,) = tmp_path.rglob("weights.safetensors")
    assert weights.is_relative_to(tmp_path / "mlartifacts")


def test_the_hash_of_code_sees_every_name_and_content(tmp_path):
    def hashed(files):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
        return inference.hash_of_folder(folder)

    code = {"a.py": "1", "b.py": "2", "sub/c.py": "3"}
    assert hashed(code) == hashed(dict(reversed(code.items()))) == hashed(code | {"notes.txt": "4"})
    others = [
        code | {"a.py": "2"}, code | {"sub/c.py": "4"}, code | {"d.py": ""},
        {"a.py": "2", "b.py": "1", "sub/c.py": "3"}, {"a.py": "1", "b.py": "2"},
        {"a.py": "1", "b.py": "2", "c.py": "3"}, {"a.py": "1", "b.py": "2", "other/c.py": "3"},
    ]  # fmt: skip
    assert len({hashed(code), *map(hashed, others)}) == 1 + len(others)


@pytest.mark.parametrize("file", ["weights.safetensors", "program.pt2", "reader/images.py"])
def test_a_changed_file_is_refused_at_the_load(saved, tmp_path, file):
    shutil.copytree(saved[1], tmp_path / "model")
    path = tmp_path / "model" / "artifacts" / file
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises((ValueError, MlflowException), match="packaged"):
        mlflow.pyfunc.load_model(str(tmp_path / "model"))


@pytest.mark.parametrize("name", ["pathologies", "thresholds", "preprocessing", "resolution"])
def test_a_changed_contract_is_refused_at_the_load(saved, tmp_path, name):
    """By it a model names its columns and cuts its scores: the network alone would come out right."""
    shutil.copytree(saved[1], tmp_path / "model")
    path = tmp_path / "model" / "artifacts" / "contract.json"
    contract = json.loads(path.read_text())
    contract[name] = contract[name][::-1] if name == "pathologies" else None
    path.write_text(json.dumps(contract))
    with pytest.raises((ValueError, MlflowException), match=r"contract\.json is not the file that was packaged"):
        mlflow.pyfunc.load_model(str(tmp_path / "model"))


def test_the_copied_modules_lean_on_nothing_but_one_another(tmp_path):
    names = reader.copy_modules(tmp_path / "reader")
    assert {"dicom", "headers", "images", "jpeg2000", "preprocessing", "radiograph"} <= set(names)
    for path in (tmp_path / "reader").glob("*.py"):
        assert not re.search(r"^\s*(from|import) (datasets|trainers|mlflow_server)\b", path.read_text(), re.MULTILINE)


def test_the_metadata_say_what_the_model_is(saved):
    made, folder, model = saved
    facts = model.metadata.metadata
    assert facts["pathologies"] == list(PATHOLOGIES)
    assert facts["thresholds"] == THRESHOLDS
    assert facts["preprocessing"]["name"] == "standard"
    assert facts["weights_sha256"] == checkpoint.sha256(folder / "artifacts" / "weights.safetensors")
    assert facts["checkpoint_sha256"] == checkpoint.sha256(made.checkpoint / checkpoint.NETWORK)
    assert facts["licence"] == checkpoint.read_trial(made.checkpoint)["plan"]["licence"]
    assert {name: facts[name] for name in made.facts} == made.facts
    assert [column.name for column in model.metadata.signature.outputs] == list(PATHOLOGIES)
    assert model.predict(model.input_example).shape == (1, 3)


def test_the_card_tells_data_results_licence_and_limits(saved):
    made, folder, _ = saved
    card = (folder / "artifacts" / "MODEL_CARD.md").read_text()
    for line in (
        "## Intended use and limits",
        "**It is no medical device and must not decide about a patient.**",
        "- images: 70 train, 30 test",
        "| nodule | 5 / 9 | 1.000 | 0.812 (0.700–0.900) |",
        "95% intervals, 1000 bootstrap redraws of patients.",
        "No initial weights, so no licence of theirs.",
        f"torch=={torch.__version__.partition('+')[0]}",
    ):
        assert line in card
    assert made.card().description() == card


def test_a_long_card_is_cut_to_what_the_registry_keeps_with_its_warnings_first(tmp_path):
    names = [f"pathology_{i}" for i in range(14)]
    groups = [{"column": "age_band", "group": f"g{i}", "cases": 50} for i in range(20)]
    made = package(tmp_path, pathologies=names)
    evaluation = made.evaluation | {
        "subgroups": [row | group for group in groups for row in rows(names)],
        "external": [row | {"dataset": "chexpert", "cases": 100} for row in rows(names)],
    }
    card = dataclasses.replace(made, evaluation=evaluation).card()
    description = card.description()
    assert len(card.markdown()) > DESCRIPTION_CHARACTERS >= len(description)
    assert "| age_band | g7 | 50 | 0.812 (0.700–0.900) |" in card.markdown()
    assert "| chexpert | pathology_3 | 100 |" in card.markdown()
    assert "It is no medical device" in description
    assert "| pathology_13 |" in description
    assert description.endswith("the whole card is `artifacts/MODEL_CARD.md` of the model.*\n")


def test_a_card_says_over_how_many_pathologies_a_macro_is(tmp_path):
    def measured(values, **more):
        """Rows of AUROC by pathology, None where a class is missing; macro as the mean of the others."""
        known = [value for value in values if value is not None]
        counts = [(None, None) if value is None else (5, 9) for value in values]
        named = zip((*names, "macro"), (*values, sum(known) / len(known)), (*counts, (None, None)), strict=True)
        plain = {"metric": "auroc", "low": None, "high": None}
        return [
            plain | more | {"target": name, "value": value, "positives": positives, "negatives": negatives}
            for name, value, (positives, negatives) in named
        ]

    names = ["easy", "hard"]
    made = package(tmp_path, pathologies=names)
    group = {"column": "sex", "cases": 100}
    evaluation = made.evaluation | {
        "rows": measured([0.8, 0.7]),
        "external": measured([0.9, None], dataset="chexpert", cases=50),
        "subgroups": [*measured([0.82, 0.72], group="F", **group), *measured([0.8, None], group="M", **group)],
    }
    card = dataclasses.replace(made, evaluation=evaluation).card().markdown()
    assert "| macro |  |  | 0.750 |" in card
    assert "| chexpert | macro, over 1 of 2 pathologies | 50 | 0.900 |" in card
    assert "| sex | F | 100 | 0.820, over 1 of 2 pathologies |" in card
    assert "| sex | M | 100 | 0.800, over 1 of 2 pathologies |" in card
    evaluation["rows"] = measured([0.8, None])
    card = dataclasses.replace(made, evaluation=evaluation).card().markdown()
    assert "| macro, over 1 of 2 pathologies |  |  | 0.800 |" in card


def test_a_version_is_made_of_its_weights_and_of_all_that_was_measured(tmp_path):
    made = package(tmp_path / "a")
    measured = {**made.evaluation, "external": [{"dataset": "elsewhere", "cases": 9, **rows(PATHOLOGIES)[0]}]}
    others = [
        dataclasses.replace(made, evaluation=measured),
        dataclasses.replace(made, procedure="90% intervals"),
        package(tmp_path / "b", seed=1),
    ]
    told = {one.made_of() for one in (made, *others)}
    assert len(told) == 4
    assert package(tmp_path / "c").made_of() == dataclasses.replace(made, name="other").made_of() in told
