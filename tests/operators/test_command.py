"""`erode operators` and the documentation say what the classes say, and what they point to is there."""

import inspect
import pickle
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Callback

from erode import callbacks, lightning_modules
from erode.cli import main
from erode.operators import operator_cards, operator_kinds
from erode.operators.tables import filled

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
CONFIGS = Path(str(files("erode.configs")))
CARDS = operator_cards()
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(DOCS)) for page in PAGES])
def test_generated_parts_of_the_documentation_are_as_the_cards_say(page):
    text = page.read_text(encoding="utf-8")
    assert text == filled(text, CARDS), "run: erode operators --docs docs"
    assert text.count("<!-- generated: ") == text.count("<!-- end -->")


@pytest.mark.parametrize("name", CARDS)
def test_every_operator_has_a_page_with_its_card(name):
    page = (DOCS / "operators" / CARDS[name].page).read_text(encoding="utf-8")
    heads = [line for line in page.splitlines() if line.startswith("<!-- generated: card")]
    assert any(name in head.split() for head in heads)
    assert f"`{name}`" in (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CARDS)
def test_every_operator_has_a_configuration_that_names_it(name):
    content = yaml.safe_load((CONFIGS / CARDS[name].config).read_text(encoding="utf-8"))
    if "model" in content:
        path = content["model"]["class_path"]
        assert issubclass(getattr(lightning_modules, path), operator_kinds()[name])
    else:
        (made,) = content["trainer"]["callbacks+"]
        assert getattr(callbacks, made["class_path"]) is operator_kinds()[name]


def test_no_configuration_of_an_operator_is_without_one():
    known = {Path(card.config).name for card in CARDS.values()}
    assert {path.name for path in (CONFIGS / "unlearn").glob("*.yaml")} <= known


def test_the_verb_prints_the_table_of_the_documentation(capsys):
    main(["operators", "--format", "markdown"])
    shown = capsys.readouterr().out.strip()
    assert len(shown.splitlines()) == len(CARDS) + 2
    assert shown in (DOCS / "operators.md").read_text(encoding="utf-8")


def test_the_verb_shows_every_operator_in_the_terminal(capsys):
    main(["operators"])
    shown = capsys.readouterr().out
    assert all(f" {name} " in shown for name in CARDS)
    assert shown.index("Retrain") < shown.index("GradientClipping") < shown.index("FineTune")


def test_pages_are_written_anew_and_nothing_else_in_them_changes(tmp_path, capsys):
    shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("*.png"))
    page = tmp_path / "docs" / "operators" / "retrain.md"
    right = page.read_text(encoding="utf-8")
    page.write_text(right.replace("| exact (ε = 0, δ = 0) |", "| certified |"), encoding="utf-8")
    main(["operators", "--docs", str(tmp_path / "docs")])
    assert capsys.readouterr().out.split() == [str(page)]
    assert page.read_text(encoding="utf-8") == right
    with pytest.raises(FileNotFoundError, match="is no folder"):
        main(["operators", "--docs", str(tmp_path / "nowhere")])


@pytest.mark.parametrize(
    ("asks", "says"),
    [("graph", "generated part 'graph'"), ("card Nobody", "no operator is called Nobody"), ("card", "called nothing")],
)
def test_a_page_that_asks_for_what_there_is_not_is_refused(asks, says):
    with pytest.raises(ValueError, match=says):
        filled(f"<!-- generated: {asks} -->\n<!-- end -->", CARDS)


def test_operators_can_be_sent_to_processes_that_are_spawned():
    sent = set()
    for name, kind in operator_kinds().items():
        needs = [p for p in inspect.signature(kind).parameters.values() if p.default is p.empty and p.kind < 2]
        if issubclass(kind, Callback) and not needs:
            assert type(pickle.loads(pickle.dumps(kind()))) is kind
            sent.add(name)
    assert sent >= {"FineTune", "Retrain", "GradientClipping", "Scrub"}
