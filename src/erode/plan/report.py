"""What a plan shows: tables in the terminal, a picture of ε against kept signal, JSON."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Column, Table

from ..accounting import rounded_up
from ..files import write_json
from ..mechanisms import BallMechanism
from ..mechanisms.outlook import LOST_BELOW, SURVIVES_FROM, Outlook, Regime, cheapest, smallest_epsilon
from ..operator_card import AT_NO_REQUEST
from ..pictures import COLOURS, INK, new_figure, save_figure
from .ranking import Candidate, Plan, Rank, Target

_REGIME_STYLES = {Regime.LOST: "red", Regime.PARTLY: "yellow", Regime.SURVIVES: "green"}
_LINES = ("-", "--", ":")
_POINTS = 60
_SMALLEST = 1e-9


def print_plan(plan: Plan) -> None:
    """Print, for each ε, mechanisms, conclusion and remedies, and at the end the ranking of all operators."""
    console = Console(width=max(120, Console().width))
    said: set[str] = set()
    for target in plan.targets:
        if target.outlooks:
            console.print(_mechanisms(plan, target))
        console.print(f"[bold]epsilon = {rounded_up(target.epsilon)}[/]: {target.conclusion}", highlight=False)
        for remedy in target.remedies:
            if remedy not in said:
                console.print(f"  - {remedy}", highlight=False)
        said |= {*target.remedies}
        console.print()
    for target in plan.targets[:1]:
        console.print(_ranking(target, plan.delta))
        for line in _reasons(target) + _elsewhere(target):
            console.print(line, highlight=False)
    if len(plan.targets) > 1 and len({_names(target) for target in plan.targets}) > 1:
        for target in plan.targets[1:]:
            names = ", ".join(_names(target))
            console.print(f"order at epsilon = {rounded_up(target.epsilon)}: {names}", highlight=False)
    for note in plan.notes:
        console.print(f"[yellow]note[/]: {note}", highlight=False)


def write_plan(plan: Plan, folder: Path) -> Path:
    """Write ``plan.json`` and, where there is noise to plan, ``plan.png``.

    Args:
        plan: what to write.
        folder: made where it is not there.

    Returns:
        The folder.
    """
    write_json(folder / "plan.json", plan.as_dict())
    if any(target.outlooks for target in plan.targets):
        save_figure(plan_figure(plan), folder / "plan.png")
    return folder


def plan_figure(plan: Plan) -> Figure:
    """ε against kept signal over noise, one curve per mechanism and reference, both axes logarithmic."""
    wished = [target.epsilon for target in plan.targets]
    best = cheapest([outlook for target in plan.targets for outlook in target.outlooks])
    grid = np.geomspace(min(wished) / 10, max(10 * max(wished), 3 * smallest_epsilon(best)), _POINTS)
    planned = {outlook.operator for target in plan.targets for outlook in target.outlooks}
    shown = [one for one in plan.candidates if isinstance(one.mechanism, BallMechanism) and one.operator in planned]
    names = list(dict.fromkeys(candidate.operator for candidate in shown))
    figure = new_figure(8.4, 5.2)
    axis = figure.add_subplot()
    for rank, candidate in enumerate(shown):
        ratios = [_ratio(candidate, float(epsilon), plan) for epsilon in grid]
        number = sum(other.operator == candidate.operator for other in shown[: shown.index(candidate)])
        axis.plot(
            grid, ratios, color=COLOURS[names.index(candidate.operator) % len(COLOURS)],
            linestyle=_LINES[number % len(_LINES)], linewidth=max(1.6, 4.0 - 0.5 * rank), label=_title(candidate),
        )  # fmt: skip
    _frame(axis, plan, wished, [outlook.ratio for target in plan.targets for outlook in target.outlooks])
    return figure


def _ratio(candidate: Candidate, epsilon: float, plan: Plan) -> float:
    try:
        return candidate.outlook(epsilon, plan.delta, plan.d, plan.start).ratio
    except ValueError:  # a gap in the curve
        return np.nan


def _frame(axis: Axes, plan: Plan, wished: list[float], ratios: list[float]) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    lowest = 10 ** np.floor(np.log10(max(1e-3 * max(ratios), 1e-12)))
    highest = max(10.0, axis.get_ylim()[1] if axis.get_ylim()[1] < 100 else 100.0)
    axis.set_ylim(lowest, highest)
    bands = (
        (lowest, LOST_BELOW, "#F6DEDA"),
        (LOST_BELOW, SURVIVES_FROM, "#FBF3D9"),
        (SURVIVES_FROM, highest, "#DDEFE3"),
    )
    for (low, high, colour), regime in zip(bands, Regime, strict=True):
        axis.axhspan(low, high, color=colour, zorder=0)
        axis.text(
            0.012, high * 0.8, f"the start {regime.short}", transform=axis.get_yaxis_transform(), va="top", fontsize=9,
            color=INK,
        )  # fmt: skip
    for epsilon in wished:
        axis.axvline(epsilon, color="#666666", linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        name = f" ε = {rounded_up(epsilon)}"
        axis.text(epsilon, lowest * 1.3, name, fontsize=8.5, color=INK, rotation=90, va="bottom")
    axis.set_xlabel("ε (no unit; smaller promises more)", fontsize=10)
    axis.set_ylabel("kept signal / noise (norms, no unit)", fontsize=10)
    title = f"What is left of the trained weights: {plan.d:,} exposed parameters, δ = {rounded_up(plan.delta)}"
    axis.set_title(title, fontsize=11, color=INK)
    axis.tick_params(labelsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.figure.legend(loc="outside lower center", ncols=3, fontsize=8.5, frameon=False)


def _title(candidate: Candidate) -> str:
    steps = "" if candidate.mechanism is None else f", T = {candidate.mechanism.steps}"
    return f"{candidate.operator} ({candidate.reference}{steps})"


def _mechanisms(plan: Plan, target: Target) -> Table:
    start = "" if plan.start is None else f", trained weights {plan.start:.4g} from the anchor"
    table = Table(
        Column("mechanism", no_wrap=True), Column("reference", no_wrap=True),
        *(Column(title, justify="right") for title in ("steps", "σ", "kept signal", "noise σ_f·√d", "kept / noise")),
        Column("own gradients", justify="right"), Column("the start …", no_wrap=True),
        title=f"epsilon = {rounded_up(target.epsilon)}, delta = {rounded_up(plan.delta)}, "
        f"d = {plan.d:,} exposed parameters{start}",
    )  # fmt: skip
    for outlook in target.outlooks:
        table.add_row(*_cells(outlook), f"[{_REGIME_STYLES[outlook.regime]}]{outlook.regime.short}[/]")
    return table


def _cells(outlook: Outlook) -> list[str]:
    made = outlook.mechanism
    evaluations = "–" if outlook.evaluations is None else f"{outlook.evaluations:g}"
    sigma, signal, noise, ratio = map(_number, (made.sigma, outlook.signal, outlook.noise, outlook.ratio))
    return [outlook.operator, made.reference, str(made.steps), sigma, signal, noise, ratio, evaluations]


def _ranking(target: Target, delta: float) -> Table:
    table = Table(
        Column("", justify="right"), Column("operator", no_wrap=True), Column("guarantee", no_wrap=True),
        *(Column(title, justify="right") for title in ("noise", "kept / noise")),
        "gradients", "has to keep", "not at hand",
        title=f"all operators, best first, for epsilon = {rounded_up(target.epsilon)}, delta = {rounded_up(delta)}",
    )  # fmt: skip
    for number, rank in enumerate(_runnable(target), 1):
        candidate = rank.candidate
        unknown = "–" if candidate.card.guarantee == "certified" else "none"
        noise = unknown if rank.noise is None else _number(rank.noise)
        table.add_row(
            str(number), candidate.operator, candidate.card.guarantee, noise,
            "" if rank.ratio is None else _number(rank.ratio), _gradients(candidate), candidate.card.stores,
            ", ".join(candidate.lacks),
        )  # fmt: skip
    return table


def _runnable(target: Target) -> list[Rank]:
    return [rank for rank in target.ranking if rank.candidate.why_never is None]


def _reasons(target: Target) -> list[str]:
    """Why each line of the ranking stands where it does, once for all that say the same."""
    numbers: dict[str, list[str]] = {}
    for number, rank in enumerate(_runnable(target), 1):
        numbers.setdefault(rank.why, []).append(str(number))
    return [f"{', '.join(found)}: {why}" for why, found in numbers.items()]


def _gradients(candidate: Candidate) -> str:
    """Evaluations of the optimiser's steps, of the noisy ones among them, and beside steps."""
    card = candidate.card
    if card.manipulation == AT_NO_REQUEST:
        return "none at a request"
    if candidate.effort is None:
        return card.costs
    steps = f"{card.evaluations_per_step:.3g} a step" if card.evaluations_per_step else ""
    noisy = f"{candidate.noisy_evaluations:,g} noisy" if candidate.noisy_evaluations else ""
    return ", ".join(filter(None, (steps, noisy, candidate.effort.words(candidate.per_pass)))) or "none"


def _elsewhere(target: Target) -> list[str]:
    """Operators that cannot run on this module, and why; once for all that say the same of themselves."""
    found: dict[str, list[str]] = {}
    for candidate in (rank.candidate for rank in target.ranking):
        if candidate.why_never is not None:
            found.setdefault(candidate.why_never.replace(candidate.operator, "\0"), []).append(candidate.operator)
    return [
        "cannot run here: "
        + (
            why.replace("\0", names[0]) + (f" (likewise {', '.join(names[1:])})" if names[1:] else "")
            if "\0" in why
            else f"{', '.join(names)}: {why}"
        )
        for why, names in found.items()
    ]


def _number(value: float) -> str:
    return f"{value:.3g}" if value >= _SMALLEST else f"< {_SMALLEST:g}"


def _names(target: Target) -> tuple[str, ...]:
    return tuple(rank.candidate.operator for rank in target.ranking)
