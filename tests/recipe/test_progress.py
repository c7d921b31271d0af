"""What progress bars of the recipe say."""

from __future__ import annotations

from espnet_llada.recipe.logs import progress_bar


def test_the_estimate_counts_the_time_between_two_epochs(capsys):
    now = 0.0
    with progress_bar(10, "train", "epoch") as bar:
        bar._time = lambda: now
        bar.start_t = bar.last_print_t = now
        while now < 600:
            now += 30  # that often the log is read
            bar.n = int(now // 120)
            bar.update(0)
        shown = capsys.readouterr().err.split("\r")[-1]
    assert "5/10 [10:00<10:00, 120.00s/epoch]" in shown
