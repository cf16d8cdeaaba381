from __future__ import annotations

import pytest

from backends.base import BackendError
from backends.conformance import FORMS, SMALL, BackendConformance
from backends.cuda import CudaBackend, CudaOptions
from backends.gpus import gpu_features, gpu_target
from backends.registry import backend_options, create_backend
from genomes.genome import replay
from genomes.nest import LoopNest
from genomes.transformations import apply


def has_gpu() -> bool:
    import tvm

    return bool(tvm.cuda(0).exist)


@pytest.mark.cuda
class TestCudaBackend(BackendConformance):
    def make(self):
        import tvm

        arch = f"sm_{tvm.cuda(0).compute_version.replace('.', '')}"
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


@pytest.mark.skipif("has_gpu()", reason="there is a GPU: it can be measured")
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


def test_it_is_made_by_name():
    with create_backend("cuda", {"arch": "sm_87", "repeats": 3}) as backend:
        assert backend.measure_options.repeats == 3
        assert '"arch":"sm_87"' in backend.target
        assert backend.network_target() is None
