from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from backends import kernel_job, lowering
from backends.base import Failed, FailureKind, Measured, MeasureOptions
from backends.devices import cpu_features, cpu_target
from backends.kernel_job import KernelJob, difference, operands_of
from backends.lowering.epilogue import Epilogue
from backends.timing import Look
from genomes import presets
from genomes.genome import replay
from tests.backends.samples import fresh, shape

OPTIONS = MeasureOptions(repeats=3, min_repeat_ms=1.0)
IN_NETWORK = replace(OPTIONS, weight_bytes=1 << 16)


@pytest.fixture(scope="module")
def target():
    return cpu_target(1)


def run(nest, target, options=OPTIONS):
    scheduled = lowering.default_schedule(nest, cpu_features(target, 1))
    stages = []
    return kernel_job.run(KernelJob(scheduled, target, options), stages.append), stages


def test_a_right_kernel_is_timed(target):
    outcome, stages = run(fresh(bias=True), target)
    assert isinstance(outcome, Measured)
    assert len(outcome.times_s) == 3
    assert stages == ["check", "measure"]


@pytest.mark.parametrize("bias", [False, True])
def test_beside_other_weights_a_kernel_is_what_it_is_in_a_network(target, monkeypatch, bias):
    built = []
    plain = lowering.build_kernel

    def build(nest, target, epilogue):
        built.append((nest.shape.bias, epilogue))
        return plain(nest, target, epilogue)

    monkeypatch.setattr(lowering, "build_kernel", build)
    for options in (OPTIONS, IN_NETWORK):
        outcome, _ = run(fresh(bias=bias), target, options)
        assert isinstance(outcome, Measured)
    assert built == [(bias, Epilogue()), (True, Epilogue(activation="relu"))]


@pytest.mark.parametrize(("hopeless_s", "timings"), [(1e-9, 1), (1.0, 3)])
def test_a_hopeless_kernel_is_given_up(target, monkeypatch, hopeless_s, timings):
    probe = SimpleNamespace(look=lambda: Look(1.0, 1.0))
    monkeypatch.setattr(kernel_job, "helpers", lambda _target: SimpleNamespace(probe=probe))
    scheduled = lowering.default_schedule(fresh(), cpu_features(target, 1))
    job = KernelJob(scheduled, target, OPTIONS, hopeless_s)
    outcome = kernel_job.run(job, lambda stage: None)
    assert isinstance(outcome, Measured)
    assert len(outcome.times_s) == timings


def test_one_interrupted_measurement_says_nothing_of_what_is_lost(target, monkeypatch):
    # Interrupted where only the same weights are read: the difference is far below nothing.
    lost_s = itertools.cycle([-1.0, 2e-6, 2e-6, 2e-6, 2e-6])
    monkeypatch.setattr(kernel_job, "losing", lambda *_arguments: lambda: next(lost_s))
    probe = SimpleNamespace(look=lambda: Look(1.0, 1.0))
    beside = SimpleNamespace(probe=probe, fill=None)
    monkeypatch.setattr(kernel_job, "helpers", lambda _target: beside)
    outcome, _ = run(fresh(), target, IN_NETWORK)
    assert isinstance(outcome, Measured)
    assert outcome.lost.far_s == pytest.approx(2e-6)
    assert not outcome.disturbed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w * 1.01, "the largest error is"),
        (lambda w: w * np.nan, "288 of 288 elements are NaN"),
        (np.zeros_like, "the largest error is"),
    ],
)
def test_a_wrong_kernel_is_never_timed(target, monkeypatch, change, message):
    operands = operands_of(fresh())
    spoilt = replace(operands, weights=tuple(change(w) for w in operands.weights))
    monkeypatch.setattr(kernel_job, "operands_of", lambda nest: spoilt)
    # An activation makes zeros of NaN.
    for options, told in ((OPTIONS, message), (IN_NETWORK, "the largest error is")):
        outcome, stages = run(fresh(), target, options)
        assert isinstance(outcome, Failed)
        assert outcome.kind is FailureKind.WRONG_RESULT
        assert stages == ["check"]
        assert told in outcome.message


@pytest.mark.parametrize("place", [np.argmin, np.argmax])
def test_no_error_hides_behind_the_activation(target, monkeypatch, place):
    expected = operands_of(fresh()).expected
    at = np.unravel_index(place(expected), expected.shape)
    plain = lowering.build_kernel

    def build(nest, target, epilogue):
        kernel = plain(nest, target, epilogue)

        def main(*arguments):
            kernel.module["main"](*arguments)
            result = arguments[-1].numpy()
            result[at] = 0.0  # what the activation makes of NaN, and of all that is negative
            arguments[-1].copyfrom(result)

        return replace(kernel, module={"main": main})

    monkeypatch.setattr(lowering, "build_kernel", build)
    outcome, _ = run(fresh(), target, IN_NETWORK)
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.WRONG_RESULT


def test_a_refused_schedule_is_a_build_error(target, monkeypatch):
    def refuse(nest, target, epilogue):
        raise lowering.LoweringError("the loop is gone")

    monkeypatch.setattr(lowering, "build_kernel", refuse)
    outcome, stages = run(fresh(), target)
    assert outcome == Failed(FailureKind.BUILD_ERROR, "the loop is gone")
    assert stages == []


def test_operands_depend_on_the_computation_only():
    nest = replay(shape(), presets.seq3(2))
    operands_of.cache_clear()
    first = operands_of(nest)
    operands_of.cache_clear()
    again = operands_of(nest)
    np.testing.assert_array_equal(first.x, again.x)
    np.testing.assert_array_equal(first.expected, again.expected)
    assert [w.shape for w in first.weights] == [s.weight_shape for s in nest.weights]
    assert first.bias is None
    assert np.abs(first.x).min() >= 0.5
    assert not np.array_equal(first.x, operands_of(fresh(bias=True)).x)


@pytest.mark.parametrize(
    ("actual", "verdict"),
    [
        ([1.0, -100.0], None),
        ([1.0, -100.009], None),
        ([1.0, -100.02], "the largest error is 0.02 where at most 0.01 is allowed"),
        ([np.nan, -100.0], "1 of 2 elements are NaN"),
        ([np.inf, -100.0], "the largest error is inf where at most 0.01 is allowed"),
        ([1.0], "the result has shape (1,), not (2,)"),
    ],
)
def test_differences_are_relative_to_the_largest_value(actual, verdict):
    expected = np.array([1.0, -100.0], np.float32)
    options = MeasureOptions(rtol=1e-4, atol=1e-6)
    assert difference(np.array(actual, np.float32), expected, options) == verdict
