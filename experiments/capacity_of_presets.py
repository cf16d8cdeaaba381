"""The capacity of a network in which every convolution is transformed alike.

python experiments/capacity_of_presets.py experiments/resnet18_cifar10_cpu.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

from engine.capacity import create_metric
from engine.config import load_config
from engine.data import load_data
from engine.network import build_model
from engine.resolve import resolve
from genomes import presets
from genomes.errors import IllegalTransformation
from genomes.gene import Gene
from genomes.genome import Genome, replay
from genomes.sites import Sites, find_sites

UNIFORM = {
    "2 groups": presets.grouping(2),
    "8 groups": presets.grouping(8),
    "depthwise": presets.depthwise(),
    "1/2 of the output channels": presets.bottleneck(2),
    "1/8 of the output channels": presets.bottleneck(8),
    "1/4 of the input channels": presets.input_bottleneck(4),
    "every 2nd row and column": presets.spatial_bottleneck(2),
    "every 4th row and column": presets.spatial_bottleneck(4),
}


def everywhere(sites: Sites, genes: tuple[Gene, ...]) -> Genome:
    """`genes` at every site to which they apply."""
    found = {}
    for site in sites.sites:
        try:
            replay(site.shape, genes)
        except IllegalTransformation:
            continue
        found[site.name] = genes
    return Genome.of(found)


def main(path: str) -> None:
    config = resolve(load_config(Path(path), []))
    model = build_model(config.model)
    sites = find_sites(model, config.model.input_shape)
    channels, height, width = config.model.input_shape[1:]
    data = load_data(config.data.kind, config.data.path)
    x, y = data.minibatch(config.capacity.batch, config.data.seed, (channels, height, width))
    options = {"seed": config.capacity.seed, "exact": True, **config.capacity.options}
    metric = create_metric(config.capacity.metric, model, sites, x, y, **options)
    genomes = [everywhere(sites, genes) for genes in UNIFORM.values()]
    macs = sum(site.calls * site.shape.macs for site in sites.sites)
    print(f"{config.model.spec}, {config.capacity.metric}, {config.capacity.batch} images")
    for name, genome, score in zip(UNIFORM, genomes, metric.score(genomes), strict=True):
        nests = sites.nests(genome)
        kept = sum(site.calls * nests[site.name].macs for site in sites.sites) / macs
        ratio = score.value / metric.original
        print(f"{name:28s} capacity {ratio:6.2f}x   multiply-accumulates {100 * kept:5.1f} %")


if __name__ == "__main__":
    main(sys.argv[1])
