from __future__ import annotations

import pytest

from backends.base import BackendError, FailureKind, Measured, MeasureOptions
from backends.conformance import FORMS, SMALL, BackendConformance
from backends.cuda import CudaBackend, CudaOptions
from backends.cuda_job import time_kernel
from backends.gpus import arch_of, gpu_features, gpu_target
from backends.kernel_job import operands_of
from backends.lowering import build_kernel
from backends.lowering import gpu as gpu_lowering
from backends.lowering.gpu.kernel import install_compiler
from backends.measuring import outcome_of
from backends.registry import backend_options, create_backend
from genomes.gene import Gene
from genomes.genome import replay
from genomes.nest import LoopNest
from genomes.transformations import apply
from tests.backends.lowering import kernels
from tests.needs import needs_nvcc


@pytest.mark.cuda
class TestCudaBackend(BackendConformance):
    def make(self):
        import tvm

        arch = arch_of(tvm.cuda(0))
        return CudaBackend(CudaOptions(arch=arch, builders=2, repeats=3, min_repeat_ms=1.0))


@pytest.fixture
def backend():
    with CudaBackend() as backend:
        yield backend


@pytest.mark.parametrize("arch", ["sm_53", "sm_999", "hopper", ""])
def test_an_unknown_arch_names_the_known_ones(arch):
    with pytest.raises(BackendError) as caught:
        backend_options("cuda", {"arch": arch})
    message = str(caught.value)
    assert message.startswith(f"backend 'cuda': arch: unknown arch {arch!r}; known: sm_75, sm_80")
    assert message.endswith("sm_121")
    for ask in (gpu_features, gpu_target):
        with pytest.raises(BackendError, match="unknown arch"):
            ask(arch)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_measuring_is_refused_in_one_line(backend):
    for ask in (backend.describe, lambda: backend.measure([LoopNest.fresh(SMALL)])):
        with pytest.raises(BackendError) as caught:
            ask()
        message = str(caught.value)
        assert message.startswith("there is no CUDA device that TVM can use")
        assert "run this on a machine with an NVIDIA GPU" in message
        assert "\n" not in message


def test_schedules_need_no_gpu(backend):
    for genes in ((), *FORMS.values()):
        nest = replay(SMALL, genes)
        default = backend.default_schedule(nest)
        replayed = nest
        for s in default.statements:
            for gene in s.schedule_genes:
                assert gene.op in backend.transformations()
                replayed = apply(replayed, gene)
        assert replayed == default
        assert backend.schedule_candidates(nest)[0] == default
        assert backend.schedule_space(nest)[0] == default


@pytest.mark.usefixtures("no_gpu")
def test_workers_build_kernels_and_only_then_need_a_gpu(backend):
    """Without one, the worker ends where the GPU begins, and the next one takes its place."""
    good = backend.default_schedule(LoopNest.fresh(SMALL))
    wide = apply(LoopNest.fresh(SMALL), Gene.of("bind", loop="co", axis="vthread.x"))
    wide = apply(wide, Gene.of("bind", loop="ho", axis="vthread.y"))
    # Past `measure`, which has refused already.
    results = backend._pool.imap([backend._job(nest) for nest in (good, wide, good)])
    first, limit, second = [outcome_of(result) for result in results]
    for outcome in (first, second):
        assert outcome.kind is FailureKind.CRASHED
        assert outcome.message.startswith("exit code 1 in check: ")
        assert outcome.stages_s["build"] > 0
    assert limit.kind is FailureKind.BUILD_ERROR
    assert limit.message == "statement 0 has 64 virtual threads in a thread, at most 8 on sm_90"


@pytest.mark.parametrize(("hopeless_s", "count"), [(None, 4), (10.0, 4), (1e-12, 1)])
def test_a_kernel_is_timed_as_often_as_asked_unless_it_is_hopeless(hopeless_s, count):
    """The function that times on the GPU, on the CPU."""
    import tvm

    nest = LoopNest.fresh(SMALL)
    kernel = build_kernel(nest, kernels.TARGET)
    operands = operands_of(nest)
    arrays = kernel.arguments(operands.x, operands.weights, operands.bias)
    arguments = [tvm.runtime.tensor(a) for a in arrays]
    options = MeasureOptions(repeats=4, min_repeat_ms=1.0)
    outcome = time_kernel(kernel, arguments, tvm.cpu(0), options, hopeless_s)
    assert isinstance(outcome, Measured)
    assert len(outcome.times_s) == count
    assert all(type(t) is float and 0 < t < 1 for t in outcome.times_s)


@needs_nvcc
def test_the_runtime_gets_its_machine_code_from_nvcc_once(monkeypatch):
    import tvm

    gpu = gpu_features("sm_90")
    source = gpu_lowering.cuda_source(LoopNest.fresh(SMALL), gpu)
    install_compiler("sm_90")
    compiler = tvm.get_global_func("tvm_callback_cuda_compile")
    first = bytes(compiler(source))
    assert first.startswith(b"\x7fELF")
    monkeypatch.setenv("PATH", "")
    assert bytes(compiler(source)) == first


def test_it_is_made_by_name():
    with create_backend("cuda", {"arch": "sm_87", "repeats": 3}) as backend:
        assert backend.measure_options.repeats == 3
        assert '"arch":"sm_87"' in backend.target
        target = backend.network_target()
        assert target.target["arch"] == target.features.arch == "sm_87"
