"""Shares of sites in the log."""

from footfall_collector.site_shares import SiteShares


def test_a_site_exceeds_its_share_only_while_others_have_events() -> None:
    shares = SiteShares(0.5)
    shares.add("loud", 600)
    assert shares.over_share(["loud"], 0.9) == set()
    shares.add("quiet", 100)
    assert shares.over_share(["loud", "quiet", "new"], 0.9) == {"loud"}
    assert shares.is_any_over_share(0.9)
    assert shares.over_share(["loud", "quiet"], 0.5) == set()  # 6/7 of 0.5


def test_entries_that_have_left_the_log_do_not_count() -> None:
    shares = SiteShares(0.5)
    shares.add("once", 1_000)
    shares.add("now", 10)
    shares.scale_to(101)
    shares.add("now", 400)
    assert shares.over_share(["once", "now"], 0.7) == {"now"}
    shares.scale_to(0)
    assert not shares.is_any_over_share(1.0)


def test_invented_sites_take_bounded_memory_and_are_counted_together() -> None:
    shares = SiteShares(0.5)
    for number in range(100_000):
        shares.add(f"made-up-{number}", 1)
    assert shares.over_share(["made-up-7", "made-up-5000"], 1.0) == {"made-up-5000"}
