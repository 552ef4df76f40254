"""Many forget requests, one after another: what was answered how, and what all releases together give away."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from ..accounting import gdp_epsilon
from ..certificates import check_certificate
from ..files import alone, parse_json
from ..masks import ForgetSplit
from ..mechanisms import BallMechanism
from ..weights import read_state, state_digest
from .answers import Answer, chained, composed, read_answers, write_answers
from .ledger import FILE_NAME, Ledger, Level, check_ids, read_ledger
from .request import ForgetRequest, RequestedAtoms
from .spelling import Unrecorded, check_spelling, checked_by_rewind, recorded_in

_SENTENCES = {
    "exact": "The released weights were never exposed to an atom of any request so far.",
    "certified": (
        "The released weights are mu-GDP-indistinguishable from those of a run that never saw an atom of any request "
        "so far; releases since the first request add up as composed."
    ),
}

_WORD = "by the owner's word"


class RequestStream:
    """The ledger of answered requests, in a file, each entry bound to the one before.

    A request is answered by one release, either exactly (Rewind, Retrain: the ledger of the released weights must show
    no exposure to *any* request so far, not only to the last) or with a certificate. Only mechanisms that hide every
    start (:class:`~erode.mechanisms.BallMechanism`) are accepted: they hide earlier requests too, from whichever
    weights the run began, as long as their noise is fresh and their batches held nothing of any request. The ledger
    beside the release shows that; an entry without one says that it is the owner's word.

    Then the releases since request i compose to ``μ_i = sqrt(Σ_{j ≥ i} μ_j²)``, exact ones adding 0. This
    holds for adaptive requests, which depend on what was released before: given any past, two starts are μ_j
    apart at release j, which is what the composition theorem of GDP asks for.

    For exact answers to adaptive requests the claim is about exposure, not distribution: a rewound checkpoint keeps
    the initialisation and the draws that earlier releases showed to whoever chose the requests.

    Several may be open on one file, in several processes: each looks at the file whenever it is asked, and answers
    while no other does (on systems that lock files).

    Args:
        path: JSON file; made with the first answer, read and checked if it is there. It is not signed: whoever may
            write to it can cut off its last answers, and only a stream that was open before can tell.
        delta: δ at which ε is told.
        known: where ids occur that the ledger of a release does not name, for it never saw them: a folder of
            checkpoints with ledgers, or the ids of the data at hand. All weights are unexposed to a misspelt id, so one
            that nothing names is refused.

    Raises:
        ValueError: if the file was edited, or holds another δ; later, if it lacks answers that it had.

    Source:
        Dong, Roth and Su 2022, "Gaussian differential privacy", composition theorem and its corollary for GDP
        (adaptive); Gupta et al. 2021, "Adaptive machine unlearning", for why exactness needs care; theory §3.

    Example:
        >>> RequestStream("none.json").composed()
        {'mu': 0.0, 'epsilon': 0.0, 'delta': 1e-07}
    """

    def __init__(self, path: str | Path, delta: float = 1e-7, known: str | Path | Collection[str] = ()) -> None:
        self.path = Path(path)
        self.delta = delta
        self.known = known
        if not isinstance(known, str | Path):
            check_ids(known, "known")
        gdp_epsilon(0.0, delta)  # refuses a δ out of range now
        self._read_before: list[str] = []
        self._read()

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def entries(self) -> list[Answer]:
        """All answers so far, as the file has them now.

        Raises:
            ValueError: if it was edited, or lacks answers that it had.
        """
        return self._read()

    @property
    def forgotten(self) -> ForgetRequest:
        """All that was asked for so far.

        Raises:
            ValueError: if nothing was.
        """
        return _union(self.entries)

    def composed(self, since: int = 0) -> dict[str, float]:
        """What all releases from request ``since`` on give away of it together: μ, and ε at δ.

        Args:
            since: number of the request, from 0; for it, releases before it count nothing: they came before it was
                asked.

        Raises:
            ValueError: if there is no request of this number; of an empty stream, 0 may be asked.
        """
        entries = self.entries
        if since not in range(max(len(entries), 1)):
            raise ValueError(
                f"{self.path} holds {len(entries)} answers, numbered from 0, and none of number {since}; give since= "
                "the number of a request"
            )
        return composed(entries[since:], self.delta)

    def answer_exact(
        self,
        request: ForgetRequest | ForgetSplit | Sequence[str] | str | Path,
        weights: Path,
        atoms: RequestedAtoms = "image",
        unrecorded: Unrecorded = (),
    ) -> Answer:
        """Enter a release that was never exposed.

        Args:
            request: see :meth:`ForgetRequest.of <erode.requests.ForgetRequest.of>`.
            weights: the released file, with its ledger. If Rewind left it for this request, or for all so far, the ids
                were checked then.
            atoms: for image ids, see there.
            unrecorded: ids of the request that need not occur anywhere, by your word; ``all`` = any may.

        Returns:
            The entry.

        Raises:
            ValueError: if the ledger does not belong to the weights, or shows exposure to this or an earlier request,
                or for ids that nothing names.
        """
        asked = ForgetRequest.of(request, atoms)
        with alone(self.path):
            before = self.entries
            every = _union(before, asked)
            ledger = _unexposed(Path(weights), every)
            unnamed = checked_by_rewind(Path(weights), ledger.weights, asked, every)
            if unnamed is None:
                unnamed = self._unnamed(asked, before, ledger.images, unrecorded, weights)
            evidence = {"ledger": ledger.digest, "names": _named(asked, unnamed)}
            return self._add(before, asked, "exact", 0.0, ledger.weights, evidence)

    def answer_certified(
        self,
        request: ForgetRequest | ForgetSplit | Sequence[str] | str | Path,
        weights: Path,
        certificate: Path,
        anchor: Path | None = None,
        atoms: RequestedAtoms = "image",
        unrecorded: Unrecorded = (),
    ) -> Answer:
        """Enter a release with a certificate.

        Args:
            request: see :meth:`ForgetRequest.of <erode.requests.ForgetRequest.of>`.
            weights: the released file.
            certificate: that of its run; every run has noise, and so a certificate, of its own. What the batches of the
                run held is read from ``ledger.json`` beside the weights, which ExposureLedger writes; without it, that
                nothing of any request was among them is your word, and the entry says so.
            anchor: the run's anchor with its ledger, which must show no exposure to any request so far; None = it was a
                fresh initialisation or zeros, which is your word.
            atoms: for image ids, see there.
            unrecorded: ids of the request that need not occur anywhere, by your word; ``all`` = any may.

        Returns:
            The entry.

        Raises:
            VerificationError: if the certificate does not hold.
            ValueError: if it is not that of the weights, was entered before, does not hide every start, its anchor was
                exposed, or its run trained on what had to be forgotten by now, by its ledger or by its split; for ids
                that nothing names, if the run left a ledger or split.
        """
        asked = ForgetRequest.of(request, atoms)
        content = parse_json(Path(certificate).read_text(encoding="utf-8"))
        mechanism = check_certificate(content)
        if not isinstance(mechanism, BallMechanism):
            raise ValueError(
                f"{mechanism.name} hides its own forget set only, so earlier requests could show; answer with Rewind, "
                "Retrain, or an operator that hides every start, such as GradientClipping"
            )
        found = state_digest(read_state(Path(weights)))
        if found != content["digests"]["released_weights"]:
            raise ValueError(f"{certificate} belongs to other weights than {weights}; give those of the same run")
        with alone(self.path):
            before = self.entries
            if any(entry["evidence"].get("certificate") == content["digest"] for entry in before):
                raise ValueError(
                    f"{certificate} answered an earlier request; each answer needs a run with noise of its own"
                )
            every = _union(before, asked)
            evidence = {
                "certificate": content["digest"],
                "anchor": f"a fresh start, {_WORD}",
                "batches": _retained(Path(weights), content["digests"]["split"], every),
            }
            if anchor is not None:
                ledger = _unexposed(Path(anchor), every)
                if ledger.weights != content["digests"]["anchor_weights"]:
                    raise ValueError(f"{anchor} is not the anchor of the certified run; give the one it was run with")
                evidence["anchor"] = ledger.digest
            recorded = _named_beside(Path(weights), content["digests"]["split"])
            evidence["names"] = _named(asked, self._unnamed(asked, before, recorded, unrecorded, weights))
            return self._add(before, asked, "certified", mechanism.mu(), found, evidence)

    def _unnamed(
        self,
        asked: ForgetRequest,
        before: list[Answer],
        recorded: set[str],
        unrecorded: Unrecorded,
        weights: str | Path,
    ) -> set[str]:
        """Ids that nothing at hand names, refused unless they are meant; those of earlier requests passed then."""
        known: set[str] = set()
        if isinstance(self.known, str | Path):
            recorded = recorded | recorded_in(self.known)
        else:
            known = {*self.known}
        earlier = _union(before).limits.keys() if before else set()
        new = {name: limit for name, limit in asked.limits.items() if name not in earlier}
        if new and (recorded or known):
            where = f"beside {weights} (or in known=, a folder of checkpoints or the ids of the data)"
            check_spelling(ForgetRequest(new, asked.listed), recorded, known, unrecorded, where)
        return new.keys() - recorded - known

    def _read(self) -> list[Answer]:
        found = read_answers(self.path, self.delta)
        digests = [entry["digest"] for entry in found]
        if digests[: len(self._read_before)] != self._read_before:
            raise ValueError(
                f"{self.path} lacks answers that it held when it was read before, so it was removed, cut or replaced; "
                "restore the file"
            )
        self._read_before = digests
        return found

    def _add(
        self,
        before: list[Answer],
        request: ForgetRequest,
        answer: str,
        mu: float,
        weights: str,
        evidence: dict[str, str],
    ) -> Answer:
        entry = {
            "request": request.content(),
            "answer": answer,
            "mu": mu,
            "weights": weights,
            "evidence": evidence,
            "guarantee": _SENTENCES[answer] + _believed(evidence),
        }
        answers = [*before, chained(entry, before[-1] if before else None)]
        write_answers(self.path, answers, self.delta)
        return self._read()[-1]


def _union(answers: Sequence[Answer], *more: ForgetRequest) -> ForgetRequest:
    """All that some answers, and more requests, take back."""
    return ForgetRequest.union([*more, *(ForgetRequest.parse(answer["request"]) for answer in answers)])


def _unexposed(path: Path, request: ForgetRequest) -> Ledger:
    """The ledger of weights that saw nothing of a request.

    Raises:
        ValueError: otherwise.
    """
    ledger = read_ledger(path)
    ledger.check_weights(read_state(path), path)
    why = ledger.why_exposed(request.limits)
    if why is not None:
        raise ValueError(f"{path} was exposed to what had to be forgotten by now: {why}; rewind further, or retrain")
    return ledger


def _retained(weights: Path, split: str | None, request: ForgetRequest) -> str:
    """What shows that the batches of a certified run held nothing of a request: the digest of its ledger, or a word.

    Raises:
        ValueError: if they did, or could have.
    """
    try:
        ledger = read_ledger(weights)
    except FileNotFoundError:
        whole = False
    else:
        ledger.check_weights(read_state(weights), weights)
        held, whole = ledger.last_run
        why = held.why_exposed(request.limits)
        if why is not None:
            raise ValueError(
                f"the run of {weights} trained on what had to be forgotten by now, by the ledger beside it ({why}), "
                "and no noise covers its own batches; run it again on what all requests so far retain"
            )
    if whole:
        return ledger.digest
    if split is not None:
        _check_split(weights.parent / "split.json", split, request)
    return _WORD


def _check_split(path: Path, digest: str, request: ForgetRequest) -> None:
    """Refuse the split of a certified run if its retain view serves what a request takes back."""
    found = ForgetSplit.load(path) if path.is_file() else None
    if found is None or found.digest != digest:
        wrong = "not there" if found is None else "another one"
        raise ValueError(
            f"the certificate is of a run on a split, and {path} is {wrong}, so nobody can tell what that retains; put "
            "the split of the run beside its weights"
        )
    served = {**dict.fromkeys(found.coarse, Level.OUTSIDE), **dict.fromkeys(found.fine, Level.FOREGROUND)}
    for name, limit in sorted(request.limits.items()):
        if served.get(name, 0) >= limit:
            raise ValueError(
                f"the certified run retained {served[name].name} of '{name}', by its split {path}, and that had to be "
                "forgotten by now; run it again on what all requests so far retain"
            )


def _named_beside(weights: Path, split: str | None) -> set[str]:
    """Ids that the ledger of a certified run names, or its split, if they stand beside its weights."""
    named: set[str] = set()
    if (weights.parent / FILE_NAME).is_file():
        named |= read_ledger(weights).images
    path = weights.parent / "split.json"
    if split is not None and path.is_file() and (found := ForgetSplit.load(path)).digest == split:
        named |= {*found.fine, *found.coarse}
    return named


def _named(request: ForgetRequest, unnamed: AbstractSet[str]) -> str:
    """What shows that the ids of a request are spelt as in the data."""
    count = len(unnamed & request.limits.keys())
    return f"{count} of {len(request.limits)}, {_WORD}" if count else "recorded"


def _believed(evidence: Mapping[str, str]) -> str:
    """The part of a guarantee that nothing shows."""
    parts = {
        "anchor": "the run began at a fresh start",
        "batches": "no batch of the run held an atom of any request so far",
        "names": "ids that no record names are spelt as in the data",
    }
    words = [part for name, part in parts.items() if evidence.get(name, "").endswith(_WORD)]
    return f" {_WORD.capitalize()}: {', and '.join(words)}." if words else ""
