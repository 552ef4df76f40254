"""What tests of plans share: one mechanism of each kind, and an operator for each place in a ranking."""

import math

from erode.accounting import gdp_mu
from erode.callbacks import FineTune, GradientClipping, Retrain, Rewind
from erode.mechanisms import (
    GradientClippingMechanism,
    ModelClippingMechanism,
    OutputPerturbationMechanism,
)
from erode.mechanisms.outlook import (
    Outlook,
)
from erode.plan import Candidate

STEP = {"clip_norm": 1.0, "learning_rate": 0.01, "weight_decay": 0.5}

KINDS = {
    "gradient": (GradientClippingMechanism, {**STEP, "steps": 30}),
    "model": (ModelClippingMechanism, {"steps": 3}),
    "output": (OutputPerturbationMechanism, {}),
}


def outlook(name="output", *, epsilon=1.0, delta=1e-7, d=52_000, start=None, evaluations=None, reference="retrained",
            radius=1.0, **changed):  # fmt: skip
    kind, constants = KINDS[name]
    made = kind.calibrated(epsilon, delta, reference=reference, radius=radius, **{**constants, **changed})
    return Outlook(operator=name, mechanism=made, epsilon=epsilon, delta=delta, d=d, start=start,
                   evaluations=evaluations)  # fmt: skip


def floor(epsilon, delta, reference, d):
    return gdp_mu(epsilon, delta) / ((2 if reference == "retrained" else 1) * math.sqrt(d))


class Unplanned(OutputPerturbationMechanism):
    """One whose noise needs more than a target."""

    name = "unplanned"

    @classmethod
    def calibrated(cls, epsilon, delta, **constants):
        raise NotImplementedError("give the number of samples")


def candidates(reference="retrained", radius=1.0):
    made = {
        name: kind(**{"reference": reference, "radius": radius, "sigma": 1.0, **constants})
        for name, (kind, constants) in KINDS.items()
    }
    return [
        *(Candidate(operator=name, card=GradientClipping.card, mechanism=m, noisy_evaluations=float(m.steps))
          for name, m in made.items()),
        Candidate(operator="fine-tune", card=FineTune.card),
        Candidate(operator="retrain", card=Retrain.card),
        Candidate(operator="rewind", card=Rewind.card),
        Candidate(operator="lost", card=GradientClipping.card, why_not="give a head"),
        Candidate(operator="unplanned", card=GradientClipping.card,
                  mechanism=Unplanned(reference="anchor", radius=1.0, sigma=1.0)),
    ]  # fmt: skip
