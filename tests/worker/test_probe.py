"""What is said of this machine, checked against what the machine says itself."""

import os

from gridx.worker import probe


async def test_a_report_of_this_machine() -> None:
    report = await probe.probe()
    assert report.works
    assert {each.name for each in report.languages} == {"python", "javascript", "bash"}
    assert all(each.version[0].isdigit() for each in report.languages)
    works = {each.backend: each.works for each in report.sandboxes}
    assert works["bubblewrap"]
    assert works["gvisor"]
    assert "none" not in works


def test_all_of_the_machine_is_offered() -> None:
    offer = probe.offered()
    assert 0 < offer.resources.cpus <= len(os.sched_getaffinity(0))
    total_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    assert 0 < offer.resources.memory_mb + offer.resources.disk_mb < total_mb
    assert offer.resources.gpus == 0
    assert (offer.os, offer.arch) == ("linux", os.uname().machine)


def test_a_slot_is_a_processor_with_its_share() -> None:
    one, whole = probe.offered(1).resources, probe.offered().resources
    assert one.cpus == 1.0
    if whole.cpus > 1:
        assert one.memory_mb < whole.memory_mb
    most = probe.offered(10_000).resources
    assert most.cpus == 10_000
    assert most.memory_mb + most.disk_mb == probe.memory_available_mb()


def test_affinity_counts() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert probe.cpus() == 1.0
    finally:
        os.sched_setaffinity(0, allowed)
