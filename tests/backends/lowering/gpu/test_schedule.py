from __future__ import annotations

from dataclasses import replace

import pytest

from backends.gpus import gpu_features
from backends.lowering import LoweringError
from backends.lowering.compute import nest_function
from backends.lowering.gpu import GPU_TRANSFORMATIONS, build_kernel, cuda_source, lower
from backends.lowering.gpu.kernel import generate
from backends.lowering.gpu.replay import LOWERED
from genomes.transformations import REGISTRY, Phase
from tests.backends.lowering.gpu.serial import check
from tests.backends.lowering.kernels import after, conv, gene

GPU = gpu_features("sm_90")
SMALL = conv(4, 8, 6)
BLOCKS = gene("bind", loop="co", axis="blockIdx.x")
THREADS = gene("bind", loop="ho", axis="threadIdx.y")
GENES = {
    "none": [],
    "bind": [BLOCKS, THREADS, gene("bind", loop="wo", axis="threadIdx.x")],
    "vthread": [
        gene("split", loop="ho", factor=3),
        BLOCKS,
        gene("bind", loop="ho.0", axis="vthread.x"),
        gene("bind", loop="wo", axis="threadIdx.x"),
    ],
    "cache_write": [BLOCKS, THREADS, gene("cache_write", loop="ho")],
    "shared_read": [
        BLOCKS,
        THREADS,
        gene("cache_write", loop="ho"),
        gene("interchange", order=("ci", "kh", "kw", "wo")),
        gene("shared_read", operand="input", loop="ci"),
        gene("shared_read", operand="weight", loop="ho"),
    ],
    "prefetch": [
        BLOCKS,
        THREADS,
        gene("shared_read", operand="weight", loop="co"),
        gene("prefetch", operand="weight", loop="wo"),
        gene("prefetch", operand="input", loop="ci"),
    ],
    "unroll": [BLOCKS, gene("unroll", loop="kw")],
    "vectorize": [
        gene("split", loop="wo", factor=2),
        gene("interchange", order=("ci", "kh", "kw", "wo.1")),
        BLOCKS,
        THREADS,
        gene("cache_write", loop="wo.0"),
        gene("vectorize", loop="wo.1"),
    ],
    "pack": [
        gene("split", loop="co", factor=4),
        gene("interchange", order=("ho", "wo", "ci", "kh", "kw", "co.1")),
        gene("bind", loop="co.0", axis="blockIdx.x"),
        THREADS,
        gene("cache_write", loop="wo"),
        gene("pack", operand="weight", lanes=4),
        gene("pack", operand="accumulator", lanes=4),
    ],
    "decompose_reduction": [BLOCKS, THREADS, gene("decompose_reduction", loop="ci")],
}


def test_the_replay_knows_what_the_backend_says():
    scheduling = {n for n in GPU_TRANSFORMATIONS if REGISTRY[n].phase is Phase.SCHEDULE}
    assert scheduling == LOWERED


@pytest.mark.parametrize("name", GENES)
def test_tir_after_each_gene(name, golden):
    golden(name, lower(after(SMALL, *GENES[name])).script())


@pytest.mark.parametrize("name", GENES)
def test_numbers_after_each_gene(name):
    check(after(SMALL, *GENES[name]))


@pytest.mark.parametrize("name", GENES)
def test_source_after_each_gene(name):
    source = cuda_source(after(SMALL, *GENES[name]), GPU)
    assert source.count("__global__") == 2  # its declaration and itself
    assert ("__shared__" in source) == any(g.op == "shared_read" for g in GENES[name])
    # Threads wait before they read what others fetched, and before it is overwritten.
    assert ("__syncthreads()" in source) == ("__shared__" in source)


def test_padding_takes_no_memory():
    """The convolution, or the fetch, reads the input itself, and zeros beside it."""
    for name in ("bind", "shared_read"):
        assert "padded_0 = " not in lower(after(SMALL, *GENES[name])).script()
    assert "padded_0 = " in nest_function(SMALL, padded_as_read=True).script()


def test_a_write_back_that_no_gene_places_is_a_kernel_of_its_own():
    nest = after(conv(4, 8, 6, bias=True), gene("bottleneck", loop="co", factor=2))
    check(nest)
    source = cuda_source(nest, GPU)
    assert "main_kernel(" in source
    assert "main_kernel_1(" in source
    # The accumulator lies in memory of the GPU that the host code asks for.
    assert "TVMBackendAllocWorkspace" in generate(nest, GPU).inspect_source("ll")


def test_a_statement_without_a_loop_for_blocks_runs_on_one_thread():
    nest = after(SMALL, gene("interchange", order=("ci", "wo", "ho", "co", "n")))
    check(nest)
    assert "blockIdx" not in cuda_source(nest, GPU).split("__global__")[-1]


@pytest.mark.parametrize(
    "cpu_only",
    [gene("parallel", loop="n"), gene("compute_at", loop="n"), gene("compute_inline")],
    ids=str,
)
def test_a_gene_for_a_cpu_does_not_lower(cpu_only):
    message = rf"^{cpu_only.op}\(.*\) does not lower to a GPU kernel; bind, cache_write"
    with pytest.raises(LoweringError, match=message):
        lower(after(SMALL, cpu_only))


BROKEN = {
    "threads": (
        [BLOCKS, THREADS, gene("bind", loop="wo", axis="threadIdx.x")],
        {"max_threads": 32},
        "statement 0 has 36 threads in a block, at most 32 on sm_90",
    ),
    "virtual threads": (
        [BLOCKS, gene("bind", loop="ho", axis="vthread.x")],
        {"max_vthreads": 4},
        "statement 0 has 6 virtual threads in a thread, at most 4 on sm_90",
    ),
    "vectors": (
        GENES["vectorize"],
        {"max_vector_bytes": 4},
        "statement 0 has vectors of 2 elements along wo.1, at most 1 on sm_90",
    ),
    "shared memory": (
        [BLOCKS, gene("shared_read", operand="input", loop="co")],
        {"max_shared_bytes": 1000},
        r"Used shared memory per block \(1024\) is greater than the allowed maximum \(1000\)",
    ),
    "local memory": (
        [BLOCKS, gene("cache_write", loop="co")],
        {"max_local_bytes": 100},
        r"Used local memory per block \(144\) is greater than the allowed maximum \(100\)",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_a_limit_is_not_built(name):
    genes, change, message = BROKEN[name]
    nest = after(SMALL, *genes)
    assert cuda_source(nest, GPU)
    with pytest.raises(LoweringError, match=message) as caught:
        build_kernel(nest, replace(GPU, **change))
    assert str(caught.value).endswith(" on sm_90")
    assert "\n" not in str(caught.value)


def test_threads_along_z_are_few():
    nest = after(conv(4, 128, 6), gene("bind", loop="co", axis="threadIdx.z"))
    message = "statement 0 has 128 threads along threadIdx.z, at most 64 on sm_90"
    with pytest.raises(LoweringError, match=message):
        cuda_source(nest, GPU)
