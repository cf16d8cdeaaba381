from __future__ import annotations

import functools
import hashlib

import pytest
import torch
from torch import nn

from engine.models import MODELS, get_model
from engine.models.resnet import PaddedShortcut
from genomes.errors import ModelError

# ImageNet: the figures that torchvision publishes.  CIFAR: the papers give 0.27 M (ResNet-20)
# and 2.2 M (WRN-40-2); ResNet-18/34 and DenseNet-161 have the weights of their ImageNet form
# but for the stem and the last layer, which `test_cifar_forms_differ_in_stem_and_head` derives.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
    "mobilenet_v2": 3_504_872,
    "resnet18_cifar": 11_173_962,
    "resnet34_cifar": 21_282_122,
    "resnet20_cifar": 269_722,
    "resnext29_2x64d_cifar": 9_130_314,
    "wrn_40_2_cifar": 2_243_546,
    "densenet161_cifar": 26_482_378,
}

# SHA-256 (first 16 digits) of the lines "name (shape)" of torchvision 0.29.2's state_dict.
TORCHVISION_STATE = {
    "resnet18": "84fb10d9c6905a1c",
    "resnet34": "28f9096d51307499",
    "resnet50": "d7e4f8bb0a536344",
    "densenet161": "82d337d48f910d3a",
    "densenet169": "e2d0f02d9c0ce650",
    "densenet201": "0d234ad7e9a31b95",
    "mobilenet_v2": "37bbbce8932fd0c4",
}


@functools.cache
def on_meta(name, **kwargs):
    with torch.device("meta"):
        return MODELS[name].factory(**kwargs)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_every_model_has_a_published_count():
    assert PARAMETERS.keys() == MODELS.keys()


@pytest.mark.parametrize("name", sorted(MODELS))
def test_parameter_count(name):
    assert count(on_meta(name)) == PARAMETERS[name]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_output_shape(name):
    entry = MODELS[name]
    images = torch.empty(2, *entry.input_shape, device="meta")
    assert on_meta(name)(images).shape == (2, entry.num_classes)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnext29_2x64d_cifar", "wrn_40_2_cifar", "densenet161_cifar", "mobilenet_v2"],
)
def test_classes_and_channels_are_arguments(name):
    _, height, width = MODELS[name].input_shape
    images = torch.empty(1, 1, height, width, device="meta")
    network = on_meta(name, num_classes=7, in_channels=1).eval()
    assert network(images).shape == (1, 7)


@pytest.mark.parametrize("name", sorted(TORCHVISION_STATE))
def test_state_is_named_as_in_torchvision(name):
    state = on_meta(name).state_dict()
    text = "\n".join(f"{key} {tuple(value.shape)}" for key, value in state.items())
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == TORCHVISION_STATE[name]


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("resnet18_cifar", "layer2.0.downsample.0"),
        ("resnext29_2x64d_cifar", "layer1.0.conv2"),
        ("densenet161_cifar", "features.denseblock1.denselayer1.conv1"),
        ("densenet161_cifar", "features.transition3.conv"),
        ("wrn_40_2_cifar", "layer3.5.conv2"),
        ("mobilenet_v2", "features.1.conv.0.0"),
    ],
)
def test_module_names(name, module):
    assert isinstance(on_meta(name).get_submodule(module), nn.Conv2d)


@pytest.mark.parametrize(
    ("cifar", "imagenet", "stem", "norm"),
    [
        ("resnet18_cifar", "resnet18", "conv1", 0),
        ("resnet34_cifar", "resnet34", "conv1", 0),
        # The CIFAR form has no BatchNorm between its stem and the first block.
        ("densenet161_cifar", "densenet161", "features.conv0", 2 * 96),
    ],
)
def test_cifar_forms_differ_in_stem_and_head(cifar, imagenet, stem, norm):
    small, large = on_meta(cifar), on_meta(imagenet, num_classes=10)
    stems = [network.get_submodule(stem).weight for network in (small, large)]
    assert stems[0].shape[-2:] == (3, 3)
    assert stems[1].shape[-2:] == (7, 7)
    assert count(large) - count(small) == stems[1].numel() - stems[0].numel() + norm


@pytest.mark.parametrize(
    ("name", "feature", "size"),
    [
        ("resnet34_cifar", "layer1", (64, 32, 32)),
        ("resnet34_cifar", "layer4", (512, 4, 4)),
        ("resnet20_cifar", "layer3", (64, 8, 8)),
        ("resnext29_2x64d_cifar", "layer3", (1024, 8, 8)),
        ("wrn_40_2_cifar", "layer3", (128, 8, 8)),
        ("densenet161_cifar", "features", (2208, 4, 4)),
        ("resnet50", "layer4", (2048, 7, 7)),
        ("mobilenet_v2", "features", (1280, 7, 7)),
    ],
)
def test_feature_shapes(name, feature, size):
    network = on_meta(name)
    seen = []
    module = network.get_submodule(feature)
    with module.register_forward_hook(lambda *call: seen.append(call[2].shape)):
        network(torch.empty(1, *MODELS[name].input_shape, device="meta"))
    assert seen == [(1, *size)]


def test_resnext_groups_its_3x3_convolutions():
    convolutions = [
        module
        for module in on_meta("resnext29_2x64d_cifar").modules()
        if isinstance(module, nn.Conv2d) and module.groups == 2
    ]
    assert len(convolutions) == 9
    assert {module.out_channels for module in convolutions} == {128, 256, 512}


def test_padded_shortcut_subsamples_and_adds_zero_channels():
    x = torch.arange(2 * 3 * 5 * 5, dtype=torch.float32).reshape(2, 3, 5, 5) + 1
    out = PaddedShortcut(3, 8, 2)(x)
    assert out.shape == (2, 8, 3, 3)
    assert torch.equal(out[:, 2:5], x[:, :, ::2, ::2])
    assert out[:, :2].abs().sum() == 0
    assert out[:, 5:].abs().sum() == 0


@pytest.mark.parametrize("name", ["resnet20_cifar", "wrn_40_2_cifar", "mobilenet_v2"])
def test_seed_determines_the_weights(name):
    def build(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in MODELS[name].factory().parameters()])

    assert torch.equal(build(3), build(3))
    assert not torch.equal(build(3), build(4))


@pytest.mark.parametrize("name", ["resnet20_cifar", "wrn_40_2_cifar"])
def test_gradients_reach_every_parameter_and_no_activation_is_overwritten(name):
    torch.manual_seed(0)
    network = MODELS[name].factory()
    kept = []

    def keep(_module, _inputs, output):
        kept.append((output, output.detach().clone()))

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.ReLU):
            module.register_forward_hook(keep)
    network(torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert all(torch.equal(output, copy) for output, copy in kept)


def test_convolutions_have_he_variance():
    torch.manual_seed(0)
    weight = MODELS["resnet20_cifar"].factory().layer3[1].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


def test_get_model():
    assert get_model("resnet50") is MODELS["resnet50"]


def test_unknown_name_answers_with_the_nearest():
    with pytest.raises(ModelError, match=r"unknown model 'resnet_18'; did you mean 'resnet18'\?"):
        get_model("resnet_18")


def test_unknown_name_without_a_neighbour_lists_all():
    with pytest.raises(
        ModelError, match=r"unknown model 'zzz'; known: .*mobilenet_v2, .*wrn_40_2"
    ):
        get_model("zzz")
