"""The files of a registered model, with little in them."""

import hashlib
import json


def packaged(folder):
    """Write what every version has; its contract knows their hashes."""
    (folder / "artifacts").mkdir(parents=True)
    (folder / "MLmodel").touch()
    hashes = {}
    for name, file in (("program", "program.pt2"), ("weights", "weights.safetensors")):
        (folder / "artifacts" / file).write_text(f"{name} of {folder.name}")
        hashes[name] = hashlib.sha256(f"{name} of {folder.name}".encode()).hexdigest()
    (folder / "artifacts" / "contract.json").write_text(json.dumps({"sha256": hashes}))
    return folder
