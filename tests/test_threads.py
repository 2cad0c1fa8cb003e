"""Attacks from several threads on one model."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from test_attacks import SHAPE, assert_equal
from torch import nn
from toys import BatchNormNet, Wavy, partly_frozen, samples, traces

from fastadv.attacks import APGD, PGD, DeepFool, Square, isolated
from fastadv.attacks._ascend import _eagerly

WAIT = 60  # seconds, after which a thread has died


class Within(threading.Thread):
    """A thread that is within a context until `leave` is called; it may raise there."""

    def __init__(self, make, error: type[Exception] | None = None):
        super().__init__(daemon=True)
        self.make, self.error = make, error
        self.entered, self.left = threading.Event(), threading.Event()
        self.start()
        assert self.entered.wait(WAIT)

    def run(self) -> None:
        try:
            with self.make():
                self.entered.set()
                assert self.left.wait(WAIT)
                if self.error:
                    raise self.error
        except RuntimeError:
            pass

    def leave(self) -> None:
        self.left.set()
        self.join(WAIT)


def at_rest(model: nn.Module) -> bool:
    return not any(m.training for m in model.modules()) and not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_a_model_stays_isolated_until_the_last_thread_leaves(error):
    model = partly_frozen(BatchNormNet())
    compiled = torch.compile(model, backend="eager")
    before = traces(model)
    first = Within(lambda: isolated(model), error)
    second = Within(lambda: isolated(model.forward))
    third = Within(lambda: isolated(nn.Sequential(*model)))  # other modules, the same layers
    fourth = Within(lambda: isolated(compiled))
    for thread in (first, third, fourth, second):
        assert at_rest(model)
        thread.leave()
    assert traces(model) == before


def test_an_attack_within_an_attack_that_outlives_it():
    model = partly_frozen(BatchNormNet())
    before = traces(model)
    with isolated(model):
        thread = Within(lambda: isolated(model))
        with isolated(model):
            assert at_rest(model)
        assert at_rest(model)
    assert at_rest(model)
    thread.leave()
    assert traces(model) == before


def test_parameters_that_two_models_share_stay_frozen():
    layer = nn.Linear(4, 4)
    models = nn.Sequential(layer), nn.Sequential(nn.Linear(4, 4))
    models[1][0].weight = layer.weight
    first, second = (Within(lambda model=model: isolated(model)) for model in models)
    first.leave()
    assert not layer.weight.requires_grad
    assert layer.bias.requires_grad
    second.leave()
    assert layer.weight.requires_grad


def test_the_compiler_is_stayed_until_the_last_thread_leaves():
    from torch._dynamo import eval_frame

    first, second = Within(lambda: _eagerly), Within(lambda: _eagerly)
    assert eval_frame._stance.stance == "force_eager"
    first.leave()
    assert eval_frame._stance.stance == "force_eager"
    second.leave()
    assert eval_frame._stance.stance == "default"


def test_attacks_from_several_threads_are_those_of_one():
    model, x = partly_frozen(BatchNormNet()), samples(12, 3, 6, 6)
    before = traces(model)
    suite = [PGD(0.1, seed=0), APGD(0.1, steps=5, seed=0), DeepFool(steps=5), Square(0.1, 20, seed=0)]
    jobs = [(suite[i % 4], x[i % 3 : i % 3 + 8]) for i in range(24)]
    alone = [attack.run(model, part) for attack, part in jobs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda job: job[0].run(model, job[1]), jobs))
    for one, other in zip(together, alone, strict=True):
        assert_equal(one, other)
    assert traces(model) == before


def test_an_error_in_one_thread_is_its_own():
    model, x = BatchNormNet(), samples(8, 3, 6, 6)
    model.train()
    before, expected = traces(model), PGD(0.1, seed=0).run(model, x)

    def job(i: int) -> object:
        if i % 3:
            return PGD(0.1, seed=0).run(model, x)
        with pytest.raises(ValueError, match="x must lie in"):
            PGD(0.1, seed=0).run(model, x + 1)
        return expected

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(job, range(24)):
            assert_equal(found, expected)
    assert traces(model) == before


def test_attacks_in_threads_draw_from_one_generator():
    """Two threads never have the same noise."""
    model, x = Wavy(48, 5), samples(4, *SHAPE)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: PGD(0.1, steps=0)(model, x), range(16)))
    assert len({tuple(each.flatten().tolist()) for each in found}) == 16
