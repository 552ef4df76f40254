"""A palette must not turn a mask inside out."""

import numpy as np
import pytest
from PIL import Image

from erode.datamodules.errors import DataError
from erode.datamodules.files.palette import palette_values
from erode.datamodules.files.reading import read_mask

MASK = np.zeros((32, 32), np.uint8)
MASK[8:16, 8:16] = 255


def indexed(path, indices, colours):
    picture = Image.fromarray(np.array(indices, np.uint8), mode="P")
    picture.putpalette(colours)
    picture.save(path)
    return path


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("method", [0, 1, 2, "adaptive", "web"])
def test_greys_are_read_through_their_colours(tmp_path, method, ending):
    grey, colour = Image.fromarray(MASK), Image.fromarray(np.stack([MASK] * 3, -1))
    if method == "adaptive":
        picture = colour.convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    elif method == "web":
        picture = grey.convert("P")
    else:
        picture = (grey if method == 0 else colour).quantize(2, method=method)
    picture.save(tmp_path / f"a.{ending}")
    assert np.array_equal(read_mask(tmp_path / f"a.{ending}"), MASK > 0)


def test_a_mask_that_is_all_foreground_stays_so(tmp_path):
    Image.fromarray(np.full((4, 4), 255, np.uint8)).quantize(2).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png").all()


def test_indices_count_where_a_palette_colours_classes(tmp_path):
    voc = [0, 0, 0, 128, 0, 0, 0, 128, 0]
    assert read_mask(indexed(tmp_path / "a.png", [[0, 2, 2]], voc)).tolist() == [[0, 1, 1]]
    path = indexed(tmp_path / "b.png", [[0, 1, 2]], voc)
    assert read_mask(path, values={0: 0, 1: 1, 2: 2}).tolist() == [[0, 1, 2]]
    with pytest.raises(DataError, match=r"b\.png holds the values 0, 1, 2, .* mask_values"):
        read_mask(path)


def test_palettes_that_do_not_say_what_is_background_are_refused(tmp_path):
    red_first = indexed(tmp_path / "a.png", [[0, 1, 1]], [255, 0, 0, 0, 0, 0])
    with pytest.raises(DataError, match=r"a\.png has a palette in colour whose first entry is not black.*mask_values"):
        read_mask(red_first)
    assert read_mask(red_first, values={0: 1, 1: 0}).tolist() == [[1, 0, 0]]
    with pytest.raises(DataError, match=r"b\.png gives several of its palette indices one and the same grey"):
        read_mask(indexed(tmp_path / "b.png", [[0, 1]], [0, 0, 0, 0, 0, 0]))
    with pytest.raises(DataError, match=r"c\.png holds the palette index 7, which its palette does not colour"):
        palette_values(tmp_path / "c.png", np.array([[0, 7]]), np.array([[0, 0, 0], [255, 255, 255]], np.uint8))
