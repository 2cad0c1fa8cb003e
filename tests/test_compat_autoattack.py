"""fastadv.compat.autoattack: the worst case over a data set, and runs that are interrupted and go on."""

import logging
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from toys import Wavy, quick, samples

from fastadv import attacks
from fastadv.attacks import FABT, PGD, Attack, Model, Noise
from fastadv.compat.autoattack import AutoAttack

MODEL, X = Wavy(48, 5), samples(60, 3, 4, 4)
Y = MODEL(X).argmax(1)
Y[::8] = (Y[::8] + 1) % 5
EPS = 0.02


def suite(eps: float = EPS) -> dict[str, Attack]:
    """Each finds something that those before it have not, and the last one also what is beyond the budget."""
    return {
        "noise": Noise(eps, seed=0),
        "pgd": PGD(eps, eps, steps=1, random_start=0.0, seed=0),
        "fab-t": FABT(steps=20, seed=0),
    }


def evaluation(model: Model = MODEL, eps: float = EPS, **options: object) -> AutoAttack:
    made = AutoAttack(model, eps=eps, version="rand", **options)
    made.attacks = suite(eps)
    return made


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype


EXPECTED = evaluation().run_standard_evaluation(X, Y, return_labels=True)


def test_the_worst_case_of_all_attacks():
    x_adv, y_adv, won = X.clone(), MODEL(X).argmax(1), MODEL(X).argmax(1) != Y
    clean = won.clone()
    for attack in suite().values():
        found = attack.run(MODEL, X, Y)
        new = found.success & ~won & (found.norm <= EPS * (1 + 1e-6))
        assert 0 < new.sum() < (~won).sum(), "an attack that finds nothing new, or everything: a weak test"
        x_adv[new], y_adv[new], won = found.x_adv[new], found.target[new], won | new
    assert_same(EXPECTED, (x_adv, y_adv))
    assert torch.equal(EXPECTED[0][clean], X[clean])
    assert (EXPECTED[0] - X).abs().max() <= EPS + 1e-7


@pytest.mark.parametrize("version", quick(["standard", "rand"], "rand"))
def test_it_is_the_attack_of_the_same_name(version):
    found = AutoAttack(MODEL, eps=0.02, seed=0, version=version).run_standard_evaluation(X[:5], Y[:5], bs=3)
    assert torch.equal(found, attacks.AutoAttack(0.02, version, seed=0)(MODEL, X[:5], Y[:5]))


def test_a_few_attacks_by_name():
    made = AutoAttack(MODEL, norm="L2", eps=0.5, version="custom", attacks_to_run=["apgd-ce", "square"], seed=3)
    assert made.attacks == {
        "apgd-ce": attacks.APGD(0.5, restarts=5, norm="l2", seed=3),
        "square": attacks.Square(0.5, norm="l2", seed=4),
    }
    later = AutoAttack(MODEL, norm="L2", eps=0.5, version="custom", seed=3)
    with pytest.raises(ValueError, match="AutoAttack of version custom has no attacks: name them in attacks_to_run"):
        later.run_standard_evaluation(X, Y)
    later.attacks_to_run = ["apgd-ce", "square"]
    assert later.attacks == made.attacks
    plus = AutoAttack(MODEL, version="plus")
    one = plus.attacks["apgd-ce"]
    plus.attacks_to_run = ["apgd-ce"]
    assert plus.attacks == {"apgd-ce": one}
    assert one.restarts == 5


PUBLISHED = {
    "custom": {"apgd-ce": (5, 1), "apgd-dlr": (5, 1), "fab": 5, "square": 1, "apgd-t": (1, 1), "fab-t": 1},
    "plus": {"apgd-ce": (5, 1), "apgd-dlr": (5, 1), "fab": 5, "square": 1, "apgd-t": (1, 1), "fab-t": 1},
    "standard": {"apgd-ce": (1, 1), "apgd-t": (1, 1), "fab-t": 1, "square": 1},
    "rand": {"apgd-ce": (1, 20), "apgd-dlr": (1, 20)},
}
"""Restarts, and gradients a step where they may be several, in auto-attack's code."""


@pytest.mark.parametrize("version", PUBLISHED)
def test_restarts_are_the_published_ones(version):
    names = [*PUBLISHED[version]] if version == "custom" else ()
    made = AutoAttack(MODEL, version=version, attacks_to_run=names)
    counts = {
        name: (attack.restarts, attack.eot) if name.startswith("apgd") else attack.restarts
        for name, attack in made.attacks.items()
    }
    assert [*counts.items()] == [*PUBLISHED[version].items()]


def test_the_list_of_attacks_is_live():
    made = evaluation(seed=0)
    made.attacks_to_run.append("square")
    made.square.n_queries = 30
    assert [*made.attacks] == ["noise", "pgd", "fab-t", "square"]
    more = made.run_standard_evaluation_individual(X, Y)
    assert torch.equal(more["square"], torch.where(_moved(more["square"]), made.attacks["square"](MODEL, X, Y), X))
    made.attacks_to_run.remove("pgd")
    assert [*made.run_standard_evaluation_individual(X, Y)] == ["noise", "fab-t", "square"]
    with pytest.raises(TypeError, match="does not support item assignment"):  # and is not forgotten
        made.attacks["pgd"] = PGD(EPS)


@pytest.mark.parametrize(("name", "message"), [("apgd", "'apgd', which is none of"), ("pgd", "'pgd' twice")])
def test_attacks_that_cannot_be_run(name, message):
    made = evaluation()
    made.attacks_to_run.append(name)
    with pytest.raises(ValueError, match=f"attacks_to_run has {message}"):
        made.run_standard_evaluation(X, Y)


def test_what_a_constructor_refuses():
    for options, message in (
        ({"version": "fast"}, "version must be one of standard, plus, rand, custom, got 'fast'"),
        ({"attacks_to_run": ["square"]}, "attacks_to_run are for version custom"),
        ({"norm": "L0", "version": "custom"}, "norm must be one of Linf, L2, L1, got 'L0'"),
        ({"is_tf_model": True}, "is_tf_model must be False"),
        ({"version": "custom", "attacks_to_run": ["pgd"]}, "'pgd', which is none of apgd-ce, apgd-dlr"),
    ):
        with pytest.raises(ValueError, match=message):
            AutoAttack(MODEL, **options)


def test_options_of_the_attacks():
    made = AutoAttack(MODEL, eps=0.1, version="custom", attacks_to_run=["apgd-ce", "fab", "fab-t", "apgd-t", "square"])
    made.apgd.n_restarts, made.apgd.n_iter, made.apgd.eot_iter = 2, 7, 3
    made.fab.n_restarts, made.fab.n_target_classes, made.apgd_targeted.n_target_classes = 2, 3, 4
    made.square.n_queries, made.square.n_restarts, made.seed, made.eps = 30, 2, 5, 0.2
    assert made.attacks == {
        "apgd-ce": attacks.APGD(0.2, 7, 2, eot=3, seed=5),
        "fab": attacks.FAB(enough=0.2, early=False, restarts=2, seed=6),
        "fab-t": attacks.FABT(enough=0.2, early=False, targets=3, seed=7),
        "apgd-t": attacks.APGDT(0.2, targets=4, seed=8),
        "square": attacks.Square(0.2, 30, restarts=2, seed=9),
    }
    with pytest.raises(AttributeError, match="n_restart"):
        made.apgd.n_restart = 1


def test_in_l1_an_evaluation_stays_within_its_budget():
    made = AutoAttack(MODEL, "L1", 0.3, 0, True, [], "standard", False, "cpu", None)
    made.apgd.n_restarts = made.apgd_targeted.n_target_classes = made.fab.n_target_classes = 2
    made.apgd.n_iter = made.apgd_targeted.n_iter = made.fab.n_iter = 10
    made.square.n_queries = 20
    found = made.run_standard_evaluation(X, Y)
    sizes = (found - X).abs().flatten(1).sum(1)
    assert 0 < sizes.max() <= 0.3 * (1 + 1e-5)
    assert (MODEL(found)[sizes > 0].argmax(1) != Y[sizes > 0]).all()
    ours = attacks.Square(0.3, 20, norm="l1", seed=0).run(MODEL, X, Y)
    expected = torch.where(ours.success.view(-1, 1, 1, 1), ours.x_adv, X)
    assert torch.equal(made.square.perturb(X, Y), expected)


BY_ITSELF = {
    "apgd": attacks.APGD(0.1, 20, 2, loss="dlr", seed=3),
    "apgd_targeted": attacks.APGDT(0.1, 20, targets=2, seed=3),
    "fab": attacks.FAB(20, enough=0.1, early=False, seed=3),
    "square": attacks.Square(0.1, 30, seed=3),
}


@pytest.mark.parametrize("name", BY_ITSELF)
def test_an_attack_by_itself(name):
    """What succeeds within the budget; other samples are what they were."""
    made = AutoAttack(MODEL, eps=0.1, seed=3)
    made.apgd.n_restarts, made.apgd.loss, made.square.n_queries = 2, "dlr", 30
    made.apgd.n_iter = made.apgd_targeted.n_iter = made.fab.n_iter = 20
    made.apgd_targeted.n_target_classes = 2
    made.eps = 0.05 if name == "apgd" else 0.02
    ours = BY_ITSELF[name]
    ours = replace(ours, enough=made.eps) if name == "fab" else replace(ours, eps=made.eps)
    for labels in (Y, None):
        found = ours.run(MODEL, X, labels)
        won = found.success & (found.norm <= made.eps * (1 + 1e-6))
        assert 0 < won.sum() < len(X)
        expected = torch.where(won.view(-1, 1, 1, 1), found.x_adv, X)
        assert torch.equal(getattr(made, name).perturb(X, labels), expected)


def test_fab_by_itself_towards_each_class():
    made = AutoAttack(MODEL, eps=0.02, seed=3)
    made.fab.targeted, made.fab.n_restarts, made.fab.n_iter, made.fab.n_target_classes = True, 2, 10, 3
    assert made.fab.build() == attacks.FABT(10, 2, enough=0.02, early=False, targets=3)
    assert made.attacks["fab-t"] == attacks.FABT(10, enough=0.02, early=False, targets=3, seed=5)  # as there: one
    assert made.fab.n_restarts == 2


def test_in_l1_the_versions_have_the_published_options():
    """Of those, standard begins with larger budgets."""
    how = {"norm": "l1", "seed": 0}
    assert AutoAttack(MODEL, "L1", 8.0, seed=0).attacks == {
        "apgd-ce": attacks.APGD(8.0, restarts=5, large_eps=True, **how),
        "apgd-t": attacks.APGDT(8.0, targets=5, large_eps=True, **how | {"seed": 1}),
        "fab-t": attacks.FABT(enough=8.0, early=False, **how | {"seed": 2}),
        "square": attacks.Square(8.0, **how | {"seed": 3}),
    }
    made = AutoAttack(MODEL, "L1", 8.0, version="custom")
    assert made.apgd.build() == attacks.APGD(8.0, restarts=5, norm="l1")
    made.set_version("standard")
    made.set_version("plus")
    assert (made.apgd.n_restarts, made.apgd_targeted.n_target_classes) == (5, 9)
    assert not made.apgd.use_largereps
    assert not made.apgd_targeted.use_largereps


def random_evaluation(seed: int | None = None) -> AutoAttack:
    made = AutoAttack(MODEL, eps=EPS, version="custom", attacks_to_run=["square"], seed=seed)
    made.square.n_queries = 20
    return made


def test_noise_follows_the_generator_of_torch():
    torch.manual_seed(0)
    made = random_evaluation()
    first, second = (made.run_standard_evaluation(X, Y, bs=16) for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(random_evaluation().run_standard_evaluation(X, Y, bs=25), first)  # whatever the batch size
    before = torch.get_rng_state()
    fixed = [random_evaluation(7).run_standard_evaluation(X, Y) for _ in range(2)]
    assert torch.equal(*fixed)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_resumed_run_has_the_noise_of_the_first(tmp_path):
    torch.manual_seed(0)
    expected = random_evaluation().run_standard_evaluation(X, Y, 16)
    torch.manual_seed(0)
    made = random_evaluation()
    made.model = Fragile(48, 5)
    made.model.fails_at = 30
    with pytest.raises(Interrupted):
        made.run_standard_evaluation(X, Y, 16, state_path=tmp_path / "state.pt")
    made.model.fails_at = None
    assert torch.equal(made.run_standard_evaluation(X, Y, 16, state_path=tmp_path / "state.pt"), expected)
    made.seed = 7
    with pytest.raises(ValueError, match="not the same attacks"):
        made.run_standard_evaluation(X, Y, 16, state_path=tmp_path / "state.pt")


class Dying(Wavy):
    """NaN logits for the first `dead` samples of X."""

    dead = 60

    def forward(self, x: Tensor) -> Tensor:
        dead = (x.flatten(1).unsqueeze(1) == X[: self.dead].flatten(1)).all(2).any(1)
        return torch.where(dead.unsqueeze(1), torch.nan, super().forward(x))


@pytest.mark.parametrize("dead", [60, 7])
def test_a_network_without_logits_is_never_right(dead, caplog):
    model, y = Dying(48, 5), torch.zeros_like(Y)
    model.dead = dead
    made = evaluation(model=model)
    right = MODEL(X).argmax(1) == y
    right[:dead] = False
    said = f"the model's logits are NaN for {dead} of 60 samples, which count as misclassified"
    with pytest.warns(RuntimeWarning, match=said):
        assert made.clean_accuracy(X, y) == right.double().mean()
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="fastadv.autoattack"), pytest.warns(RuntimeWarning, match=said):
        x_adv, y_adv = made.run_standard_evaluation(X, y, return_labels=True)
    assert torch.equal(x_adv[:dead], X[:dead])
    assert (y_adv[:dead] == -1).all()
    assert said in caplog.text
    assert f"initial accuracy: {right.double().mean():.2%}" in caplog.text


@pytest.mark.parametrize("bs", [1, 7, 60, 250])
def test_the_batch_size_does_not_matter(bs):
    assert_same(evaluation().run_standard_evaluation(X, Y, bs, return_labels=True), EXPECTED)


def test_each_attack_by_itself():
    found = evaluation().run_standard_evaluation_individual(X, Y, bs=7)
    assert [*found] == [*suite()]
    assert torch.equal(found["pgd"], torch.where(_moved(found["pgd"]), suite()["pgd"](MODEL, X, Y), X))
    both = evaluation().run_standard_evaluation_individual(X, Y, bs=7, return_labels=True)
    assert torch.equal(both["fab-t"][0], found["fab-t"])
    assert torch.equal(both["fab-t"][1], MODEL(found["fab-t"]).argmax(1))


def _moved(x_adv: Tensor) -> Tensor:
    return (x_adv != X).flatten(1).any(1).view(-1, 1, 1, 1)


def test_clean_accuracy():
    assert evaluation().clean_accuracy(X, Y, bs=7) == (MODEL(X).argmax(1) == Y).double().mean()


def test_labels_of_any_type_and_what_is_refused():
    x_adv, y_adv = evaluation().run_standard_evaluation(X, Y.int(), return_labels=True)
    assert torch.equal(x_adv, EXPECTED[0])
    assert y_adv.dtype == torch.int32
    for x, bs in ((X, 0), (X[:0], 7)):
        with pytest.raises(ValueError, match="needs samples and a positive bs"):
            evaluation().run_standard_evaluation(x, Y[: len(x)], bs)


def test_the_log(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="fastadv.autoattack"):
        evaluation(log_path=tmp_path / "log.txt").run_standard_evaluation(X, Y, bs=25)
    lines = [record.getMessage() for record in caplog.records]
    assert (tmp_path / "log.txt").read_text().splitlines() == lines
    text = "\n".join(lines)
    assert "using rand version including noise, pgd, fab-t." in text
    assert "clean - 1/3 - 4 out of 25 successfully perturbed" in text
    assert "initial accuracy: 86.67%" in text
    robust = (MODEL(EXPECTED[0]).argmax(1) == Y).double().mean()
    assert f"robust accuracy after FAB-T: {robust:.2%} (total time" in text
    assert f"robust accuracy: {robust:.2%}" in lines[-1]
    assert lines[-2].startswith(f"max Linf perturbation: {(EXPECTED[0] - X).abs().max():.5f}, nan in tensor: 0, max: ")
    caplog.clear()
    evaluation(verbose=False, log_path=tmp_path / "none.txt").run_standard_evaluation(X, Y)
    assert not caplog.records
    assert not (tmp_path / "none.txt").exists()


# -------------------------------------------------------------------------------------------------------- interruptions


class Interrupted(Exception):
    """The run is killed."""


class Fragile(Wavy):
    """A model that raises at its `fails_at` th forward pass, when everything is lost that is not in a file."""

    forwards, fails_at = 0, None

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        if self.forwards == self.fails_at:
            raise Interrupted
        return super().forward(x)


def test_a_run_that_is_interrupted_anywhere_goes_on_as_if_it_had_not_been(tmp_path):
    counting = Fragile(48, 5)
    assert_same(evaluation(model=counting).run_standard_evaluation(X, Y, 16, return_labels=True), EXPECTED)
    for fails_at in [*range(1, 12), *range(12, counting.forwards + 1, 23), counting.forwards]:
        path, model = tmp_path / f"{fails_at}.pt", Fragile(48, 5)
        model.fails_at = fails_at
        with pytest.raises(Interrupted):
            evaluation(model=model).run_standard_evaluation(X, Y, 16, state_path=path)
        before, model.forwards, model.fails_at = model.forwards, 0, None
        found = evaluation(model=model).run_standard_evaluation(X, Y, 16, return_labels=True, state_path=path)
        assert_same(found, EXPECTED)
        assert model.forwards <= counting.forwards
        assert fails_at < 12 or model.forwards < counting.forwards, "everything was done again"
        assert before == fails_at
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".pt"] * len([*tmp_path.iterdir()])


def test_a_run_that_is_interrupted_again_and_again(tmp_path):
    """By other batch sizes every time."""
    found, interruptions = None, 0
    while found is None:
        model = Fragile(48, 5)
        model.fails_at = 120 + 10 * interruptions
        try:
            bs = (3, 25, 16)[interruptions % 3]
            found = evaluation(model=model).run_standard_evaluation(X, Y, bs, True, tmp_path / "state.pt")
        except Interrupted:
            interruptions += 1
    assert interruptions >= 5
    assert_same(found, EXPECTED)


def test_a_finished_run_asks_the_model_nothing(tmp_path, caplog):
    path = str(tmp_path / "state.pt")
    evaluation().run_standard_evaluation(X, Y, state_path=path)
    model = Fragile(48, 5)
    with caplog.at_level(logging.INFO, logger="fastadv.autoattack"):
        found = evaluation(model=model).run_standard_evaluation(X, Y, return_labels=True, state_path=path)
    assert_same(found, EXPECTED)
    assert model.forwards == 0
    assert f"restored state from {path}" in caplog.text


def _other_model() -> Wavy:
    model = Wavy(48, 5)
    model.v.data[0, 0] += 1e-9
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": X.flip(0)}, "not the same images"),
        ({"x": X[:20], "y": Y[:20]}, "not the same images, labels"),
        ({"y": Y.flip(0)}, "not the same labels"),
        ({"model": _other_model()}, "not the same model"),
        ({"eps": 0.021}, "not the same attacks, eps"),
        ({"norm": "L2"}, "not the same norm"),
        ({"attacks": dict(reversed(suite().items()))}, "not the same attacks"),
        ({"attacks": suite() | {"fab-t": FABT(steps=11)}}, "not the same attacks"),
    ],
)
def test_a_state_of_something_else_is_refused(tmp_path, change, message):
    path = tmp_path / "state.pt"
    evaluation().run_standard_evaluation(X, Y, state_path=path)
    before = path.read_bytes()
    made = evaluation(**{name: value for name, value in change.items() if name in ("model", "eps", "norm")})
    made.attacks = change.get("attacks", made.attacks)
    with pytest.raises(ValueError, match=rf"state.pt is the state of another evaluation: {message}\. Give another"):
        made.run_standard_evaluation(change.get("x", X), change.get("y", Y), state_path=path)
    assert path.read_bytes() == before


def test_a_damaged_state_is_refused(tmp_path):
    path = tmp_path / "state.pt"
    evaluation().run_standard_evaluation(X, Y, state_path=path)
    sound = path.read_bytes()
    stored = torch.load(path, weights_only=True)
    at = sound.index(stored["x_adv"][0, 0, 0].numpy().tobytes())
    bad = {
        "half": sound[: len(sound) // 2],
        "empty": b"",
        "text": b"robust: 3\n",
        "one bit": sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :],
    }
    for name, content in bad.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"state.pt is damaged"):
            evaluation().run_standard_evaluation(X, Y, state_path=path)
        assert path.read_bytes() == content, name
    torch.save({"state": {}}, path)
    with pytest.raises(ValueError, match=r"state.pt is damaged, or no state of an evaluation"):
        evaluation().run_standard_evaluation(X, Y, state_path=path)


def test_a_state_that_cannot_be_written_is_known_at_once(tmp_path):
    model = Fragile(48, 5)
    with pytest.raises(FileNotFoundError):
        evaluation(model=model).run_standard_evaluation(X, Y, state_path=tmp_path / "none" / "state.pt")
    assert model.forwards == 0
