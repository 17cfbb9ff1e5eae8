"""What the U-Nets of masks and of class maps have in common: how they are built and what they start from."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from wsss.models.unet import Unet, build_unet
from wsss.options.recipe import UnetRecipe
from wsss.runs.checkpoint import is_checkpoint
from wsss.runs.run_folder import RunFolder, same_fold
from wsss.training.tasks import Earlier, Task


class UnetTask(Task):
    """A task whose network is a U-Net; an earlier run gives it its encoder."""

    recipe: UnetRecipe
    channels: int
    """Of an image."""
    outputs: int
    """Maps of the network."""

    def earlier(self, fold: int | None, *, fresh: bool) -> dict[str, Earlier]:
        """Return the run that a fresh one starts from, named by init_from or by a checkpoint as weights."""
        path = Path(self.recipe.weights)
        if not fresh:
            return {}
        if self.recipe.init_from is not None:
            folder = same_fold(self.recipe.init_from, "init_from", fold)
            return {"init_from": (folder, folder.best)}
        return {"weights": (RunFolder(path.parent), path)} if path.is_file() and is_checkpoint(path) else {}

    def build(self, earlier: Mapping[str, Earlier], *, pretrained: bool) -> Unet:
        """Return the U-Net, its encoder with the weights of the run that it starts from, or pretrained ones."""
        weights = [str(path) for _, path in earlier.values()]
        recipe = replace(self.recipe, weights=weights[0]) if weights else self.recipe
        return build_unet(recipe, channels=self.channels, outputs=self.outputs, pretrained=pretrained)
