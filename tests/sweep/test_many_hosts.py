"""Two hundred machines on one folder that shows changes late. The figures in docs/cluster.md are of this simulation."""

import contextlib

import pytest
from simulated_hosts import Shared, simulate

from sourcewise.sweep import leases

ROUGH = {"preempted": 0.2, "crashed": 0.25, "frozen": 0.4}
SLACK = 1.0
"""Seconds that the folder takes to answer, beside the bound."""


def test_two_hundred_hosts_do_each_run_once(monkeypatch):
    fate = {"preempted": 0.1, "crashed": 0.1, "frozen": 0.15}
    found = simulate(Shared(hosts=200, runs=40, seconds=(20.0, 60.0), delay=30.0, **fate), monkeypatch)
    assert found.lost == []
    assert found.redone == 0
    assert found.at_once <= 2
    assert found.longest <= leases.HEARTBEAT + leases.DELAY + SLACK
    assert found.begun > 40  # some were begun again by others


@pytest.mark.parametrize("copying", [0.0, 5.0], ids=["rename", "copy"])
@pytest.mark.parametrize("delay", [3.0, 60.0])
def test_none_is_lost_and_two_hosts_meet_only_for_a_while(monkeypatch, delay, copying):
    """Where a rename is a copy, a machine may end within it; the same command given again repairs the record."""
    for seed in range(2):
        shared = Shared(hosts=30, runs=20, seconds=(100.0, 600.0), delay=delay, copying=copying, seed=seed, **ROUGH)
        found = simulate(shared, monkeypatch)
        assert found.lost == []
        assert found.redone == 0
        assert found.at_once <= 2
        assert found.longest <= leases.HEARTBEAT + leases.DELAY + SLACK


def test_late_listings_cost_runs_that_are_done_again_and_none_is_lost(monkeypatch):
    found = simulate(Shared(hosts=20, runs=40, seconds=(0.3, 3.0), delay=10.0, listings=False), monkeypatch)
    assert found.lost == []
    assert found.redone > 0
    same = simulate(Shared(hosts=20, runs=40, seconds=(0.3, 3.0), delay=10.0, listings=True), monkeypatch)
    assert (same.redone, same.begun, same.at_once) == (0, 40, 1)


def test_without_bids_and_looks_hosts_meet_for_long(monkeypatch):
    """What the simulation finds in leases that free a run at once and look only before they write."""

    def pulse(lease: leases.Lease, count: int) -> bool:
        with contextlib.suppress(OSError):
            lease.beat(count)
        return True

    monkeypatch.setattr(leases, "DELAY", 0.0)
    monkeypatch.setattr(leases.Lease, "pulse", pulse)
    found = simulate(Shared(hosts=30, runs=40, seconds=(100.0, 600.0), delay=60.0, **ROUGH), monkeypatch)
    assert found.longest > 100
    assert found.lost == []


def test_the_same_seed_gives_the_same_sweep(monkeypatch):
    shared = Shared(hosts=10, runs=10, delay=30.0, seed=3, **ROUGH)
    assert simulate(shared, monkeypatch) == simulate(shared, monkeypatch)
