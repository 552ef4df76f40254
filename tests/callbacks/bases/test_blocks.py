"""CF-k and EU-k: exactly the last k blocks change, and EU-k's do not depend on where they started."""

import json

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn
from torch.utils.data import DataLoader
from two_loaders import TheirModule, copy_of, squares, trainer_for

from erode.callbacks import CFk, EUk
from erode.callbacks.bases.blocks import blocks_of
from erode.lightning_modules.segmentation import default_network

torch.set_num_threads(1)


class Decaying(TheirModule):
    """An optimiser with momentum and weight decay: what it holds on to, it changes."""

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.5)


def fit(folder, module, operator, *callbacks, **options):
    pl.seed_everything(1, verbose=False)
    trainer_for(folder, operator, *callbacks, **{"max_epochs": 2, **options}).fit(module, DataLoader(squares(8, 1), 4))
    return json.loads((folder / "unlearned" / "unlearning.json").read_text())


def snapshot(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize("operator", [CFk, EUk])
@pytest.mark.parametrize(("k", "trained"), [(1, ["body.5"]), (2, ["body.3", "body.5"])])
def test_exactly_the_last_blocks_change(operator, k, trained, tmp_path):
    module = Decaying()
    module.body[0].bias.requires_grad_(False)  # frozen by its owner, which it stays
    before = snapshot(module)
    record = fit(tmp_path, module, operator(k))
    for name, parameter in module.named_parameters():
        touched = any(name.startswith(f"{block}.") for block in trained)
        assert torch.equal(parameter, before[name]) is not touched, name
        assert parameter.requires_grad is (name != "body.0.bias")
    assert record["trained_blocks"] == trained
    assert record["completed"] is True
    assert record["guarantee"] == "approximate"


def test_retrained_blocks_do_not_depend_on_the_start(tmp_path):
    """Two starts that share the untouched blocks end in the same weights; by CF-k they do not."""
    one = Decaying(seed=0)
    other = Decaying(seed=7)
    for name, parameter in one.named_parameters():
        if not name.startswith(("body.3", "body.5")):
            other.get_parameter(name).data.copy_(parameter)
    for operator, same in ((CFk, False), (EUk, True)):
        ends = [Decaying(), Decaying()]
        for number, (end, start) in enumerate(zip(ends, (one, other), strict=True)):
            end.load_state_dict(start.state_dict())
            fit(tmp_path / f"{operator.__name__}{number}", end, operator(2))
        assert all(map(torch.equal, ends[0].parameters(), ends[1].parameters())) is same


def test_blocks_of_the_default_network_run_from_input_to_output():
    network = default_network(3)
    order, blocks = [], blocks_of(network)
    layers = {id(block.layers[0]): block.name for block in blocks}
    for layer in network.modules():
        if id(layer) in layers:
            layer.register_forward_hook(lambda layer, *_: order.append(layers[id(layer)]))
    network(torch.zeros(1, 3, 32, 32))
    assert order == [block.name for block in blocks] or set(order) == {block.name for block in blocks}
    assert order[-1] == blocks[-1].name
    assert [name for block in blocks for name in block.parameters] == [name for name, _ in network.named_parameters()]


def test_a_parametrised_layer_is_one_block():
    net = nn.Sequential(nn.Linear(2, 3), nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    assert [(block.name, len(block.parameters)) for block in blocks_of(net)] == [("0", 2), ("1", 3)]


def test_what_writes_past_the_gradient_is_told_and_nothing_released(tmp_path):
    class Write(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            module.body[0].weight.data.add_(1)

    record = fit(tmp_path, Decaying(), CFk(1), Write())
    assert record["completed"] is False
    assert "outside of the last blocks changed" in record["why"]


class Tied(TheirModule):
    def __init__(self):
        super().__init__()
        self.again = nn.Conv2d(6, 6, 3, padding=1)
        self.again.weight = self.body[3].weight


class WithUnused(TheirModule):
    """A head that is registered last and used never, as the decoder of an autoencoder beside a network may be."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Conv2d(2, 2, 1)


class Listed(TheirModule):
    """A weight that its layer keeps in a list, and re-initialises itself."""

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.scales = nn.ParameterList([torch.ones(1, 2, 1, 1)])

        def reset_parameters(self):
            nn.init.ones_(self.scales[0])

        def forward(self, image):
            return image * self.scales[0]

    def __init__(self):
        super().__init__()
        self.body.append(self.Layer())


@pytest.mark.parametrize(
    ("operator", "make", "message"),
    [
        (CFk(1), WithUnused, "the loss does not depend on unused, counted among the last 1 blocks.*raise k"),
        (EUk(2), WithUnused, "the loss does not depend on unused, counted among the last 2 blocks.*raise k"),
        (EUk(1), Listed, r"EUk cannot re-initialise body.6.scales: no reset_parameters\(\) of their own.*lower k"),
        (CFk(3), TheirModule, "has 3 blocks, so k = 3 leaves none untouched; lower k, or use FineTune"),
        (EUk(4), TheirModule, "lower k, or use Retrain, which is exact"),
        (CFk(1), Tied, r"again.weight and body.3.weight are one parameter.*choose k such that both are trained"),
        (EUk(1), "frozen", "body.5.weight is frozen, but belongs to the last 1 blocks; unfreeze it, or lower k"),
        (EUk(1), "normed", r"EUk cannot re-initialise body.5.parametrizations.*lower k"),
    ],
    ids=["outside the loss", "one outside", "listed", "all", "all anew", "tied", "frozen", "weight norm"],
)
def test_what_cannot_be_split_into_blocks_is_refused(operator, make, message, tmp_path):
    module = TheirModule() if isinstance(make, str) else make()
    if make == "frozen":
        module.body[5].requires_grad_(False)
    if make == "normed":
        nn.utils.parametrizations.weight_norm(module.body[5])
    with pytest.raises(MisconfigurationException, match=message):
        trainer_for(tmp_path, operator, max_epochs=1).fit(module, DataLoader(squares(4, 1), 4))


def test_averaged_weights_would_keep_what_was_re_initialised(tmp_path):
    with pytest.raises(MisconfigurationException, match="averages in the weights from before"):
        trainer_for(tmp_path, EUk(1), WeightAveraging(), max_epochs=1).fit(
            copy_of(TheirModule()), DataLoader(squares(4, 1), 4)
        )


@pytest.mark.parametrize("operator", [CFk, EUk])
def test_no_blocks_are_no_choice(operator):
    with pytest.raises(ValueError, match="k counts the blocks to train, so it is at least 1; got 0"):
        operator(k=0)
