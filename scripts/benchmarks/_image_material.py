"""Files that the image benchmarks read: drawn once, the same for every side."""

import csv
from pathlib import Path

import cv2
import numpy as np
import openjpeg
import pydicom
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from datasets import dicom
from datasets.phantom_drawing import Findings, Projection, draw

HEIGHT, WIDTH, BITS = 2500, 2048, 12
TAGS = {
    "PhotometricInterpretation": "MONOCHROME2",
    "WindowCenter": "2000",
    "WindowWidth": "3600",
    "PatientID": "benchmark",
}


def radiograph(number: int, *, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Return uint16 (height, width), a phantom of 12 bits."""
    findings = Findings(*(bool(number >> bit & 1) for bit in range(4)))
    side = max(height, width)
    drawn = draw(findings, Projection("PA", "M"), size=side, rng=np.random.default_rng(number))
    left = (side - width) // 2
    return np.ascontiguousarray(drawn[:height, left : left + width])


def write_jpeg2000(path: Path, values: np.ndarray) -> None:
    """Write a lossless JPEG 2000 DICOM of 12 bits, six wavelet resolutions, as archives hold them."""
    dicom.write(path, values, bits=BITS, tags=TAGS, uid="2.25.1")
    stream = bytes(openjpeg.encode(values, bits_stored=BITS))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = encapsulate([stream + b"\0" * (len(stream) % 2)])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)


def write_rsna(root: Path, *, images: int, side: int) -> None:
    """Write DICOM files of 8 bits in the layout of the RSNA Pneumonia challenge, with the tables that peers ask for."""
    (root / "stage_2_train_images").mkdir(parents=True)
    names = [f"{number:08x}-0000" for number in range(1, images + 1)]
    base = [radiograph(number, height=side, width=side) >> 4 for number in range(8)]
    for number, name in enumerate(names, start=1):
        path = root / "stage_2_train_images" / f"{name}.dcm"
        tags = {"PhotometricInterpretation": "MONOCHROME2", "PatientID": name}
        dicom.write(path, np.roll(base[number % 8], number, axis=1), bits=8, tags=tags, uid=f"2.25.{number}")
    boxes = [[name, "", "", "", "", int(number % 3 == 0)] for number, name in enumerate(names)]
    _write_table(root / "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", boxes)
    _write_table(root / "headers.csv", "PatientID,ViewPosition", [[name, "PA"] for name in names])


def _write_table(path: Path, header: str, rows: list[list[object]]) -> None:
    with path.open("w", newline="") as file:
        file.write(header + "\n")
        csv.writer(file).writerows(rows)


def write_nih(root: Path, *, images: int, side: int) -> None:
    """Write a folder in the layout of NIH ChestX-ray14, which both torchxrayvision and we read."""
    (root / "images").mkdir(parents=True)
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    findings = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
                "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax")  # fmt: skip
    names = [f"{number:08d}_000.png" for number in range(1, images + 1)]
    base = [(radiograph(number, height=side, width=side) >> 4).astype(np.uint8) for number in range(8)]
    with (root / "Data_Entry_2017_v2020.csv").open("w", newline="") as file:
        file.write(header + "\n")
        for number, name in enumerate(names, start=1):
            cv2.imwrite(str(root / "images" / name), np.roll(base[number % 8], number, axis=1))
            row = [name, findings[number % 14], 0, number, 50, "M", "PA", 2500, 2048, 0.168, 0.168]
            csv.writer(file).writerow(row)
    (root / "train_val_list.txt").write_text("\n".join(names[: images * 4 // 5]))
    (root / "test_list.txt").write_text("\n".join(names[images * 4 // 5 :]))
