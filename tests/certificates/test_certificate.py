"""What a certificate says, before anyone verifies it."""

import json

import pytest

from erode.accounting import gdp_delta
from erode.certificates import ASSUMPTIONS, Account, Target, certificate, claim_of, sentence
from erode.mechanisms import ModelClippingMechanism, OutputPerturbationMechanism

MECHANISM = OutputPerturbationMechanism.calibrated(1.0, 1e-7, reference="anchor", radius=0.1)
TARGET = Target(epsilon=1.0, delta=1e-7)


def made(**changes):
    arguments = {"exposed": {"w": [2, 3], "b": [2]}, "digests": {}, "why_not": None, "reproducible": False}
    account = Account(steps=1, blocks=MECHANISM.account().blocks)
    return certificate(MECHANISM, TARGET, account, **{**arguments, **changes})


def test_it_is_plain_json_with_words_and_numbers():
    content = made()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["issued"] is True
    assert content["exposed"]["d"] == 8
    assert "(ε = 1, δ = 1e-07)" in content["guarantee"]
    assert content["assumptions"] == list(ASSUMPTIONS)


def test_an_epsilon_that_promises_next_to_nothing_is_called_so():
    weak = OutputPerturbationMechanism.calibrated(1e5, 1e-7, reference="anchor", radius=1.0)
    words = sentence(claim_of(weak, Target(epsilon=1e5, delta=1e-7)), weak)
    assert words.endswith("An ε above 10 hardly promises anything.")
    assert "hardly" not in made()["guarantee"]


@pytest.mark.parametrize("changes", [{"reproducible": True}, {"why_not": "the power failed"}])
def test_what_is_not_issued_promises_nothing(changes):
    content = made(**changes)
    assert content["issued"] is False
    assert content["why_not"]
    assert content["claim"] is content["guarantee"] is None


def test_the_curve_is_that_of_the_mechanism():
    for delta, epsilon in claim_of(MECHANISM, TARGET)["curve"]:
        assert gdp_delta(MECHANISM.mu(), epsilon) == pytest.approx(delta, rel=1e-6)


def test_the_noise_that_model_clipping_is_compared_with_is_not_projected():
    """Projected noise would be C2 off the anchor, and 2 C2 from the run, where the account counts on C2."""
    constants = {"reference": "noise", "radius": 1.0}
    said = [
        kind.calibrated(1.0, 1e-5, **constants, **more).compared_with()
        for kind, more in ((ModelClippingMechanism, {"steps": 5}), (OutputPerturbationMechanism, {}))
    ]
    assert said[0].startswith("the anchor plus one draw of the last step's noise")
    assert said[1].startswith("the noisy phase started at the anchor and without gradients")


def test_model_clipping_promises_less_than_its_last_step_alone():
    mechanism = ModelClippingMechanism(reference="retrained", radius=1.0, sigma=1.0, steps=6)
    claim = claim_of(mechanism, Target(epsilon=None, delta=1e-5))
    assert claim["epsilon"] <= 1.0
    assert gdp_delta(claim["mu"], claim["epsilon"]) > 1e-5
