import pytest
import torch
from torch import nn

from erode.weights import load_weights, read_content, read_state, save_weights, state_digest, state_in, weights_digest


def network(width=4):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 2, 1))


def test_released_weights_restore_bit_for_bit(tmp_path):
    source, target = network(), network()
    source(torch.randn(2, 1, 8, 8))  # moves the running statistics, which are released too
    path = save_weights(source, tmp_path / "weights.safetensors")
    load_weights(target, path)
    assert weights_digest(source) == weights_digest(target)


@pytest.mark.parametrize("wrapped", [True, False])
def test_checkpoints_and_state_dicts_load(tmp_path, wrapped):
    source, target = network(), network()
    state = source.state_dict()
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "last.ckpt")
    load_weights(target, tmp_path / "last.ckpt")
    assert weights_digest(source) == weights_digest(target)


@pytest.mark.parametrize("name", ["weights.safetensors", "last.ckpt"])
def test_mapped_or_read_the_content_is_the_same(tmp_path, name):
    source, path = network(), tmp_path / name
    if path.suffix == ".ckpt":
        torch.save({"state_dict": source.state_dict()}, path)
    else:
        save_weights(source, path)
    assert state_digest(read_state(path)) == weights_digest(source)
    assert state_digest(state_in(read_content(path, mapped=True), path)) == weights_digest(source)


def test_tied_weights_are_released(tmp_path):
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    again = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    again[1].weight = again[0].weight
    load_weights(again, save_weights(tied, tmp_path / "w.safetensors"))
    assert weights_digest(tied) == weights_digest(again)
    assert again[1].weight is again[0].weight


def test_another_architecture_is_named(tmp_path):
    path = save_weights(network(4), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"another architecture .*0\.bias.*model configuration"):
        load_weights(network(8), path)
    with pytest.raises(ValueError, match=r"missing, e\.g\. 3\.bias"):
        load_weights(nn.Sequential(*network(4), nn.Conv2d(2, 2, 1)), path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.ckpt"])
@pytest.mark.parametrize("content", [b"", b"not weights at all"])
def test_broken_files_are_named(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} cannot be read as weights") as refused:
        load_weights(network(), path)
    assert "weights_only" not in str(refused.value)  # torch advises to turn it off, which may run code


def test_absent_files_and_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights at .* give the released"):
        load_weights(network(), tmp_path / "none.safetensors")
    inside = save_weights(network(), tmp_path / "unlearned" / "weights.safetensors")
    with pytest.raises(FileNotFoundError, match=f"give {inside}"):
        load_weights(network(), tmp_path)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save({"state_dict": network()}, tmp_path / "module.ckpt")  # a pickled object, not tensors
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_weights(network(), tmp_path / "module.ckpt")


def test_digest_tells_dtype_shape_name_and_value_apart():
    class Holder(nn.Module):
        def __init__(self, name, tensor):
            super().__init__()
            self.register_buffer(name, tensor)

    variants = [
        Holder("a", torch.zeros(4)),
        Holder("b", torch.zeros(4)),
        Holder("a", torch.zeros(2, 2)),
        Holder("a", torch.zeros(4, dtype=torch.int32)),
        Holder("a", torch.tensor([0.0, 0.0, 0.0, 1e-45])),
    ]
    assert len({weights_digest(v) for v in variants}) == len(variants)


class KeepsItsHead(torch.nn.Linear):
    """As transfer learning does where the number of classes differs."""

    def load_state_dict(self, state, strict=True, assign=False):
        return super().load_state_dict({"weight": state["weight"]}, strict=False)


def test_weights_that_the_module_does_not_take_are_named(tmp_path):
    path = save_weights(torch.nn.Linear(3, 2), tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"bias is not what .* load_state_dict of KeepsItsHead"):
        load_weights(KeepsItsHead(3, 2), path)
    hooked = torch.nn.Linear(3, 2)
    hooked.register_load_state_dict_pre_hook(lambda module, state, *_: state.update(bias=module.bias.detach().clone()))
    with pytest.raises(ValueError, match="bias is not what"):
        load_weights(hooked, path)


def test_weights_that_are_no_numbers_or_of_another_precision_load(tmp_path):
    module = torch.nn.Linear(3, 2)
    torch.nn.init.constant_(module.bias, float("nan"))
    path = save_weights(module, tmp_path / "weights.safetensors")
    load_weights(torch.nn.Linear(3, 2), path)
    half = torch.nn.Linear(3, 2, dtype=torch.bfloat16)
    load_weights(half, path)
    assert torch.equal(half.weight, module.weight.to(torch.bfloat16))
