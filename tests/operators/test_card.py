"""Cards: no operator without one, no word that is not known, and none that contradicts its class."""

from dataclasses import replace

import pytest

from erode.callbacks import FineTune, Retrain, UnlearningOperator
from erode.callbacks.bases.certified import CertifiedOperator
from erode.callbacks.bases.head_operator import HeadOperator
from erode.callbacks.bases.noisy_phase import NoisyPhase
from erode.operator_card import Effort
from erode.operators import operator_cards, operator_kinds

CALLBACKS = {name: kind for name, kind in operator_kinds().items() if issubclass(kind, UnlearningOperator)}


def descendants(kind):
    return {kind, *(below for child in kind.__subclasses__() for below in descendants(child))}


def test_an_operator_without_a_card_is_refused_where_it_is_defined():
    with pytest.raises(TypeError, match="Silent has no card"):

        class Silent(UnlearningOperator):
            pass

    class Common(UnlearningOperator, base=True):
        """What several share."""

    with pytest.raises(TypeError, match="Still has no card"):

        class Still(Common):
            card = "exact"


def test_an_heir_says_what_its_parent_says():
    class Heir(FineTune):
        pass

    assert Heir.card is FineTune.card


def test_every_operator_of_the_box_is_found_and_has_a_card_of_its_own():
    ours = {kind for kind in descendants(UnlearningOperator) if kind.__module__.startswith("erode.")}
    assert set(CALLBACKS.values()) == {kind for kind in ours if hasattr(kind, "card")}
    assert {"QuantisedTraining", "Retrain"} <= operator_cards().keys()
    for base in ours - set(CALLBACKS.values()):
        assert base.__subclasses__(), f"{base.__name__} has neither a card nor an heir"


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_card_says_what_the_class_does(name):
    kind = CALLBACKS[name]
    assert (kind.card.guarantee == "certified") == issubclass(kind, CertifiedOperator)
    assert ("forget set" in kind.card.needs) == kind.asks_for_forget
    assert ("anchor" in kind.card.needs) == issubclass(kind, NoisyPhase)
    assert ("unexposed encoder" in kind.card.needs) == issubclass(kind, HeadOperator)
    assert (kind.card.evaluations_per_step == 0) == issubclass(kind, HeadOperator)


@pytest.mark.parametrize(
    ("effort", "batches", "found", "words"),
    [
        (Effort(), None, (0, 0), ""),
        (Effort(680.0), None, (680, 680), "680 once"),
        (Effort(680.0, 1.0, 1.0), None, None, "680 and 1 pass once"),
        (Effort(0.0, 2.0, 2.0), 37.5, (75, 75), "2 passes (75) once"),
        (Effort(0.0, 10.0, 20.0), None, None, "10 to 20 passes once"),
        (Effort(0.0, 10.0, 20.0), 75, (750, 1500), "10 to 20 passes (750 to 1,500) once"),
    ],
)
def test_what_is_computed_beside_steps_in_numbers_and_in_words(effort, batches, found, words):
    assert effort.range(batches) == found
    assert effort.words(batches) == words


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("guarantee", "probable"), ("needs", ("luck",)), ("requests", ()), ("requests", ("wish",)),
        ("technique", "magic"), ("manipulation", "none"),
    ],
)  # fmt: skip
def test_words_that_are_not_known_are_refused(field, value):
    with pytest.raises(ValueError, match=f"says {field} = .*choose from"):
        replace(Retrain.card, **{field: value})
