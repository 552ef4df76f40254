"""A batch that breaks the contract is refused by the name of its first wrong key."""

import pytest
import torch

from erode.batch import FIELDS, NO_PRIOR, Role, check_batch


def make_batch(*spatial):
    fill = {"prior": NO_PRIOR, "role": Role.RETAIN, "counted": True}
    return {
        "image": torch.zeros(2, 3, *spatial),
        **{
            key: torch.full((2, *spatial) if field.per_pixel else (2,), fill.get(key, 0), dtype=field.dtype)
            for key, field in FIELDS.items()
        },
        "id": ["a", "b"],
    }


@pytest.mark.parametrize("spatial", [(4, 6), (3, 4, 6)])
def test_a_batch_by_the_contract_passes(spatial):
    check_batch(make_batch(*spatial), num_classes=2)


@pytest.mark.parametrize("key", FIELDS)
def test_every_key_is_required_in_its_shape_and_type(key):
    batch = make_batch(4, 6)
    for value, message in [
        (None, rf"batch\['{key}'\] is missing: "),
        (batch[key].double(), rf"batch\['{key}'\] must be {FIELDS[key].dtype}"),
        (batch[key][..., :1], rf"batch\['{key}'\] must be .* of shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_batch({**batch, key: value}, num_classes=2)


def test_a_group_may_be_absent_but_is_a_number_per_image():
    batch = make_batch(4, 6)
    check_batch({**batch, "group": torch.tensor([7, 7])}, num_classes=2)
    for wrong in (["north", "south"], torch.zeros(2), torch.zeros(3, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"batch\['group'\] must be torch.int64 of shape \[2\] .*leave it out"):
            check_batch({**batch, "group": wrong}, num_classes=2)


@pytest.mark.parametrize("image", [None, torch.zeros(2, 4, 6), torch.zeros(2, 3, 4, 6, dtype=torch.float16)])
def test_the_image_comes_first(image):
    with pytest.raises(ValueError, match=r"batch\['image'\] must be a float32 tensor"):
        check_batch({**make_batch(4, 6), "image": image}, num_classes=2)


@pytest.mark.parametrize("key", ["mask", "coarse", "label"])
@pytest.mark.parametrize("value", [-1, 3])
def test_classes_beyond_those_of_the_model_are_refused(key, value):
    batch = make_batch(4, 6)
    batch[key].view(-1)[0] = value
    with pytest.raises(
        ValueError, match=rf"batch\['{key}'\] holds .*{value}.* but classes are 0\.\.2; set num_classes"
    ):
        check_batch(batch, num_classes=3)
