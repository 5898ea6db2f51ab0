"""Small copies of every collection in its official layout: headers exactly as published, invented rows."""

import csv
import gzip
import io
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from datasets import dicom

PATIENTS = 60
NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
CHEXPERT_HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
MIMIC_METADATA = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
    "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
)
MIMIC_LABELS = (
    "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,"
    "Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"
)
PADCHEST_HEADER = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,"
    "MethodProjection,Pediatric,Modality_DICOM,Manufacturer_DICOM,PhotometricInterpretation_DICOM,"
    "PixelRepresentation_DICOM,PixelAspectRatio_DICOM,SpatialResolution_DICOM,BitsStored_DICOM,WindowCenter_DICOM,"
    "WindowWidth_DICOM,Rows_DICOM,Columns_DICOM,XRayTubeCurrent_DICOM,Exposure_DICOM,ExposureInuAs_DICOM,ExposureTime,"
    "RelativeXRayExposure_DICOM,ReportID,Report,MethodLabel,Labels,Localizations,LabelsLocalizationsBySentence,"
    "labelCUIS,LocalizationsCUIS"
)
PADCHEST_NAME = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
VINDR_FINDINGS = (
    "Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,Edema,Emphysema,"
    "Enlarged PA,ILD,Infiltration,Lung Opacity,Lung cavity,Lung cyst,Mediastinal shift,Nodule/Mass,Pleural effusion,"
    "Pleural thickening,Pneumothorax,Pulmonary fibrosis,Rib fracture,Other lesion,COPD,Lung tumor,Pneumonia,"
    "Tuberculosis"
)
PCXR_FINDINGS = (
    "No finding,Bronchitis,Brocho-pneumonia,Other disease,Bronchiolitis,Situs inversus,Pneumonia,Pleuro-pneumonia,"
    "Diagphramatic hernia,Tuberculosis,Congenital emphysema,CPAM,Hyaline membrane disease,Mediastinal tumor,Lung tumor"
)


def picture(number: int, side: int = 24) -> np.ndarray:
    """Return uint8 (side, side), another one for every number."""
    return np.random.default_rng(number).integers(0, 256, (side, side), dtype=np.uint8)


def _drawn(image: int, finding: int) -> bool:
    """Say whether an image has a finding: three in ten have, at random, the same at every call."""
    return bool(np.random.default_rng([image, finding]).random() < 0.3)


def _reported(study: int, finding: int, *, unsure: bool) -> str:
    """Return a cell of the CheXpert labeler: a quarter each present, absent, not mentioned and unsure."""
    cells = ("1.0", "0.0", "", "-1.0" if unsure else "0.0")
    return cells[int(np.random.default_rng([study, finding]).integers(4))]


def write_png(path: Path, values: np.ndarray) -> None:
    """Write a grey PNG of 8 or 16 bits, without a library of the code under test."""
    height, width = values.shape
    depth = 8 * values.dtype.itemsize
    lines = values.astype(values.dtype.newbyteorder(">")).tobytes()
    stride = len(lines) // height
    raw = b"".join(b"\0" + lines[row * stride : (row + 1) * stride] for row in range(height))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(raw)),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def write_jpeg(path: Path, values: np.ndarray) -> None:
    """Write a grey JPEG."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def write_dicom(path: Path, values: np.ndarray, *, photometric: str = "MONOCHROME2", patient: str = "x") -> None:
    """Write a 12-bit DICOM file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = {"PhotometricInterpretation": photometric, "PatientID": patient}
    dicom.write(path, values.astype(np.uint16) * 16, bits=12, tags=tags, uid=f"2.25.{zlib.crc32(path.name.encode())}")


def write_jpeg2000(path: Path, values: np.ndarray) -> None:
    """Write an 8-bit DICOM file whose pixels are lossless JPEG 2000 of several resolutions."""
    import pydicom
    from PIL import Image

    write_dicom(path, values)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "JPEG2000", irreversible=False, no_jp2=True)
    film = pydicom.dcmread(path)
    film.BitsAllocated, film.BitsStored, film.HighBit = 8, 8, 7
    film.PixelData = pydicom.encaps.encapsulate([stream.getvalue()])
    film["PixelData"].VR, film["PixelData"].is_undefined_length = "OB", True
    film.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
    film.save_as(path, enforce_file_format=True)


def write_table(path: Path, header: str, rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV, gzipped if its name says so; the header is taken to the letter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    text.write(header + "\n")
    csv.writer(text).writerows(rows)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def nih_chest_xray14(root: Path) -> dict[str, object]:
    """Twelve archives, of which two are unpacked; every finding occurs."""
    findings = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
                "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax")  # fmt: skip
    rows, lists = [], {"train_val_list.txt": [], "test_list.txt": []}
    for patient in range(1, 3 * PATIENTS + 1):
        for film in range(2):
            name = f"{patient:08d}_{film:03d}.png"
            write_png(root / f"images_{1 + patient % 2:03d}" / "images" / name, picture(patient * 10 + film))
            own = [f for i, f in enumerate(findings) if _drawn(patient * 2 + film, i) and patient % 3] or ["No Finding"]
            rows.append([name, "|".join(own), film, patient, 40 + patient % 50, "MF"[patient % 2], ("PA", "AP")[film],
                         2500, 2048, 0.168, 0.168])  # fmt: skip
            lists["test_list.txt" if patient % 5 == 0 else "train_val_list.txt"].append(name)
    write_table(root / "Data_Entry_2017_v2020.csv", NIH_HEADER, rows)
    for name, entries in lists.items():
        (root / name).write_text("\n".join(entries))  # the last line has no end, as in the published lists
    return {}


def chexpert(root: Path, name: str = "CheXpert-v1.0-small") -> dict[str, object]:
    """The archive's own folder inside the root; its paths begin with that name."""
    for part, first, count in (("train", 0, PATIENTS), ("valid", 1000, 12)):
        rows = []
        for patient in range(first, first + count):
            for view, side in ((1, "frontal"), (2, "lateral")):
                path = f"{name}/{part}/patient{patient:05d}/study1/view{view}_{side}.jpg"
                write_jpeg(root / path, picture(patient * 10 + view))
                cells = [_reported(patient, i, unsure=part == "train") for i in range(14)]
                rows.append([path, ("Male", "Female")[patient % 2], 30 + patient % 50, side.capitalize(),
                             ("AP", "PA")[patient % 2] if side == "frontal" else "", *cells])  # fmt: skip
        write_table(root / name / f"{part}.csv", CHEXPERT_HEADER, rows)
    return {"row_filter": False}


def mimic_cxr(root: Path) -> dict[str, object]:
    """Four gzipped tables; one study has no labels."""
    metadata, split, labels = [], [], []
    for patient in range(PATIENTS):
        subject, study = 10_000_000 + patient * 100_003, 50_000_000 + patient
        for number, view in enumerate(("PA", "LATERAL")):
            image = f"{patient:08x}-{number}"
            write_jpeg(
                root / f"files/p{str(subject)[:2]}/p{subject}/s{study}/{image}.jpg", picture(patient * 10 + number)
            )
            metadata.append([image, subject, study, "CHEST (PA AND LAT)", view, 3056, 2544, 21800506, 213014.531,
                             "CHEST", "postero-anterior", "Erect"])  # fmt: skip
            split.append([image, study, subject, ("train", "train", "train", "validate", "test")[patient % 5]])
        if patient:
            labels.append([subject, study, *[_reported(patient, i, unsure=True) for i in range(14)]])
    write_table(root / "mimic-cxr-2.0.0-metadata.csv.gz", MIMIC_METADATA, metadata)
    write_table(root / "mimic-cxr-2.0.0-split.csv.gz", "dicom_id,study_id,subject_id,split", split)
    write_table(root / "mimic-cxr-2.0.0-chexpert.csv.gz", MIMIC_LABELS, labels)
    return {}


def padchest(root: Path) -> dict[str, object]:
    """Numbered folders of 16-bit PNGs; stray spaces, empty terms and one row without labels."""
    terms = ("cardiomegaly", "pleural effusion", "pneumonia", "atelectasis", "normal", "consolidation", "pneumothorax",
             "emphysema", "hiatal hernia", "scoliosis", "hilar congestion", "aortic elongation", "kyphosis",
             "COPD signs", "pleural thickening", "nodule", "infiltrates", "pulmonary mass", "pulmonary edema",
             "pulmonary fibrosis")  # fmt: skip
    rows = []
    for patient in range(3 * PATIENTS):
        name = f"{patient}_{patient:06x}.png"
        write_png(root / str(patient % 2) / name, picture(patient).astype(np.uint16) * 200)
        own = [f" {term}" for i, term in enumerate(terms) if i == patient % len(terms) or _drawn(patient, i)] + [""]
        cells = dict.fromkeys(PADCHEST_HEADER.split(","), "") | {
            "": patient, "ImageID": name, "ImageDir": patient % 2, "StudyDate_DICOM": 20140915,
            "StudyID": f"S{patient}",
            "PatientID": f"{patient // 2}", "PatientBirth": f"{1930 + patient // 2 % 60}.0", "PatientSex_DICOM": "F",
            "Projection": ("PA", "AP_horizontal", "AP", "L")[patient % 4],
            "Labels": str(own) if patient != 1 else "nan",
        }  # fmt: skip
        rows.append(cells.values())
    write_table(root / f"{PADCHEST_NAME}.gz", PADCHEST_HEADER, rows)
    return {}


def vindr_cxr(root: Path) -> dict[str, object]:
    """Three readers per training image, who differ; 'Other diseases' in train, 'Other disease' in test."""
    train, test = [], []
    for number in range(2 * PATIENTS):
        image, part = f"{number:032x}", "train" if number % 4 else "test"
        write_dicom(root / part / f"{image}.dicom", picture(number), photometric=f"MONOCHROME{1 + number % 2}")
        truth = [int(_drawn(number, i)) for i in range(28)]
        if part == "test":
            test.append([image, *truth])
            continue
        for reader in range(3):  # the third reader says the opposite: the majority is the truth
            train.append([image, f"R{8 + reader}", *[value if reader < 2 else 1 - value for value in truth]])
    write_table(
        root / "annotations/image_labels_train.csv",
        f"image_id,rad_id,{VINDR_FINDINGS},Other diseases,No finding",
        train,
    )
    write_table(root / "annotations/image_labels_test.csv", f"image_id,{VINDR_FINDINGS},Other disease,No finding", test)
    return {}


def vindr_pcxr(root: Path) -> dict[str, object]:
    """Tables in the root, one reader in train, the data set's own spellings."""
    rows: dict[str, list[list[object]]] = {"train": [], "test": []}
    for number in range(2 * PATIENTS):
        image, part = f"{number:032x}", "train" if number % 4 else "test"
        write_dicom(root / part / f"{image}.dicom", picture(number))
        reader = ["R1"] if part == "train" else []
        rows[part].append([image, *reader, *[int(_drawn(number, i)) for i in range(15)]])
    write_table(root / "image_labels_train.csv", f"image_id,rad_ID,{PCXR_FINDINGS}", rows["train"])
    write_table(root / "image_labels_test.csv", f"image_id,{PCXR_FINDINGS}", rows["test"])
    return {}


def rsna_pneumonia(root: Path) -> dict[str, object]:
    """One row per box: an image with two boxes comes twice."""
    boxes, classes = [], []
    for number in range(PATIENTS):
        image = f"{number:08x}-0000"
        write_dicom(root / "stage_2_train_images" / f"{image}.dcm", picture(number), patient=image)
        if number % 3:
            boxes.append([image, "", "", "", "", 0])
        else:
            boxes += [[image, 264.0, 152.0, 213.0, 379.0, 1], [image, 562.0, 152.0, 256.0, 453.0, 1]]
        classes.append([image, ("Lung Opacity", "Normal", "No Lung Opacity / Not Normal")[number % 3]])
    write_table(root / "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", boxes)
    write_table(root / "stage_2_detailed_class_info.csv", "patientId,class", classes)
    return {}


def csv_table(root: Path) -> dict[str, object]:
    """A private collection with severities, as a hospital would export it."""
    rows = []
    for number in range(2 * PATIENTS):
        write_png(root / "films" / f"{number}.png", picture(number))
        rows.append([f"{number}.png", f"Pat {number // 2}", ("Train", "valid", "TEST")[(number // 2) % 3], number % 5,
                     ("yes", "no", "")[number // 3 % 3], ("m", "f")[number % 2], 50 + number % 30])  # fmt: skip
    write_table(root / "labels.csv", "file,patient_id,split,Cardiomegaly,Congestion,sex,age", rows)
    return {
        "image": "file", "images": "films", "patient": "patient_id", "partition": "split", "sex": "sex", "age": "age",
        "findings": ["Cardiomegaly", "Congestion"],
        "positive_cells": {"Cardiomegaly": ["3", "4"]}, "negative_cells": {"Cardiomegaly": ["0", "1", "2"]},
    }  # fmt: skip


def phantom(root: Path) -> dict[str, object]:
    """Writes itself."""
    root.mkdir(parents=True, exist_ok=True)
    return {"patients": 24, "size": 64}


MINIATURES: dict[str, Callable[[Path], dict[str, object]]] = {
    "chexpert": chexpert,
    "csv": csv_table,
    "mimic_cxr": mimic_cxr,
    "nih_chest_xray14": nih_chest_xray14,
    "padchest": padchest,
    "phantom": phantom,
    "rsna_pneumonia": rsna_pneumonia,
    "vindr_cxr": vindr_cxr,
    "vindr_pcxr": vindr_pcxr,
}
"""How a miniature of each source is written; returns the options it is read with."""
