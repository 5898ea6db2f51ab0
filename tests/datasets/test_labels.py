import numpy as np
import pytest

from datasets.errors import DatasetError
from datasets.labels import SYNONYMS, canonical, flip, harden, indicator, resolve_uncertain

NAN = np.nan
NAMES = ("edema", "nodule", "no_finding")


@pytest.mark.parametrize(
    ("published", "name"),
    [
        ("Effusion", "pleural_effusion"),
        ("Pleural Effusion", "pleural_effusion"),
        ("Pleural_Thickening", "pleural_thickening"),
        ("Nodule/Mass", "nodule_mass"),
        ("Airspace Opacity", "lung_opacity"),
        ("No Finding", "no_finding"),
        ("normal", "no_finding"),
        ("COPD signs", "copd"),
        ("Other diseases", "other_disease"),
        (" Brocho-pneumonia", "bronchopneumonia"),
        ("Something new", "something_new"),
        ("Fleck groß", "fleck_groß"),
        (" Übersicht/Erguß ", "übersicht_erguß"),
        ("O\u0308dem", "ödem"),  # an O and a dot above it, as some systems write it
    ],
)
def test_synonyms_of_the_collections(published: str, name: str):
    assert canonical(published) == name


def test_no_synonym_stands_for_two_pathologies():
    spellings = [s for name, synonyms in SYNONYMS.items() for s in (name, *synonyms)]
    assert len(spellings) == len(set(spellings))


@pytest.mark.parametrize(("policy", "value"), [("zeros", 0), ("ones", 1), ("ignore", NAN), ("soft", 0.5)])
def test_each_policy_touches_uncertain_labels_only(policy: str, value: float):
    labels = np.array([[1, -1, 0], [-1, NAN, 1]], np.float32)
    resolved = resolve_uncertain(labels, NAMES, policy)
    np.testing.assert_array_equal(resolved, np.array([[1, value, 0], [value, NAN, 1]], np.float32))


def test_a_policy_per_pathology_ignores_the_others():
    labels = np.array([[-1, -1, -1]], np.float32)
    resolved = resolve_uncertain(labels, NAMES, {"edema": "ones", "nodule": "zeros"})
    np.testing.assert_array_equal(resolved, np.array([[1, 0, NAN]], np.float32))


def test_a_policy_for_a_pathology_that_is_not_there_is_refused():
    with pytest.raises(DatasetError, match=r"no pathology 'oedma'.*one of edema, nodule, no_finding"):
        resolve_uncertain(np.zeros((1, 3), np.float32), NAMES, {"oedma": "ones"})


def test_evaluation_sees_no_soft_label():
    labels = np.array([[1 / 3, 2 / 3, 0.5, 0, 1, NAN]], np.float32)
    np.testing.assert_array_equal(harden(labels), np.array([[0, 1, NAN, 0, 1, NAN]], np.float32))


def test_flips_have_the_stated_rates_and_leave_other_rows_alone():
    labels = np.zeros((40_000, 3), np.float32)
    labels[::2, 0] = 1
    labels[::4, 1] = NAN
    rows = np.arange(20_000)
    noisy = flip(labels, NAMES, rows=rows, share=0.4, mode="asymmetric", seed=42)
    np.testing.assert_array_equal(noisy[20_000:], labels[20_000:])
    edema = labels[:20_000, 0] == 1
    assert (noisy[:20_000, 0][edema] == 0).mean() == pytest.approx(0.4, abs=0.02)
    assert (noisy[:20_000, 0][~edema] == 1).mean() == pytest.approx(0.1, abs=0.02)
    np.testing.assert_array_equal(np.isnan(noisy), np.isnan(labels))
    abnormal = np.nan_to_num(noisy[:20_000, :2]).max(axis=1) > 0
    np.testing.assert_array_equal(noisy[:20_000, 2], (~abnormal).astype(np.float32))


def test_symmetric_flips_treat_both_classes_alike_and_depend_on_the_seed():
    labels = np.zeros((20_000, 2), np.float32)
    first, again, other = (
        flip(labels, ("edema", "nodule"), rows=np.arange(20_000), share=0.2, mode="symmetric", seed=seed)
        for seed in (1, 1, 2)
    )
    assert first.mean() == pytest.approx(0.2, abs=0.01)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_lists_of_names_become_an_indicator():
    labels = indicator([["nodule", "hernia"], [], ["edema", "nodule"]], NAMES)
    np.testing.assert_array_equal(labels, np.array([[0, 1, 0], [0, 0, 0], [1, 1, 0]], np.float32))
