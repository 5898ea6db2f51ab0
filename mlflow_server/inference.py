"""What a registered model does with images. This file travels inside the model and imports nothing of this repository.

MLflow runs it under a name of its own at every load ("models from code"). The modules that read images travel beside
it and are imported under the hash of their content, so that versions whose code differs work side by side in one
process; MLflow's `code_paths` would give them both the first one's.
"""

import binascii
import hashlib
import importlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pybase64
import torch
from mlflow.models import Model, set_model
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.pyfunc import PythonModel, PythonModelContext
from safetensors.torch import load_file
from torch import nn

BATCH = 32
"""Images that go through the network at once: more take memory and gain little."""


class ImageScorer(PythonModel):  # type: ignore[misc]
    """Images in, one named probability per pathology out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the files that were packaged.

        Raises:
            ValueError: a file is not the one that was packaged.
        """
        files = {name: Path(path) for name, path in context.artifacts.items()}
        self._contract: dict[str, Any] = json.loads(files["contract"].read_text())
        _check_contract(self._contract, files["contract"].parents[1])
        for name in ("program", "weights"):
            _check_hash(files[name], self._contract["sha256"][name])
        self.pathologies: list[str] = self._contract["pathologies"]
        self._side = int(self._contract["resolution"])
        self._reader = import_reader(files["reader"], self._contract["sha256"]["reader"])
        described = dict(self._contract["preprocessing"])
        described.pop("version")
        self._preprocessing = self._reader.preprocessing.Preprocessing(**described)
        self._network = load_network(files["program"], files["weights"])

    # The hint keeps MLflow from asking for one; what may be given besides is checked here, not by MLflow.
    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Score images.

        Args:
            context: not needed.
            model_input: one image or a list, a Series, a DataFrame (its only column, or `image`) or an array of
                them. An image is the content of a DICOM, PNG or JPEG file (bytes, or base64 as text), the path of one
                (`pathlib.Path`; text is never taken for a path, so that a client of a server cannot name its files),
                grey values with more being brighter (uint8 or uint16 (H, W)), or a square that is prepared already
                (uint8 (1, R, R)). An array counts images along its first axis, unless it is one (H, W): (N, H, W) are
                grey values, (N, 1, R, R) squares.
            params: {"decisions": True} adds a column `decision_<pathology>` each: whether the probability reaches
                the threshold chosen on validation, None where there is none.

        Returns:
            float32 column per pathology, a row per image, in their order and with their index.

        Raises:
            ValueError: which image cannot be read, and why.
        """
        index, images = _listed(model_input, self._side)
        table = pd.DataFrame(self._scores(images), columns=self.pathologies, index=index)
        if params and params.get("decisions"):
            for name in self.pathologies:
                cut = self._contract["thresholds"].get(name)
                table[f"decision_{name}"] = None if cut is None else table[name].to_numpy(np.float64) >= cut
        return table

    def _scores(self, images: Sequence[Any] | np.ndarray) -> np.ndarray:
        if isinstance(images, np.ndarray):
            self._check_squares(images)
        scores = [np.empty((0, len(self.pathologies)), np.float32)]
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            if not isinstance(batch, np.ndarray):
                batch = np.stack([self._square(image, start + i) for i, image in enumerate(batch)])
            with torch.inference_mode():
                scores.append(self._network(torch.from_numpy(np.ascontiguousarray(batch))).numpy())
        return np.concatenate(scores[1:] or scores)

    def _check_squares(self, squares: np.ndarray) -> None:
        wanted = (1, self._side, self._side)
        if squares.dtype != np.uint8 or squares.shape[1:] != wanted:
            raise ValueError(
                f"prepared squares are uint8 (N, {', '.join(map(str, wanted))}), not {squares.dtype} {squares.shape}"
            )

    def _square(self, image: Any, number: int) -> np.ndarray:
        """Return an image as the network takes it, uint8 (1, R, R)."""
        try:
            if isinstance(image, np.ndarray) and image.ndim == 3:
                self._check_squares(image[None])
                return image  # (1, R, R)
            radiograph = self._radiograph(image)
            prepared: np.ndarray = self._preprocessing.square(radiograph, self._side)
        except (self._reader.limits.Unreadable, ValueError) as problem:
            raise ValueError(f"image {number}: {problem}") from None
        return prepared[None]

    def _radiograph(self, image: Any) -> Any:
        if isinstance(image, np.ndarray):
            if image.ndim != 2 or image.dtype not in (np.uint8, np.uint16) or not image.size:
                raise ValueError(f"grey values are uint8 or uint16 (H, W), not {image.dtype} {image.shape}")
            return self._reader.radiograph.Radiograph(image, 8 * image.dtype.itemsize)
        settings = {
            "cover": self._preprocessing.cover(self._side),
            "window": self._preprocessing.window,
            "limits": self._reader.limits.Limits(),
        }
        if isinstance(image, Path):
            return self._reader.images.read(image, **settings)
        return self._reader.images.decode(_content(image), **settings)


def load_network(program: Path, weights: Path) -> nn.Module:
    """Put an exported program and its weights together again.

    Args:
        program: from `torch.export.save`, its tensors empty.
        weights: safetensors; every tensor of the program and no other.
    """
    exported = torch.export.load(program)
    tensors = load_file(weights)
    if tensors.keys() != exported.state_dict.keys():
        raise ValueError("the weights are not those of the program")
    for name, tensor in tensors.items():
        # As when it was exported. A parameter stays one, which the program's signature demands.
        placed = tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        parameter = isinstance(exported.state_dict[name], nn.Parameter)
        exported.state_dict[name] = nn.Parameter(placed, requires_grad=False) if parameter else placed
    # What the program's own guards would check at every call, the shape and type of its input, is checked above.
    network: nn.Module = exported.module(check_guards=False)
    return network


def import_reader(folder: Path, sha256: str) -> ModuleType:
    """Import the packaged modules that read images, under a name that no other code bears.

    Args:
        folder: of the modules.
        sha256: of their content, see `hash_of_folder`.
    """
    if hash_of_folder(folder) != sha256:
        raise ValueError(f"{folder.name}: the code is not what was packaged")
    name = f"radiograph_reader_{sha256}"
    if name not in sys.modules:
        places = [str(folder)]
        spec = importlib.util.spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=places)
        if spec is None or spec.loader is None:
            raise ValueError(f"{folder.name}: no package")
        package = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
    for part in ("dicom", "images", "limits", "preprocessing", "radiograph"):  # what is missing is told at the load
        importlib.import_module(f"{name}.{part}")
    return sys.modules[name]


def hash_of_folder(folder: Path) -> str:
    """Return the sha256 over names and contents of the Python files of a folder, those of its subfolders included."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        total.update(
            f"{path.relative_to(folder).as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    return total.hexdigest()


def _check_contract(contract: dict[str, Any], model: Path) -> None:
    """Hold the contract against what MLflow's own file says of the model, where that is beside it."""
    if (model / MLMODEL_FILE_NAME).is_file():
        described = Model.load(str(model)).metadata or {}
        if any(described.get(name) != value for name, value in contract.items()):
            raise ValueError("contract.json is not the file that was packaged")


def _check_hash(path: Path, sha256: str) -> None:
    with path.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
            raise ValueError(f"{path.name} is not the file that was packaged")


def _listed(given: Any, side: int) -> tuple[Any, Sequence[Any] | np.ndarray]:
    """Return the index of the answer and the images, however they were given."""
    if isinstance(given, dict):
        given = pd.DataFrame({name: pd.Series(_column(column, side)) for name, column in given.items()})
    if isinstance(given, pd.DataFrame):
        if "image" not in given and given.shape[1] != 1:
            raise ValueError(f"which column holds the images? Name it `image`; found {', '.join(map(str, given))}")
        given = given["image"] if "image" in given else given.iloc[:, 0]
    if isinstance(given, pd.Series):
        return given.index, given.tolist()
    if isinstance(given, np.ndarray):
        return None, _of_array(given, side)
    if isinstance(given, (bytes, str, Path)):
        given = [given]
    if not isinstance(given, (list, tuple)):
        raise ValueError(
            f"images are given as a list, a DataFrame, a Series or an array, not as {type(given).__name__}"
        )
    return None, given


def _column(given: Any, side: int) -> list[Any]:
    if isinstance(given, np.ndarray):
        return list(_of_array(given, side))
    return list(given) if isinstance(given, (list, tuple, pd.Series)) else [given]


def _of_array(given: np.ndarray, side: int) -> Sequence[Any] | np.ndarray:
    """Return the images of an array: one of grey values, or several of those or of prepared squares."""
    if given.ndim == 2:
        return [given]
    if given.shape == (1, side, side):
        raise ValueError(
            f"an array {given.shape} may be one image of grey values or one prepared square; give the former as "
            f"{given.shape[1:]}, the latter as {(1, *given.shape)}"
        )
    if given.ndim == 3 and given.shape[-1] == 1:
        return [given[..., 0]]
    if given.ndim == 3 and given.dtype != object and given.shape[-1] in (2, 3, 4):
        raise ValueError(f"an array {given.shape} looks like a colour image; give its grey values (H, W)")
    if given.ndim not in (1, 3, 4):
        raise ValueError(f"an array of images has 1 to 4 dimensions, not {given.ndim}")
    return given if given.ndim == 4 else list(given)


def _content(image: Any) -> bytes:
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str):
        raise ValueError(f"an image is bytes, base64 text, a pathlib.Path or an array, not {type(image).__name__}")
    try:
        return _from_base64(image)
    except binascii.Error:
        raise ValueError("text is read as base64, and this is none; give the path of a file as pathlib.Path") from None


def _from_base64(text: str) -> bytes:
    try:
        return pybase64.b64decode(text, validate=True)  # 5 MB in 2 ms; Python's own takes 17
    except binascii.Error:  # it may stand in lines; looking for them in every film would cost more than decoding it
        return pybase64.b64decode("".join(text.split()), validate=True)


set_model(ImageScorer())  # where MLflow looks for what this file is about
