from __future__ import annotations

import pytest

from backends.conformance import FORMS, SHAPES, SMALL
from backends.gpus import ARCHITECTURES, gpu_features
from backends.lowering import LoweringError
from backends.lowering.gpu import (
    broken_limit,
    compile_source,
    cuda_source,
    default_schedule,
    schedule_candidates,
    schedule_space,
)
from backends.lowering.gpu.kernel import build_kernel
from genomes.genome import replay
from genomes.nest import LoopNest
from genomes.operators import SCHEDULE_GENES
from genomes.transformations import apply
from tests.backends.lowering.gpu.serial import check
from tests.backends.lowering.kernels import after, conv, gene
from tests.needs import needs_nvcc

GPU = gpu_features("sm_90")
COMPILED = ("sm_87", "sm_90", "sm_100")
LAYERS = {
    "64 channels": conv(64, 64, 32),
    "64 to 128, stride 2": conv(64, 128, 32, stride=(2, 2)),
    "512 channels": conv(512, 512, 4),
    "stem": conv(3, 64, 64, kernel=7, stride=(2, 2), padding=(3, 3, 3, 3)),
    "pointwise": conv(96, 24, 56, kernel=1),
    "depthwise": conv(96, 96, 28, groups=96),
    "8 groups": conv(128, 128, 16, groups=8),
    "2 channels per group": conv(32, 32, 8, groups=16),
    "7x7 pixels": conv(160, 320, 7, kernel=1),
    "prime": conv(7, 13, (11, 13)),
    "one output": conv(8, 1, 1, kernel=1),
    "1 pixel": conv(512, 1000, 1, kernel=1),
}
NESTS = {
    **LAYERS,
    **{f"shape: {name}": LoopNest.fresh(shape) for name, shape in SHAPES.items()},
    **{f"form: {name}": replay(SMALL, genes) for name, genes in FORMS.items()},
}


@pytest.mark.parametrize("name", NESTS)
def test_the_default_computes_the_convolution(name):
    check(default_schedule(NESTS[name], GPU))


@needs_nvcc
@pytest.mark.parametrize("arch", COMPILED)
def test_defaults_of_all_forms_are_machine_code(arch):
    """One call of nvcc for all: the kernels of each nest in a namespace of their own."""
    gpu = gpu_features(arch)
    sources = [cuda_source(default_schedule(nest, gpu), gpu) for nest in NESTS.values()]
    heads = {source[: source.index('extern "C"')] for source in sources}
    assert len(heads) == 1, "the sources begin alike"
    head = heads.pop()
    renamed = [
        source.removeprefix(head).replace("main_kernel", f"nest_{index}_kernel")
        for index, source in enumerate(sources)
    ]
    cubin = compile_source(head + "\n".join(renamed), arch)
    assert cubin.startswith(b"\x7fELF")
    for index in range(len(sources)):
        assert f"nest_{index}_kernel".encode() in cubin


@needs_nvcc
def test_a_kernel_is_built_without_a_gpu():
    kernel = build_kernel(default_schedule(conv(8, 8, 8), GPU), GPU)
    assert kernel.packings[0].shape == (8, 8, 3, 3)


@needs_nvcc
def test_an_error_of_the_compiler_is_one_line():
    with pytest.raises(LoweringError) as caught:
        compile_source('extern "C" __global__ void f() { g(); }', "sm_90")
    assert str(caught.value) == (
        'nvcc for sm_90: kernel.cu(1): error: identifier "g" is undefined'
    )


@pytest.mark.usefixtures("without_nvcc")
def test_without_nvcc_the_message_says_what_to_install():
    with pytest.raises(LoweringError, match="no nvcc on the PATH; install the CUDA toolkit"):
        compile_source("", "sm_90")


@pytest.mark.parametrize("arch", ["sm_75", "sm_87", "sm_90"])
@pytest.mark.parametrize("name", LAYERS)
def test_candidates_are_distinct_and_keep_the_limits(name, arch):
    nest, gpu = LAYERS[name], gpu_features(arch)
    candidates = schedule_candidates(nest, gpu)
    assert candidates[0] == default_schedule(nest, gpu)
    assert 1 <= len(candidates) <= 10
    assert len({c.key for c in candidates}) == len(candidates)
    for candidate in candidates:
        genes = candidate.statements[0].schedule_genes
        assert len(genes) < SCHEDULE_GENES
        assert broken_limit(candidate, gpu) is None
        assert after(nest, *genes) == candidate


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_that_is_proposed_breaks_a_limit_when_it_is_lowered(name):
    space = schedule_space(LAYERS[name], GPU)
    for nest in (space[0], space[len(space) // 2], space[-1]):
        assert cuda_source(nest, GPU)


def test_usual_layers_have_several_candidates():
    for name in ("64 channels", "64 to 128, stride 2", "512 channels", "pointwise", "depthwise"):
        assert len(schedule_candidates(LAYERS[name], GPU)) == 10


def test_a_schedule_that_is_there_is_kept():
    parts = after(conv(16, 32, 8), gene("split_domain", loop="co", parts=2))
    mine = apply(parts, gene("unroll", 1, loop="kw"))
    done = default_schedule(mine, GPU)
    assert done.statements[1] == mine.statements[1]
    assert done.statements[0].has_schedule
    assert default_schedule(done, GPU) is done


def test_large_layers_fill_the_gpu_and_their_blocks_fetch_together():
    schedule = default_schedule(LAYERS["64 channels"], GPU).statements[0].scheduled(1)
    extents = {x.bound: x.extent for x in schedule.loops if x.bound}
    threads = extents["threadIdx.x"] * extents["threadIdx.y"] * extents.get("threadIdx.z", 1)
    assert threads % GPU.warp == 0
    assert extents["blockIdx.x"] >= GPU.multiprocessors // 2
    assert schedule.anchor("shared:input") == schedule.anchor("shared:weight") == "ci.0"


def test_every_architecture_has_a_default():
    for gpu in ARCHITECTURES.values():
        assert broken_limit(default_schedule(LAYERS["512 channels"], gpu), gpu) is None
