import numpy as np
import pytest
import torch

from trainers import tasks
from trainers.masked_bce import MaskedBCE, positive_weights
from trainers.plugins import UnknownNameError
from trainers.recipes import Recipe

NAN = float("nan")
FINDINGS = ("nodule", "mass")


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_keeps_its_promises(name: str) -> None:
    task, declared = tasks.load(name), tasks.declare(name, FINDINGS)
    assert declared.targets == FINDINGS
    assert declared.direction in ("maximize", "minimize")
    head = task.head(8, FINDINGS, dropout=0.0)
    outputs = head(torch.rand(6, 8))
    labels = np.array([[1, 0], [0, 1], [1, NAN], [0, 0], [1, 1], [0, NAN]], dtype=np.float32)
    _, targets = task.collate(torch.rand(6, 1, 4, 4), torch.from_numpy(labels), device=torch.device("cpu"))
    loss = task.loss(labels, Recipe())
    whole, parts = (
        loss.total(outputs, targets),
        loss.total(outputs[:2], targets[:2]) + loss.total(outputs[2:], targets[2:]),
    )
    assert torch.isfinite(whole) and torch.allclose(whole, parts)
    assert int(loss.weight(targets)) > 0
    scores = task.scores(outputs).detach().numpy()
    cases = np.array(["b", "a", "b", "c", "c", "d"])
    by_case, truth, first = task.by_case(scores, labels, cases, FINDINGS)
    assert first.tolist() == [0, 1, 3, 5]
    metrics = task.metrics(by_case, truth, FINDINGS)
    assert declared.primary_metric.removeprefix("val/") in metrics


def test_an_unknown_task_lists_those_that_exist() -> None:
    with pytest.raises(UnknownNameError, match="multilabel"):
        tasks.declare("multilable", FINDINGS)


def test_labels_not_given_do_not_count() -> None:
    outputs = torch.tensor([[0.0, 50.0]], requires_grad=True)
    targets = torch.tensor([[1.0, NAN]])
    loss = MaskedBCE().total(outputs, targets)
    loss.backward()
    assert loss.item() == pytest.approx(np.log(2))
    assert outputs.grad is not None and outputs.grad.tolist() == [[-0.5, 0.0]]
    assert int(MaskedBCE().weight(targets)) == 1


def test_positive_weights_are_negatives_over_positives_of_the_given_labels() -> None:
    labels = np.array([[1, 1], [0, NAN], [0, 0], [0, NAN]], dtype=np.float32)
    assert positive_weights(labels).tolist() == [3.0, 1.0]


def test_a_case_is_the_mean_of_its_films_and_positive_if_any_is() -> None:
    task = tasks.load("multilabel")
    scores, labels, first = task.by_case(
        np.array([[0.2], [0.6], [0.9]]), np.array([[0.0], [1.0], [NAN]]), np.array(["x", "x", "y"]), ("nodule",)
    )
    assert scores[:, 0].tolist() == [pytest.approx(0.4), 0.9]
    assert labels[0, 0] == 1.0 and np.isnan(labels[1, 0])
    assert first.tolist() == [0, 2]


def test_a_case_has_no_finding_only_if_no_film_has_one() -> None:
    labels = np.array([[1, 0], [0, 1], [1, 0], [1, NAN], [NAN, NAN]], dtype=np.float64)  # the second film shows it
    cases = np.array(["ill", "ill", "well", "well", "unknown"])
    _, truth, _ = tasks.load("multilabel").by_case(np.zeros((5, 2)), labels, cases, ("no_finding", "nodule"))
    assert truth[:2].tolist() == [[0, 1], [1, 0]]
    assert np.isnan(truth[2]).all()


def test_an_undefined_metric_is_none_and_macro_names_no_class_it_lacks() -> None:
    task = tasks.load("multilabel")
    metrics = task.metrics(np.array([[0.1, 0.1], [0.9, 0.2]]), np.array([[0.0, 0.0], [1.0, 0.0]]), FINDINGS)
    assert metrics["auroc/mass"] is None
    assert metrics["auroc/macro"] == 1.0
