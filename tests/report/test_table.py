from erode.report.table import print_table


def row(method, seed, dice, **more):
    return {
        "method": method,
        "title": method.upper(),
        "seed": seed,
        "metrics": {"dice": dice, **more},
        "seconds": 10.0,
    }


def test_table_holds_mean_and_sd_over_seeds(capsys):
    print_table([row("a", 0, 0.5), row("b", 0, 0.8), row("a", 1, 0.7), row("b", 1, 0.8)], [("dice", "Dice")], "val")
    printed = capsys.readouterr().out
    assert "0.600 ± 0.141" in printed
    assert "0.800 ± 0.000" in printed
    assert "Val part" in printed


def test_one_seed_shows_the_interval_and_undefined_values_a_dash(capsys):
    print_table([row("a", 0, None, s=1.0, s_low=0.9, s_high=1.2)], [("dice", "Dice"), ("s", "S_global")], "test")
    printed = capsys.readouterr().out
    assert "1.000 [0.90, 1.20]" in printed
    assert "–" in printed
