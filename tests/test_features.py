"""Layers' outputs: against slices of the model, mixing scores against closed forms, and the command end to end."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import BatchNormNet, Wavy, labels, partly_frozen, samples, traces

import fastadv
from fastadv.__main__ import main
from fastadv.attacks import PGD, FriendlyPGD
from fastadv.data import Dataset
from fastadv.evaluation import _features, features, last_layers, layer_outputs, mixing, project
from fastadv.trainers import Standard

pytestmark = pytest.mark.usefixtures("seed_zero")

sklearn = pytest.importorskip("sklearn", reason="outputs are reduced by scikit-learn")

# ---------------------------------------------------------------------------------------------------- layer outputs


def test_outputs_are_those_of_slices_of_the_model():
    model, x = nn.Sequential(*BatchNormNet()).eval(), samples(20, 3, 6, 6)
    model[2] = nn.ReLU(inplace=True)  # overwrites what module 1 returned
    with torch.no_grad():
        expected = {"0": model[:1](x), "1": model[:2](x), "3": model[:4](x), "": model(x)}
    for batch_size in (20, 7, 1):
        found = layer_outputs(model, x, list(expected), batch_size=batch_size)
        assert list(found) == list(expected)
        for name, output in found.items():
            torch.testing.assert_close(output, expected[name].flatten(1))


def test_outputs_leave_no_trace():
    x = samples(8, 3, 6, 6)
    eager = layer_outputs(BatchNormNet().eval(), x, ["4", "8"])
    for fails_at in (None, 1, 2):
        model = partly_frozen(BatchNormNet(fails_at=fails_at))
        before = traces(model, x)
        if fails_at:
            with pytest.raises(RuntimeError, match="out of memory"):
                layer_outputs(model, x, ["4", "8"], batch_size=4)
        else:
            found = layer_outputs(model, x, ["4", "8"], batch_size=4)
            assert all(torch.allclose(found[name], eager[name], atol=1e-6) for name in eager)  # in eval mode
        assert traces(model, x) == before
        assert not any(module._forward_hooks for module in model.modules())


class Twisted(nn.Module):
    """A layer used twice, one that is not used, one that returns a tuple, and one that returns one number."""

    def __init__(self):
        super().__init__()
        self.twice, self.unused, self.pair, self.total = nn.Softplus(), nn.Identity(), nn.LSTM(4, 4), Total()

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(x))
        return self.pair(x)[0] + self.total(x)


class Total(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum()


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        ("twise", ValueError, "unknown layer 'twise': choose among twice, unused, pair, total; did you mean 'twice'"),
        ("unused", ValueError, "layer 'unused' is not called"),
        ("pair", TypeError, r"layer 'pair' must return a tensor \[5, ...\], got tuple"),
        ("total", TypeError, r"layer 'total' must return a tensor \[5, ...\], got \(\)"),
    ],
)
def test_layers_without_outputs_are_refused(layer, error, message):
    model = Twisted()
    with pytest.raises(error, match=message):
        layer_outputs(model, samples(5, 4), [layer])
    assert not any(module._forward_hooks for module in model.modules())


def test_of_a_layer_that_is_called_twice_the_last_output():
    x = samples(5, 4)
    (found,) = layer_outputs(Twisted(), x, ["twice"]).values()
    torch.testing.assert_close(found, nn.functional.softplus(nn.functional.softplus(x)))


def test_the_last_layers():
    assert last_layers(fastadv.models.LeNet5()) == ["classifier.0", "classifier.2", "classifier.4"]
    assert last_layers(BatchNormNet(), 2) == ["4", "8"]


# ----------------------------------------------------------------------------------------------------------- mixing


def clusters(n: int, places: list[float], features: int = 16, seed: int = 0) -> Tensor:
    """`n` samples about each place on the diagonal, closer together than clusters are: [n * places, features]."""
    noise = 0.1 * torch.randn(n * len(places), features, generator=torch.Generator().manual_seed(seed))
    return noise + torch.tensor(places).repeat_interleave(n).unsqueeze(1)


@pytest.mark.parametrize("far", [0.0, 3000.0])
def test_clusters_that_lie_apart_are_not_mixed(far):
    y = torch.arange(3).repeat_interleave(20)
    assert mixing(clusters(20, [far, far + 1, far + 2]), y) == 0


def test_labels_drawn_by_lot_are_mixed():
    found = [mixing(samples(1500, 8, seed=seed), labels(1500, 3, seed + 50)) for seed in range(3)]
    assert found == pytest.approx([1, 1, 1], abs=0.04)


def test_among_all_others_every_class_is_fully_mixed():
    y = torch.tensor([0] * 5 + [1] * 12 + [3])
    assert mixing(clusters(9, [0, 5]), y, k=17) == pytest.approx(1)


def test_classes_that_change_places_cross_over_without_mixing():
    y = torch.arange(2).repeat_interleave(20)
    natural, swapped = clusters(20, [0, 1]), clusters(20, [1, 0], seed=1)
    assert mixing(swapped, y) == 0
    assert mixing(swapped, y, natural=natural) == pytest.approx(39 / 20)  # all neighbours differ, 20 of 39 by lot
    assert mixing(natural + 0.01, y, natural=natural) == 0
    assert mixing(natural, y, natural=natural) == mixing(natural, y)


def plain_mixing(outputs: list, y: list, k: int, natural: list) -> float:
    n, differ = len(y), 0
    for i in range(n):
        others = sorted((j for j in range(n) if j != i), key=lambda j: np.linalg.norm(outputs[i] - natural[j]))
        differ += sum(y[j] != y[i] for j in others[:k])
    return differ / (n * k) / (sum(a != b for a in y for b in y) / (n * (n - 1)))


@pytest.mark.parametrize("k", [1, 5, 10])
@pytest.mark.parametrize("crossed", [False, True])
def test_mixing_against_plain_loops(k, crossed, monkeypatch):
    outputs, natural, y = samples(40, 6), samples(40, 6, seed=1), labels(40, 4)
    y[:15] = 2
    natural = natural if crossed else outputs
    expected = plain_mixing(outputs.numpy(), y.tolist(), k, natural.numpy())
    assert 0.5 < expected < 1.5
    for rows in (_features._ROWS, 7):
        monkeypatch.setattr(_features, "_ROWS", rows)
        assert mixing(outputs, y, k, natural if crossed else None) == pytest.approx(expected)


def test_mixing_refuses():
    with pytest.raises(ValueError, match="k must be from 1 to 9, one fewer than the samples, got 10"):
        mixing(samples(10, 4), labels(10, 2))
    with pytest.raises(ValueError, match="at least two classes are needed, got samples of class 3 alone"):
        mixing(samples(20, 4), torch.full((20,), 3))


# ------------------------------------------------------------------------------------------------------ projections


def test_pca_is_that_of_a_singular_value_decomposition():
    outputs = {"a": samples(60, 12), "b": 2 * samples(40, 12, seed=1)}
    joint = torch.cat(list(outputs.values()))
    left, values, _ = torch.linalg.svd(joint - joint.mean(0), full_matrices=False)
    expected = (left * values)[:, :2]
    found = project(outputs, "pca")
    assert {kind: tuple(points.shape) for kind, points in found.items()} == {"a": (60, 2), "b": (40, 2)}
    points = torch.cat(list(found.values()))
    signs = (points * expected).sum(0).sign()
    torch.testing.assert_close(points * signs, expected, atol=1e-4, rtol=1e-4)


def test_tsne_keeps_clusters_apart_and_repeats_itself():
    y = torch.arange(3).repeat_interleave(15)
    outputs = {"a": clusters(15, [0, 5, 10]), "b": clusters(15, [0, 5, 10], seed=1)}
    found, again = project(outputs, "tsne"), project(outputs, "tsne")
    for kind in outputs:
        assert found[kind].shape == (45, 2)
        assert mixing(found[kind], y) == 0
        assert torch.equal(found[kind], again[kind])
    assert mixing(found["b"], y, natural=found["a"]) == 0  # one map for both


def test_project_refuses(monkeypatch):
    with pytest.raises(ValueError, match="method must be one of pca, tsne, got 'umap'"):
        project({"a": samples(20, 4)}, "umap")
    with pytest.raises(ValueError, match=r"pca needs outputs of at least 2 numbers a sample, got \[20, 1\]"):
        project({"a": samples(20, 1)}, "pca")
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)  # as where it is not installed
    with pytest.raises(ImportError, match=r"scikit-learn is missing. To fix: pip install scikit-learn"):
        project({"a": samples(20, 4)}, "pca")


# --------------------------------------------------------------------------------------------------------- features


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0)])
def test_features_against_direct_computation(bounds):
    model, x = nn.Sequential(nn.Flatten(), Wavy(48, 3)), samples(40, 3, 4, 4, low=bounds[0], high=bounds[1])
    y = model(x).argmax(1)
    y[::4] = (y[::4] + 1) % 3
    attacks = {"weak": PGD(0.01, 0.01, 2), "strong": PGD(0.1, 0.05, 5)}
    found = features(model, Dataset(x, y, tuple("abc"), bounds), attacks, ["1", "0"], batch_size=15)
    assert [(row.layer, row.kind) for row in found.rows] == [
        (layer, kind) for layer in ("1", "0") for kind in ("natural", "weak", "strong")
    ]
    for layer, kind, mixed, crossed, wrong in found.rows:
        x_adv = attacks[kind].within(bounds)(model, x, y) if kind in attacks else x
        for name, output, natural in (
            ("0", x_adv.flatten(1), x.flatten(1)),
            ("1", model(x_adv).float(), model(x).float()),
        ):
            if name == layer:
                torch.testing.assert_close(found.outputs[layer][kind], output)
                assert (mixed, crossed) == (mixing(output, y), mixing(output, y, natural=natural))
        assert wrong == (model(x_adv).argmax(1) != y).double().mean()
    assert found.rows[0].misclassified == 0.25 < found.rows[2].misclassified


def test_features_leave_no_trace_and_tell_progress():
    model, ticks = partly_frozen(BatchNormNet()), []
    given = Dataset(samples(12, 3, 6, 6), labels(12, 5), classes=tuple("abcde"))
    before = traces(model, given.x, given.y)
    features(model, given, {"pgd": PGD(steps=2)}, ["4"], on_step=lambda *tick: ticks.append(tick))
    assert traces(model, given.x, given.y) == before
    assert ticks == [(1, 2), (2, 2)]


@pytest.fixture(scope="module")
def pullovers_and_coats() -> tuple[nn.Module, Dataset]:
    """A network that tells pullovers from coats, and test images of both."""

    def two(split: str) -> Dataset:
        found = fastadv.load("fashion-mnist-mini", split)
        found = found.subset((found.y == 2) | (found.y == 4))
        return Dataset(found.x, (found.y == 4).long(), classes=("Pullover", "Coat"))

    torch.manual_seed(0)
    model = fastadv.models.LeNet5(classes=2)
    fastadv.fit(model, Standard(), two("train"), epochs=4)
    return model, two("test").take(200)


def test_friendly_samples_cross_over_less_than_those_of_pgd(pullovers_and_coats):
    """FAT, Figures 3 and 11. A strong PGD lets the classes change places, so that they mix less, not more."""
    model, given = pullovers_and_coats
    layers = last_layers(model)
    for eps in (0.02, 0.1):
        settings = (eps, eps / 10, 20)
        attacks = {"PGD": PGD(*settings, random_start=0), "friendly": FriendlyPGD(*settings, 0, random_start=0)}
        rows = {(row.layer, row.kind): row for row in features(model, given, attacks, layers).rows}
        for layer in layers:
            natural, pgd, friendly = (rows[layer, kind] for kind in ("natural", "PGD", "friendly"))
            assert natural.cross_over < friendly.cross_over < pgd.cross_over
            assert friendly.misclassified == pytest.approx(pgd.misclassified, abs=0.03)
            assert natural.mixing < friendly.mixing < pgd.mixing or eps > 0.02
    assert pgd.misclassified > 0.7
    assert rows[layers[0], "PGD"].mixing < rows[layers[0], "natural"].mixing


# ---------------------------------------------------------------------------------------------------------- command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a run on 200 images."""
    train, test = (fastadv.load("fashion-mnist-mini", split) for split in ("train", "test"))
    folder = tmp_path_factory.mktemp("features")
    arrays = {"x_train": train.x[:200], "y_train": train.y[:200], "x_test": test.x[:200], "y_test": test.y[:200]}
    np.savez(folder / "small.npz", **{name: array.numpy() for name, array in arrays.items()})
    flags = ["--data", str(folder / "small.npz"), "--epochs", "1", "--test.attacks", "noise", "--test.limit", "20"]
    assert main(["train", "standard", *flags, "--out", str(folder / "run")]) == 0
    return str(folder / "run")


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "mixing.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("rendered")
def test_the_command_draws_and_tells(run: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["--limit", "40", "--eps", "0.2", "--steps", "5"]
    assert main(["features", run, *flags, "--classes", "2, 4, 7", "--out", str(tmp_path / "both")]) == 0
    printed = capsys.readouterr().out
    assert "40 test samples" in printed
    assert "cross_over" in printed
    layers = ("classifier.0", "classifier.2", "classifier.4")
    rows = table(tmp_path / "both")
    kinds = [(layer, kind) for layer in layers for kind in ("natural", "PGD", "friendly")]
    assert [(row["layer"], row["kind"]) for row in rows] == kinds
    assert all(0 <= float(row["mixing"]) <= 2 and 0 <= float(row["misclassified"]) <= 1 for row in rows)
    for name in ("features_pca.png", "features_tsne.png"):
        assert (tmp_path / "both" / name).read_bytes().startswith(b"\x89PNG\r\n")
    assert (tmp_path / "both" / "config.yaml").is_file()

    assert main(["features", run, *flags, "--out", str(tmp_path / "both")]) == 2  # the folder exists
    assert "never overwritten" in capsys.readouterr().err
    one = ["--layers", "features.3,classifier.4", "--reduction", "pca", "--tau", "5"]
    assert main(["features", run, *flags, *one, "--out", str(tmp_path / "one")]) == 0
    assert not (tmp_path / "one" / "features_tsne.png").exists()
    scores = {(row.pop("layer"), row.pop("kind")): row for row in table(tmp_path / "one")}
    for layer in ("features.3", "classifier.4"):
        assert scores[layer, "friendly"] == scores[layer, "PGD"]  # with tau = steps it is PGD


def test_classes_by_name(tmp_path: Path) -> None:
    """Names and numbers choose the same samples, in a data set whose classes have names."""
    out = tmp_path / "run"
    flags = ["--epochs", "1", "--per-class", "5", "--test.attacks", "noise", "--test.limit", "20"]
    assert main(["train", "standard", *flags, "--out", str(out)]) == 0
    for name, classes in (("a", "Coat,Sandal"), ("b", "4,5")):
        flags = ["--classes", classes, "--limit", "30", "--steps", "2", "--reduction", "pca"]
        assert main(["features", str(out), *flags, "--out", str(tmp_path / name)]) == 0
    assert table(tmp_path / "a") == table(tmp_path / "b")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--layers", "classifier.5"], "unknown layer 'classifier.5': choose among features, features.0"),
        (["--classes", "2,Cot"], "unknown class 'Cot': choose among 0, 1, 2"),
        (["--classes", "3"], "at least two classes are needed, got samples of class 3 alone"),
        (["--limit", "10"], "k must be from 1 to 9"),
        (["--limit", "-1"], "limit and at_once must be numbers of samples"),
        (["--eps", "8"], "did you mean 8/255"),
        (["--tau", "-1"], "tau must be a whole number of at least 0"),
        (["--data", "two-circles"], "choose other data with --data"),
        (["--reduction", "tsne"], "scikit-learn is missing. To fix: pip install scikit-learn"),
    ],
)
def test_bad_input_gets_one_clear_line_and_no_folder(
    run: str, flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    if "tsne" in flags:
        monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    assert main(["features", run, *flags, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("fastadv: ")
    assert not (tmp_path / "out").exists()
