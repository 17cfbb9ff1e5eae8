"""Class maps for the report: where the networks of the run see each class in the fields that are shown."""

from pathlib import Path

import numpy as np

from wsss.cells.scoring import normalise, resize
from wsss.core.device import choose_device
from wsss.data.catalog import DataSet
from wsss.inference.checkpoints import CamCheckpoint, check_fits, load_classifiers, plan_all, plan_oof
from wsss.models.cam_net import class_maps
from wsss.reports.gallery import ClassMap
from wsss.runs.run_folder import find_folders

LEAST = 0.01
"""Classes of which an image has a probability no higher than this have no map, as in the recipe's cell score."""


class Mapper:
    """The networks of a run, asked for the class maps of one image after the other.

    Args:
        run: run folder.
        data: the data set of the images.
        oof: ask for each image the network that never saw it, as the predictions did.

    Raises:
        DataError: the networks are damaged, or are not for this data set.
    """

    def __init__(self, run: Path, data: DataSet, *, oof: bool) -> None:
        self.data, self.device = data, choose_device()
        members = [own for folder in find_folders(run) for own in load_classifiers(folder, self.device)]
        for member in members:
            check_fits(member, data)
        plan = plan_oof(members, data) if oof else plan_all(members, data)
        self._members: dict[int, list[CamCheckpoint]] = {i: own for own, indices in plan for i in indices}

    def maps(self, i: int, cells: np.ndarray) -> list[ClassMap]:
        """Return the maps of image i, none where no network predicts it.

        Args:
            i: number of the image.
            cells: (S, S) its label map at stored size, for networks that pool over cells.
        """
        members = self._members.get(i, [])
        if not members:
            return []
        image = np.array(self.data.image(i))[None]  # a copy: torch wants to be allowed to write
        found = [class_maps(member.net, image, self.device, [cells]) for member in members]
        probs = np.mean([p[0] for _, p in found], axis=0)
        shown = np.flatnonzero(probs > LEAST)
        cam01 = np.mean([normalise(cam[0])[shown] for cam, _ in found], axis=0)
        geometry = self.data.geometry(i)
        full = resize(cam01, (geometry.size, geometry.size))[:, : geometry.content_height, : geometry.content_width]
        return [ClassMap(int(k), float(probs[k]), own) for k, own in zip(shown, full, strict=True)]
