"""Milliseconds to score images: the registered model, as loaded and over HTTP, against the bare network.

The same inputs, one thread, taking turns. The weights are random: they do not change how long a network takes. Over
HTTP a whole film is sent, as base64 in JSON and as bytes in a Parquet table; the peer decodes the same file and asks
the bare network. What does not depend on the network (transport, JSON, base64) weighs most with the smallest one.
"""

import base64
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import requests
import torch

from datasets import images
from datasets.dataset_config import DatasetConfig
from datasets.limits import Limits
from datasets.preprocessing import resolve
from mlflow_server import packaging
from scripts import services
from scripts.benchmarks import _image_material as material
from scripts.benchmarks.row import Row
from trainers import assembly, checkpoint
from trainers.recipes import Recipe
from trainers.trial import TrialConfig

RESOLUTION, LABELS, GOAL = 224, 14, 1.2
NETWORKS = ("vit_tiny", "convnext_atto", "tf_efficientnet_lite0")
SERVED = ("vit_tiny", "vit_base")
BATCHES = (1, 16)
Bare = Callable[[np.ndarray], np.ndarray]


def run(*, quick: bool) -> list[Row]:
    """Package each network, check that both sides give the same probabilities, and time them."""
    torch.set_num_threads(1)
    rounds = 5 if quick else 40
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for backbone in NETWORKS[:1] if quick else NETWORKS:
            folder = Path(name) / backbone
            bare = _package(backbone, folder)
            rows += [_loaded(backbone, folder, bare, batch, rounds) for batch in BATCHES]
        for backbone in SERVED[:1] if quick else SERVED:
            folder = Path(name) / f"{backbone}-served"
            rows += _over_http(backbone, folder, _package(backbone, folder), rounds)
    return rows


def _package(backbone: str, folder: Path) -> Bare:
    """Write the model to `folder`/model; return the network itself, placed as trials are scored."""
    config = TrialConfig(
        dataset=DatasetConfig(name="phantom", source="phantom"),
        initialization="random",
        backbone=backbone,
        resolution=RESOLUTION,
        recipe=Recipe(),
    )
    pathologies = [f"pathology_{index}" for index in range(LABELS)]
    network = assembly.build_network(config, pathologies, weights=None)
    described = assembly.describe(config, network, pathologies, "0" * 64)
    saved = checkpoint.save_best(folder / "trial", epoch=1, network=network.state_dict(), trial=described)
    evaluation: dict[str, Any] = {"rows": [], "thresholds": {}}
    package = packaging.Package(saved, backbone, facts={}, data={}, evaluation=evaluation, procedure="")
    packaging.save_model(package, folder / "model")
    placed = assembly.Place(torch.device("cpu")).put(network).eval()

    def bare(squares: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(placed(torch.from_numpy(squares)).sigmoid())

    return bare


def _loaded(backbone: str, folder: Path, bare: Bare, batch: int, rounds: int) -> Row:
    model = mlflow.pyfunc.load_model(str(folder / "model"))
    squares = np.random.default_rng(0).integers(0, 256, (batch, 1, RESOLUTION, RESOLUTION), dtype=np.uint8)
    what = f"registered model: {backbone} at {RESOLUTION} px, batch of {batch}, ms"
    return _row(what, lambda: model.predict(squares).to_numpy(), lambda: bare(squares), rounds)


def _over_http(backbone: str, folder: Path, bare: Bare, rounds: int) -> list[Row]:
    """Time a whole radiograph, from the bytes of its file; the requests are made ready before the clock runs."""
    path = folder / "film.dcm"
    material.write_jpeg2000(path, material.radiograph(5))
    content, preparation = path.read_bytes(), resolve("standard")

    def in_process() -> np.ndarray:
        film = images.decode(content, cover=preparation.cover(RESOLUTION), window=preparation.window, limits=Limits())
        return bare(preparation.square(film, RESOLUTION)[None, None])

    forms = {
        "JSON": ("application/json", json.dumps({"inputs": [base64.b64encode(content).decode()]}).encode()),
        "Parquet": ("application/vnd.apache.parquet", pd.DataFrame({"image": [content]}).to_parquet()),
    }
    what = f"served over HTTP: a JPEG 2000 DICOM of {len(content) / 1e6:.1f} MB, {backbone}, as"
    with _served(folder / "model") as address, requests.Session() as session:
        return [
            _row(f"{what} {form}, ms", partial(_answer, session, address, *asked), in_process, rounds)
            for form, asked in forms.items()
        ]


def _answer(session: requests.Session, address: str, content_type: str, body: bytes) -> np.ndarray:
    answer = session.post(f"{address}/invocations", body, headers={"Content-Type": content_type}, timeout=60)
    answer.raise_for_status()
    return np.array([list(row.values()) for row in answer.json()["predictions"]])


@contextlib.contextmanager
def _served(model: Path) -> Iterator[str]:
    """Run `mlflow models serve` on loopback."""
    service, address = services.served_model(
        str(model), model.parent / "serve.log", {**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        service.start()
        yield address
    finally:
        service.kill()


def _row(what: str, ours: Callable[[], np.ndarray], peer: Callable[[], np.ndarray], rounds: int) -> Row:
    if np.abs(ours() - peer()).max() > 1e-5:
        raise RuntimeError(f"{what}: both sides must give the same probabilities")
    taken: dict[str, list[float]] = {"ours": [], "peer": []}
    for index in range(rounds + 2):
        sides = (("ours", ours), ("peer", peer))
        for name, score in sides if index % 2 else reversed(sides):
            began = time.perf_counter()
            score()
            if index >= 2:  # the first ones allocate
                taken[name].append((time.perf_counter() - began) * 1000)
    our, other = (statistics.median(taken[name]) for name in ("ours", "peer"))
    return Row(what, our, other, our / other, f"<= {GOAL:g}", our / other <= GOAL)
