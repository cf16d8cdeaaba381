"""Fisher potential: how much the loss would change if a channel were removed, summed up.

Per channel c of a site's output activation a (N, C, H, W) with gradient g of the mean
cross-entropy loss:

    Delta_c = 1 / (2 N) * sum_n (sum_hw a * g)^2

A site's potential is the sum over its channels and calls, a network's the sum over its sites.
One minibatch at initialisation (BlockSwap, arXiv 1906.04113; NAS-PTE, arXiv 2102.06599,
section 5).  BatchNorm uses the statistics of the minibatch.
"""

from __future__ import annotations

import contextlib
import enum
import math
from collections.abc import Sequence
from typing import ClassVar

import psutil
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from engine.capacity.base import CapacityError, CapacityMetric, MetricOptions, Score
from engine.capacity.identity import content_key
from engine.capacity.precision import NarrowGradients, is_fast
from engine.capacity.threads import Crew
from engine.capacity.workbench import Nests, Workbench
from genomes.genome import Genome
from genomes.sites import Sites

VERSION = 2
"""Part of the identity: raise it when scores change."""

NARROW_MARGIN = 0.01
"""Relative distance from the threshold at which bfloat16 gradients decide a verdict.  Their
errors are 0.1 % of the score on ResNet-34 (standard deviation) and 0.5 % on MobileNetV2; another
order of float32 additions makes 0.06 % on ResNet-34."""

DRAFT_SHARE = 4
"""A draft is computed on one image in so many, the first ones."""

FEWEST_DRAFTED = 4
"""Images of a draft: below, the statistics of BatchNorm say too little."""

DRAFT_FACTOR = 2.0
"""A draft decides when it is so many times above or below the threshold.  Near it, drafts on 8 of
32 images are off by 9 % on ResNet-34 and by up to 20 % on ResNet-20 (standard deviation), and so
is the original's, to which they are relative; far above it by up to three times
(`greatest_error` of `python -m engine.bench.capacity`)."""

MEMORY_SHARE = 0.5
"""Of the available memory, for the activations of all threads together."""


class _Pass(enum.Enum):
    """One forward and backward pass."""

    DRAFT = "some of the images, in bfloat16 where that is faster"
    NARROW = "gradients in bfloat16"
    FULL = "float32"


class FisherOptions(MetricOptions):
    """Options of the Fisher potential."""

    threads: int | None = Field(
        default=None,
        ge=1,
        description="Candidates computed side by side; null: the threads of torch, as far as "
        "memory lasts. Scores do not depend on it.",
    )


class FisherPotential(CapacityMetric):
    """Fisher potential of one minibatch.

    A verdict takes up to three steps, each for what the one before leaves near the threshold: a
    draft on a quarter of the images; all images with bfloat16 gradients, where the CPU multiplies
    bfloat16 (see `precision`); float32.  A network whose potential is not finite has the
    potential 0.
    """

    name = "fisher"
    Options: ClassVar[type[MetricOptions]] = FisherOptions

    def __init__(
        self, model: nn.Module, sites: Sites, x: Tensor, y: Tensor, options: FisherOptions
    ) -> None:
        _check(sites, x, y)
        self._x, self._y, self._options = x.detach().clone(), y.detach().clone(), options
        self._bench = Workbench(model, sites)
        self._narrow = {
            id(module.weight): module.weight.to(torch.bfloat16)
            for module in self._bench.network.modules()
            if isinstance(module, nn.Conv2d) and is_fast()
        }
        self._random, activation_bytes = self._explore()
        self._crew = Crew(self._bench, self._threads(activation_bytes))
        first, second = self._crew.map(self._per_site, [{}, {}])
        self._original = math.fsum(first.values())
        if first != second:
            raise CapacityError(
                "two evaluations of the same network differ: it keeps state outside its buffers, "
                "or draws numbers outside torch's generator; remove that from its forward pass"
            )
        if not math.isfinite(self._original) or self._original <= 0:
            raise CapacityError(
                f"the Fisher potential of the network is {self._original}: no gradient, or none "
                "that is finite, reaches its convolutions; check its weights and the minibatch"
            )
        self._narrow_original = self._draft_original = 0.0
        if is_fast() and not options.exact:
            self._narrow_original = self._total(self._bench, _Pass.NARROW)
        if len(x) >= DRAFT_SHARE * FEWEST_DRAFTED and not options.exact:
            # The user's own code may not run in bfloat16, and drafts only save time.
            with contextlib.suppress(Exception):
                self._draft_original = self._total(self._bench, _Pass.DRAFT)
        names = [site.name for site in sites.sites]
        settings = options.model_dump_json(exclude={"threads"})
        facts = (VERSION, torch.__version__, is_fast(), settings, names, self._original, model)
        tensors = {**model.state_dict(), "x": self._x, "y": self._y}
        self._identity = content_key(self.name, facts, tensors)

    @property
    def original(self) -> float:
        return self._original

    @property
    def identity(self) -> str:
        return self._identity

    def score(self, genomes: Sequence[Genome]) -> list[Score]:
        changes = [self._bench.changes(genome) for genome in genomes]
        keys = [tuple(nests.items()) for nests in changes]
        different = dict(zip(keys, changes, strict=True))
        found = self._crew.map(self._judge, list(different.values()))
        scores = dict(zip(different, found, strict=True))
        return [scores[key] for key in keys]

    def per_site(self, genome: Genome) -> dict[str, float]:
        return self._per_site(self._bench, self._bench.changes(genome))

    def _per_site(self, bench: Workbench, nests: Nests) -> dict[str, float]:
        with bench.transformed(nests):
            return self._run(bench, _Pass.FULL)

    def _judge(self, bench: Workbench, nests: Nests) -> Score:
        if not nests:
            return Score(self._original)
        floor = 1.0 - self._options.tolerance
        with bench.transformed(nests):
            if self._draft_original > 0:
                ratio = self._total(bench, _Pass.DRAFT) / self._draft_original
                if ratio > DRAFT_FACTOR * floor or 0 < ratio < floor / DRAFT_FACTOR:
                    return Score(self._original * ratio, exact=False)
            if self._narrow_original > 0:
                ratio = self._total(bench, _Pass.NARROW) / self._narrow_original
                if ratio > 0 and abs(ratio - floor) > NARROW_MARGIN * floor:
                    return Score(self._original * ratio, exact=False)
            return Score(self._total(bench, _Pass.FULL))

    def _total(self, bench: Workbench, how: _Pass) -> float:
        return math.fsum(self._run(bench, how).values())

    def _run(self, bench: Workbench, how: _Pass) -> dict[str, float]:
        """The potential of every site; all 0 where one is not finite."""
        images = len(self._x) // (DRAFT_SHARE if how is _Pass.DRAFT else 1)
        found = {site.name: 0.0 for site in bench.sites.sites}

        def watch(site: str, out: Tensor) -> Tensor:
            if not out.requires_grad:
                out.requires_grad_()
            activation = out.detach()

            def add(gradient: Tensor) -> None:
                products = torch.linalg.vecdot(
                    activation.flatten(2).float(), gradient.flatten(2).float()
                )
                squares = products.to(torch.float64).square().sum().item()
                found[site] += squares / (2 * len(activation))

            out.register_hook(add)
            # A layer that works in place must not overwrite what the gradient is taken of.
            return out.clone()

        with contextlib.ExitStack() as stack:
            network = stack.enter_context(bench.watched(watch))
            stack.enter_context(torch.enable_grad())
            if self._random:
                stack.enter_context(torch.random.fork_rng(devices=[]))
                torch.manual_seed(self._options.seed)
            if how is _Pass.NARROW:
                stack.enter_context(NarrowGradients(self._narrow))
            if how is _Pass.DRAFT and is_fast():
                stack.enter_context(torch.autocast("cpu", torch.bfloat16))
            logits = network(self._x[:images])
            functional.cross_entropy(logits, self._y[:images]).backward()
        return found if all(map(math.isfinite, found.values())) else dict.fromkeys(found, 0.0)

    def _explore(self) -> tuple[bool, int]:
        """Run the network once on two images.

        Returns:
            Whether it draws random numbers, and the bytes of its activations on the minibatch.

        Raises:
            CapacityError: It fails, or its output is no score for each class.
        """
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        x, y = self._x[:2], self._y[:2]
        with (
            torch.random.fork_rng(devices=[]),
            torch.enable_grad(),
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            self._bench.watched() as network,
        ):
            before = torch.get_rng_state()
            try:
                logits = network(x.clone().requires_grad_())
                functional.cross_entropy(logits, y)
            except Exception as error:  # the user's own code may raise anything
                raise CapacityError(
                    "the network fails in training mode on the minibatch: "
                    f"{type(error).__name__}: {_first_line(error)}; it has to map images to one "
                    "score for each class, and the labels have to be among the classes"
                ) from error
            is_random = not torch.equal(before, torch.get_rng_state())
        return is_random, sum(sizes.values()) * len(self._x) // len(x)

    def _threads(self, activation_bytes: int) -> int:
        """As many as are wanted and fit, one where the generator is shared by all."""
        if self._random:
            return 1
        wanted = self._options.threads or torch.get_num_threads()
        room = int(MEMORY_SHARE * psutil.virtual_memory().available)
        return max(1, min(wanted, room // max(1, 2 * activation_bytes)))


def _check(sites: Sites, x: Tensor, y: Tensor) -> None:
    if not sites.sites:
        raise CapacityError("the network has no convolution that can be transformed")
    if len(x) < 2 or y.shape != (len(x),):
        raise CapacityError(
            f"images {tuple(x.shape)} with labels {tuple(y.shape)} are no minibatch: at least two "
            "images, and one label for each, are needed"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
