"""The picture grid of a run shows no absent data: NaN in the test images that every mask hides leaves it as it was."""

from dataclasses import replace

import numpy as np

from fedrecon_core.data.allocation import allocate
from fedrecon_core.registry import DATASETS
from tests.helpers.contract_support import restored
from tests.helpers.runs import run
from tests.helpers.toy import Toy, toy_config, toy_settings

GAPS = {"test": {"level": "sample", "rate": 0.6}}


class TwoPictures(Toy):
    """The toy with a second picture; ``root`` may name a file with test samples whose first picture is NaN."""

    def load(self, params, root, seed):
        dataset = super().load(params, None, seed)
        first, steps = dataset.spec.modalities[0], dataset.spec.modalities[2]
        pictures = dataset.arrays["picture"].copy()
        if root is not None:
            pictures[np.load(root)] = np.nan
        return replace(
            dataset,
            spec=dataset.spec.model_copy(
                update={"modalities": (first, first.model_copy(update={"name": "negative"}), steps)}
            ),
            arrays={"picture": pictures, "negative": 1 - dataset.arrays["picture"], "steps": dataset.arrays["steps"]},
            rows=dict.fromkeys(("picture", "negative", "steps"), dataset.rows["picture"]),
        )


def test_absent_test_images_do_not_reach_the_picture_grid(tmp_path):
    with restored(DATASETS):
        DATASETS.register("two_pictures")(TwoPictures)
        data = {"name": "two_pictures"}
        settings = toy_settings("fedrecon", rounds=1, data=data, missing=GAPS)
        config = toy_config("fedrecon", rounds=1, data=data, missing=GAPS)
        dataset = TwoPictures().load(config.data, None, 0)
        test = next(iter(allocate(dataset, config).test.values()))
        hidden = test.samples[~test.present[:, 0]]
        assert dataset.members(2)[0] in hidden, "the mask must hide a sample that would be drawn"
        np.save(tmp_path / "hidden.npy", hidden)
        clean = run(tmp_path / "clean", settings) / "reconstructions.png"
        settings["data"] = {**data, "root": str(tmp_path / "hidden.npy")}
        poisoned = run(tmp_path / "poisoned", settings) / "reconstructions.png"
        assert clean.read_bytes() == poisoned.read_bytes()
