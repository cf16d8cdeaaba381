"""What differs between the kinds of devices that whole networks are compiled for."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

from backends.devices import CpuFeatures, cpu_features
from backends.gpus import GpuFeatures, gpu_trouble, target_features
from genomes.nest import LoopNest

if TYPE_CHECKING:
    from backends.lowering.epilogue import Epilogue
    from backends.timing import Look


class Platform(abc.ABC):
    """One kind of device, with the target that is compiled for.

    Attributes:
        target: As `tvm.target.Target` takes it.
        lanes: Channels in a block of an activation; 0 for NCHW.
        pass_options: Options of TVM's passes.
    """

    target: dict[str, Any]
    lanes: int
    pass_options: ClassVar[Mapping[str, Any]] = {}

    @property
    @abc.abstractmethod
    def device(self) -> Any:
        """Where the network runs, as TVM knows it."""

    @abc.abstractmethod
    def trouble(self) -> str:
        """Why no network can be run on this machine, as a sentence; "" where one can."""

    @abc.abstractmethod
    def undisturbed(self) -> AbstractContextManager[Callable[[], Look] | None]:
        """Keep this thread out of the way of networks that are timed.

        Gives `Probe.look` where this machine's cores are what is timed, None elsewhere.
        """

    @property
    @abc.abstractmethod
    def tir_pipeline(self) -> Any:
        """The passes that make code of scheduled kernels."""

    @abc.abstractmethod
    def default_schedule(self, nest: LoopNest) -> LoopNest:
        """`nest` with the schedule of the best estimate."""

    @abc.abstractmethod
    def lower(self, nest: LoopNest, epilogue: Epilogue) -> Any:
        """The scheduled kernel of a site, as a PrimFunc.

        Raises:
            LoweringError: TVM refuses a gene, or the kernel breaks a limit of the device.
        """

    @abc.abstractmethod
    def schedule_rest(self, mod: Any) -> Any:
        """`mod` with a schedule for every PrimFunc that has none."""

    @abc.abstractmethod
    def export_options(self, link: Callable[..., None] | None) -> dict[str, Any]:
        """Options of TVM's `export_library`.

        Args:
            link: Its `fcompile`; None for a library of this machine.
        """


class CpuPlatform(Platform):
    """The cores of a CPU.

    Args:
        target: An LLVM target with `num-cores`.
        lanes: float32 lanes of a vector register; those of `target` if it is not given.
        features: What schedules may use; what `target` tells if it is not given.
    """

    # The virtual machine passes what fits.
    pass_options: ClassVar = {"tirx.disable_assert": True}

    def __init__(
        self,
        target: Mapping[str, Any],
        lanes: int | None = None,
        features: CpuFeatures | None = None,
    ) -> None:
        self.target = dict(target)
        self._features = features or cpu_features(target, int(target.get("num-cores", 1)))
        self.lanes = self._features.lanes if lanes is None else lanes

    @property
    def device(self) -> Any:
        import tvm

        return tvm.cpu()

    def trouble(self) -> str:
        return ""

    @contextmanager
    def undisturbed(self) -> Iterator[Callable[[], Look]]:
        from backends.timing import apart, helpers

        with apart():
            yield helpers(self.target).probe.look

    @property
    def tir_pipeline(self) -> Any:
        from backends.lowering.pipeline import registered

        return registered()

    def default_schedule(self, nest: LoopNest) -> LoopNest:
        from backends.lowering import default_schedule

        return default_schedule(nest, self._features)

    def lower(self, nest: LoopNest, epilogue: Epilogue) -> Any:
        from backends.lowering.kernel import lower

        return lower(nest, epilogue)["main"]

    def schedule_rest(self, mod: Any) -> Any:
        from backends.network.rest import schedule_rest

        return schedule_rest(mod, self.lanes)

    def export_options(self, link: Callable[..., None] | None) -> dict[str, Any]:
        return {"fcompile": link}


class GpuPlatform(Platform):
    """An NVIDIA GPU; kernels become machine code by nvcc when the network is first run or is
    exported.

    Args:
        target: A target from `gpu_target`, or from `board_target`.
        features: What schedules may use; what `target` tells if it is not given.
    """

    lanes = GpuFeatures.lanes
    pass_options: ClassVar = {"relax.backend.use_cuda_graph": True}

    def __init__(self, target: Mapping[str, Any], features: GpuFeatures | None = None) -> None:
        self.target = dict(target)
        self._features = features or target_features(self.target)

    @property
    def device(self) -> Any:
        import tvm

        from backends.lowering.gpu.kernel import install_compiler

        install_compiler(self._features.arch)
        return tvm.cuda()

    def trouble(self) -> str:
        return gpu_trouble(self._features.arch)

    def undisturbed(self) -> nullcontext[None]:
        return nullcontext()

    @property
    def tir_pipeline(self) -> Any:
        from backends.lowering.gpu.kernel import PIPELINE, install_compiler

        # Where TVM has its runtime for CUDA, it has the source compiled as soon as it is made.
        install_compiler(self._features.arch)
        return PIPELINE

    def default_schedule(self, nest: LoopNest) -> LoopNest:
        from backends.lowering.gpu import default_schedule

        return default_schedule(nest, self._features)

    def lower(self, nest: LoopNest, epilogue: Epilogue) -> Any:
        from backends.lowering.gpu.kernel import lower_checked

        return lower_checked(nest, self._features, epilogue)["main"]

    def schedule_rest(self, mod: Any) -> Any:
        from tvm.s_tir import dlight

        rules = (dlight.gpu.GEMV, dlight.gpu.Reduction, dlight.gpu.GeneralReduction)
        return dlight.ApplyDefaultSchedule(*(rule() for rule in rules), dlight.gpu.Fallback())(mod)

    def export_options(self, link: Callable[..., None] | None) -> dict[str, Any]:
        from backends.boards import link_shared
        from backends.lowering.gpu.libraries import pack_imports

        linker = link_shared(self.target)
        packing = pack_imports(linker.command, self._features.arch)
        return {"fcompile": link or linker, "fpack_imports": packing}


def platform_of(
    target: Mapping[str, Any],
    features: CpuFeatures | GpuFeatures | None = None,
    lanes: int | None = None,
) -> Platform:
    """The platform of a target.

    Args:
        target: As `tvm.target.Target` takes it.
        features: What schedules may use; what `target` tells if they are not given.
        lanes: float32 lanes of a CPU's vector register; those of the features if not given.
    """
    if target["kind"] == "cuda":
        assert not isinstance(features, CpuFeatures)
        return GpuPlatform(target, features)
    assert not isinstance(features, GpuFeatures)
    return CpuPlatform(target, lanes, features)
