import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.errors import DatasetError
from datasets.partition import check_cases, check_disjoint, check_not_empty, draw_by_patient


def _cohort(patients: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    films = np.repeat(np.arange(patients), rng.integers(1, 5, patients)).astype(str)
    return films, (rng.random((len(films), 3)) < [0.02, 0.3, 0.6]).astype(np.float32)


@settings(max_examples=40)
@given(st.integers(1, 200), st.integers(0, 50), st.floats(0.05, 0.95))
def test_no_patient_is_cut_and_the_share_is_met_to_one_patient(patients: int, seed: int, fraction: float):
    films, labels = _cohort(patients, seed)
    chosen = draw_by_patient(films, labels, fraction=fraction, seed=seed)
    per_patient = pd.Series(chosen).groupby(films).agg(["min", "max"])
    assert (per_patient["min"] == per_patient["max"]).all()
    assert abs(per_patient["min"].sum() - fraction * patients) < 1


def test_rare_findings_are_shared_out():
    films, labels = _cohort(2000, 3)
    chosen = draw_by_patient(films, labels, fraction=0.25, seed=0)
    ill = pd.Series(labels[:, 0]).groupby(films).max().astype(bool)
    taken = pd.Series(chosen).groupby(films).max()[ill].mean()
    assert taken == pytest.approx(0.25, abs=1 / ill.sum())


def test_the_draw_ignores_the_order_of_rows_and_heeds_the_seed():
    films, labels = _cohort(300, 1)
    chosen = draw_by_patient(films, labels, fraction=0.3, seed=5)
    turned = draw_by_patient(films[::-1], labels[::-1], fraction=0.3, seed=5)
    np.testing.assert_array_equal(chosen, turned[::-1])
    assert (chosen != draw_by_patient(films, labels, fraction=0.3, seed=6)).any()


def test_an_overlap_is_refused_with_its_count_and_no_name():
    rows = pd.DataFrame(
        {"patient": ["Anna", "Anna", "Bert", "Bert", "Carl"], "partition": ["train", "test"] * 2 + ["val"]}
    )
    with pytest.raises(DatasetError, match="2 patients are in more than one partition") as caught:
        check_disjoint(rows, where="data set x")
    assert "Anna" not in str(caught.value)


def test_a_case_of_two_patients_is_refused_with_its_count_and_no_name():
    rows = pd.DataFrame({"case": ["visit 1", "visit 1", "visit 2"], "patient": ["Anna", "Bert", "Bert"]})
    with pytest.raises(DatasetError, match=r"1 cases have more than one patient.*option `case`") as caught:
        check_cases(rows, where="data set x")
    assert not any(name in str(caught.value) for name in ("Anna", "Bert", "visit 1"))
    check_cases(rows.iloc[1:].assign(case="a", patient="Bert"), where="data set x")


@pytest.mark.parametrize("empty", ["train", "val", "test"])
def test_an_empty_partition_is_named(empty: str):
    rows = pd.DataFrame({"partition": [name for name in ("train", "val", "test") if name != empty]})
    with pytest.raises(DatasetError, match=f"the {empty} partition is empty"):
        check_not_empty(rows, where="data set x")
