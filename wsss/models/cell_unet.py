"""The U-Net that finds nuclei and cells: small enough to come with the package and to run on a CPU."""

from wsss.models.unet import Unet, build_unet
from wsss.options.masks import UnetConfig
from wsss.options.recipe import MaskRecipe

BACKBONE = "test_resnet"
"""timm's smallest residual network, half a million weights: what its name says of tests is about its size."""
CHANNELS = [64, 48, 32, 16, 8]
INPUTS, OUTPUTS = 3, 4
"""Red, blue, yellow; inside and border of nuclei, inside and border of cells."""


def build_cell_unet() -> Unet:
    """Build the network with random weights."""
    recipe = MaskRecipe(backbone=BACKBONE, weights="none", unet=UnetConfig(channels=CHANNELS, upsample="bilinear"))
    return build_unet(recipe, channels=INPUTS, outputs=OUTPUTS, pretrained=False)
