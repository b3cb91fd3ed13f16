"""The reaction bench's replay: noise that a hasty rule follows back and forth, and neither ours nor Serve's does."""

from __future__ import annotations

from loadtest.bench.reaction_replay import Moment, default, noise, ours, replayed, worst


def test_reversals_are_counted_in_windows_of_ten_minutes() -> None:
    """Those that are further apart are no flapping."""
    assert worst([]) == 0
    assert worst([(10, 2), (900, 1), (1800, 2)]) == 0
    assert worst([(10, 2), (300, 1), (500, 2), (5000, 1)]) == 2


def test_the_noise_moves_a_rule_without_patience_and_not_ours() -> None:
    """Whoever follows each moment's need turns around many times; both sides of the bench do not."""

    def hasty(moment: Moment) -> int:
        return max(1, min(4, -int(-moment.total_num_requests // 8)))

    assert worst(replayed(noise(0, 0.5), 4.0, Moment(None), hasty)) > 10
    assert worst(ours(noise(0, 0.5))) <= 1
    assert worst(default(noise(0, 0.5))) <= 1
