"""A backend of a third party: PyTorch itself, on this machine's CPU."""

import torch
from torch.utils.benchmark import Timer

from backends.base import Backend, Device, Measured
from backends.settings import BackendSettings
from genomes.modules import SiteConv2d
from genomes.nest import LoopNest
from genomes.transformations import REGISTRY, Phase


class EagerOptions(BackendSettings):  # which has repeats, min_repeat_ms, deadlines, tolerances
    threads: int = 1


class EagerBackend(Backend):
    name = "eager"
    Options = EagerOptions
    target = "eager"

    def __init__(self, options):
        self.measure_options = options.measure_options
        self.threads = options.threads

    def describe(self):
        facts = {"backend": "eager", "version": 1, "threads": self.threads}
        return Device("PyTorch, eager", {**facts, "torch": torch.__version__})

    def transformations(self):
        return frozenset(name for name, t in REGISTRY.items() if t.phase is Phase.DOMAIN)

    def default_schedule(self, nest):
        batch = nest.shape.batch
        scheduled = (s.with_schedule(s.scheduled(batch)) for s in nest.statements)
        return LoopNest(nest.shape, tuple(scheduled))

    def schedule_candidates(self, nest):
        return (self.default_schedule(nest),)

    def measure_iter(self, nests):
        least_s = self.measure_options.min_repeat_ms / 1e3
        for nest in nests:
            weights = [torch.ones(s.weight_shape) for s in nest.weights]
            names = {"site": SiteConv2d(nest, weights), "x": torch.ones(nest.shape.input_shape)}
            timer = Timer("site(x)", globals=names, num_threads=self.threads)
            repeats = range(self.measure_options.repeats)
            yield Measured(tuple(timer.blocked_autorange(None, least_s).median for _ in repeats))
