from hypothesis import given
from hypothesis import strategies as st

from erode.tables import cells_of, markdown_table, show_table

CELLS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="&"), max_size=8)


@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1)))
def test_what_is_written_is_read(lines):
    head, *rows = lines
    assert cells_of(markdown_table(head, rows, numbers=range(1, len(head)))) == lines


def test_a_page_without_a_table_has_no_cells():
    assert cells_of("# Title\n\n- a | b") == []


def test_units_in_brackets_are_no_markup(capsys):
    show_table(["method", "S_global [nats]"], [["coarse", "1.0 [0.9, 1.2]"]], numbers={1}, notes=["left out [nats]"])
    printed = capsys.readouterr().out
    assert "S_global [nats]" in printed
    assert printed.endswith("left out [nats]\n")
