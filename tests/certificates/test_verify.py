"""A certificate: what it says is recomputed, and each field that is bent is noticed."""

import copy
import json
import re
import time

import pytest
import torch
from safetensors.torch import save_file

from erode.callbacks import Blockwise, GradientClipping, ModelClipping, ProjectedNoisySGD
from erode.certificates import (
    Account,
    Target,
    VerificationError,
    certificate,
    check_certificate,
    save_certificate,
    verify,
)
from erode.files import digest_of, file_digest
from erode.mechanisms import (
    BlockwiseMechanism,
    CNSMechanism,
    GradientClippingMechanism,
    ModelClippingMechanism,
    NewtonMechanism,
    NoisySGDMechanism,
    OutputPerturbationMechanism,
    ResidualMechanism,
)
from erode.weights import read_state, state_digest

MECHANISMS = {
    "gradient clipping": GradientClippingMechanism.calibrated(
        1.0, 1e-7, reference="retrained", radius=0.1, clip_norm=1.0, learning_rate=0.01, weight_decay=0.1, steps=9
    ),
    "model clipping": ModelClippingMechanism.calibrated(1.0, 1e-7, reference="anchor", radius=0.1, steps=4),
    "blockwise": BlockwiseMechanism.calibrated(
        1.0,
        1e-7,
        reference="retrained",
        radius=0.1,
        clip_norm=1.0,
        learning_rate=0.01,
        weight_decay=0.1,
        steps=18,
        sizes=[6, 2],
    ),
    "projected newton": CNSMechanism.calibrated(1.0, 1e-7, reference="anchor", radius=0.1),
    "output perturbation": OutputPerturbationMechanism.calibrated(1.0, 1e-7, reference="noise", radius=0.1),
    "residual certificate": ResidualMechanism.calibrated(1.0, 1e-7, reference="minimiser", tolerance=1e-6, ridge=1e-3),
    "newton step": NewtonMechanism.calibrated(
        1.0, 1e-7, reference="retrained", ridge=0.1, samples=100, changed=5, residual=1e-3
    ),
    "projected noisy SGD": NoisySGDMechanism.calibrated(
        1.0,
        1e-7,
        reference="retrained",
        learning_rate=0.5,
        ridge=0.01,
        batches=5,
        batch_size=10,
        changed=1,
        trained_epochs=20,
        start=0.1,
        carried=0.1,
        steps=5,
    ),
}
HASH = "0" * 64
EXPOSED = {"head.weight": [2, 3], "head.bias": [2]}


def made(mechanism, weights=None, why_not=None, reproducible=False, epsilon=1.0):
    return certificate(
        mechanism,
        Target(epsilon=epsilon, delta=1e-7),
        Account(steps=mechanism.steps, blocks=mechanism.pieces()),
        exposed=EXPOSED,
        digests={
            "released_file": HASH if weights is None else file_digest(weights),
            "released_weights": HASH if weights is None else state_digest(read_state(weights)),
            "anchor_weights": HASH, "split": None, "settings": HASH,
        },
        why_not=why_not,
        reproducible=reproducible,
    )  # fmt: skip


def sealed(content):
    """What a forger would do: a digest that fits."""
    rest = {name: value for name, value in content.items() if name != "digest"}
    return {**rest, "digest": digest_of(rest)}


def leaves(node, path=()):
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    elif isinstance(node, list) and node:
        for index, value in enumerate(node):
            yield from leaves(value, (*path, index))
    else:
        yield path


def bent(content, path):
    content = copy.deepcopy(content)
    node = content
    for key in path[:-1]:
        node = node[key]
    old = node[path[-1]]
    if isinstance(old, bool):
        new = not old
    elif isinstance(old, int):
        new = old + 1
    elif isinstance(old, float):
        new = old * 1.01 + 1e-9
    elif isinstance(old, str):
        new = old[:-1] + ("1" if old[-1] != "1" else "2")
    else:
        new = "something"
    node[path[-1]] = new
    return content


@pytest.mark.parametrize("name", MECHANISMS)
def test_what_was_made_is_verified_through_a_file(name, tmp_path, capsys):
    weights = tmp_path / "weights.safetensors"
    save_file({"head.weight": torch.zeros(2, 3), "head.bias": torch.zeros(2), "other": torch.ones(1)}, weights)
    path = save_certificate(made(MECHANISMS[name], weights), tmp_path / "certificate.json")
    verify(path)
    verify(path, weights)
    assert "(ε = 1, δ = 1e-07)-indistinguishable" in capsys.readouterr().out
    save_file({"head.weight": torch.ones(2, 3), "head.bias": torch.zeros(2)}, weights)
    with pytest.raises(VerificationError, match="these are other weights"):
        verify(path, weights)


@pytest.mark.parametrize("name", MECHANISMS)
def test_each_field_bent_is_noticed(name):
    content = made(MECHANISMS[name])
    check_certificate(content)
    paths = list(leaves(content))
    assert len(paths) > 50
    for path in paths:
        with pytest.raises(VerificationError):
            check_certificate(bent(content, path))


@pytest.mark.parametrize("name", MECHANISMS)
def test_each_field_that_others_determine_is_noticed_even_with_a_digest_that_fits(name):
    """What nothing else in the certificate determines: names, versions, digests of other files."""
    content = made(MECHANISMS[name])
    free = {"software", "digests", "digest"}
    for path in leaves(content):
        if path[0] in free:
            continue
        with pytest.raises(VerificationError):
            check_certificate(sealed(bent(content, path)))


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_field_left_out_or_added_is_noticed(name):
    content = made(MECHANISMS[name])
    for field in list(content):
        rest = {key: value for key, value in content.items() if key != field}
        with pytest.raises(VerificationError):
            check_certificate(rest if field == "digest" else sealed(rest))
    with pytest.raises(VerificationError, match="fields"):
        check_certificate(sealed({**content, "extra": 1}))


@pytest.mark.parametrize(
    ("section", "change", "field"),
    [
        ("exposed", {"d": 0, "parameters": {}}, "exposed.parameters"),
        ("exposed", {"d": 8.0, "parameters": EXPOSED}, "exposed.d"),
        (
            "exposed",
            {"d": 8, "parameters": {"head.weight": [-2, -3], "head.bias": [2]}},
            "exposed.parameters.head.weight",
        ),
        (
            "exposed",
            {"d": 8, "parameters": {"head.weight": [2.0, 3], "head.bias": [2]}},
            "exposed.parameters.head.weight",
        ),
        ("exposed", {"d": 8, "parameters": {"head.weight": 6, "head.bias": [2]}}, "exposed.parameters.head.weight"),
        ("account", {"steps": 1.0}, "account.steps"),
        ("software", {"torch": None}, "software.torch"),
    ],
)
def test_a_number_that_counts_is_whole_and_a_version_is_text(section, change, field):
    content = made(MECHANISMS["output perturbation"])
    with pytest.raises(VerificationError, match=re.escape(field)):
        check_certificate(sealed({**content, section: {**content[section], **change}}))


def test_less_noise_under_the_same_promise_is_noticed():
    """A consistent lie about σ: account and digest fit, but the promised ε does not follow."""
    honest = MECHANISMS["output perturbation"]
    weak = OutputPerturbationMechanism(reference="noise", radius=0.1, sigma=honest.sigma / 2)
    with pytest.raises(VerificationError, match=r"mechanism\.sigma.*gives epsilon = 2\.\d+, not the 1"):
        check_certificate(made(weak))


def test_epsilon_follows_from_a_sigma_given_by_hand():
    weak = OutputPerturbationMechanism(reference="noise", radius=0.1, sigma=0.1)
    content = made(weak, epsilon=None)
    check_certificate(content)
    assert content["claim"]["epsilon"] == pytest.approx(weak.epsilon(1e-7))


def test_no_number_in_words_promises_more_than_the_claim(tmp_path, capsys):
    """σ by hand gives an ε of many digits; a nearest one of six lies below it in half of the cases."""
    for step in range(60):
        made_by_hand = OutputPerturbationMechanism(reference="noise", radius=0.1, sigma=0.1 + 0.001 * step)
        content = made(made_by_hand, epsilon=None)
        verify(save_certificate(content, tmp_path / "certificate.json"))
        printed = re.findall(r"(?:ε|sigma|mu) = ([\d.e+-]*\d)", capsys.readouterr().out)
        epsilon, sigma, mu = map(float, printed)
        assert epsilon >= content["claim"]["epsilon"]
        assert sigma <= made_by_hand.sigma
        assert mu >= made_by_hand.mu()


@pytest.mark.parametrize(
    ("arguments", "field"), [({"why_not": "the run was cut short"}, "issued"), ({"reproducible": True}, "reproducible")]
)
def test_what_was_not_issued_does_not_pass(arguments, field):
    content = made(MECHANISMS["gradient clipping"], **arguments)
    assert content["issued"] is False
    assert content["guarantee"] is content["claim"] is None
    with pytest.raises(VerificationError) as error:
        check_certificate(content)
    assert error.value.field == field


def test_weights_of_another_shape_are_noticed(tmp_path):
    weights = tmp_path / "weights.safetensors"
    save_file({"head.weight": torch.zeros(2, 3), "tail.bias": torch.zeros(2)}, weights)
    path = save_certificate(made(MECHANISMS["gradient clipping"], weights), tmp_path / "certificate.json")
    with pytest.raises(VerificationError, match=r"exposed\.parameters\.head\.bias"):
        verify(path, weights)


def test_a_certificate_that_says_two_things_is_refused(tmp_path):
    """A reader sees the first guarantee, a program takes the last."""
    content = made(MECHANISMS["gradient clipping"])
    text = json.dumps(content)
    first = json.dumps(content["guarantee"].replace("ε = 1,", "ε = 0.1,"))
    path = tmp_path / "certificate.json"
    path.write_text(f'{{"guarantee": {first}, {text[1:]}')
    with pytest.raises(VerificationError, match="the name 'guarantee' is given twice"):
        verify(path)


def test_true_is_no_number():
    """It counts as 1 in every sum."""
    content = made(OutputPerturbationMechanism.calibrated(1.0, 1e-7, reference="anchor", radius=1.0))
    for section, name in (("target", "epsilon"), ("mechanism", "radius"), ("mechanism", "steps"), ("account", "steps")):
        assert content[section][name] == 1
        with pytest.raises(VerificationError, match="no number") as error:
            check_certificate(sealed({**content, section: {**content[section], name: True}}))
        assert error.value.field == f"{section}.{name}"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema": "erode-certificate/3"}', '{"schema": 2}'])
def test_what_is_no_certificate_is_refused(text, tmp_path):
    path = tmp_path / "certificate.json"
    path.write_text(text)
    with pytest.raises(VerificationError):
        verify(path)
    with pytest.raises(VerificationError, match="no readable certificate"):
        verify(tmp_path / "absent.json")


@pytest.mark.parametrize("name", ["gradient clipping", "model clipping", "blockwise", "projected noisy SGD"])
def test_a_certificate_of_more_steps_than_any_run_takes_is_refused_at_once(name):
    content = made(MECHANISMS[name])
    content["mechanism"]["steps"] = content["account"]["steps"] = 10**12
    began = time.process_time()
    with pytest.raises(VerificationError, match=r"mechanism\.steps.*no run takes more than 10,000,000"):
        check_certificate(sealed(content))
    assert time.process_time() - began < 1


def test_no_run_begins_that_verify_would_not_recompute():
    for kind in (GradientClipping, ModelClipping, Blockwise):
        with pytest.raises(ValueError, match="more than the 10,000,000 of which erode verify recomputes"):
            kind(steps=10**7 + 1)
    with pytest.raises(ValueError, match="more than the 10,000,000"):
        ProjectedNoisySGD(samples=100, changed=1, epochs=10**7 + 1)
