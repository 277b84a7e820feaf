"""Runs that are killed, or whose disk fails, end as if nothing had been: a part of the campaign in crash.py."""

import errno
import os
import re
import time

import crash
import pytest

TENSORS, MANIFEST = "tensors.safetensors", "manifest.json"


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    return crash.Campaign(tmp_path_factory.mktemp("crash"), crash.STAND_IN)


@pytest.fixture(scope="module")
def fresh(campaign):
    return campaign.undisturbed()


def test_a_save_is_on_the_disk_before_it_has_its_name(campaign, fresh):
    """Kills cannot show a missing fsync, a power cut would: every file, its folder, the name, in this order."""
    lines = [line.replace(str(campaign.work), "") for line in fresh.trace]
    named = [i for i, line in enumerate(lines) if crash.NAMED.match(line)]
    assert len(named) == 4
    start = 0
    for end in named:
        save = [line.split("/", 2)[::2] for line in lines[start:end] if "unfinished" in line]
        calls = [(call.strip(), path.partition("/")[2]) for call, path in save if call.strip() in ("write", "fsync")]
        last = {path: i for i, (call, path) in enumerate(calls) if call == "write"}
        assert set(last) == {TENSORS, MANIFEST}
        assert all(("fsync", path) in calls[i:] for path, i in last.items())
        assert calls[-1] == ("fsync", "") and fsync_of_log(lines[start:end]) == ("fsync", "log.jsonl")
        assert lines[end + 2].startswith("fsync ") and lines[end + 2].endswith("/" + lines[end].split("/")[1])
        assert not any(line.startswith(("unlink", "rmdir")) for line in lines[end : end + 3])
        start = end + 3


def fsync_of_log(lines):
    """The first call that makes something last, which must be the log."""
    first = next(line for line in lines if line.startswith("fsync"))
    return "fsync", first.rpartition("/")[2]


@pytest.mark.parametrize("action", ["kill", "torn", "ENOSPC", "EIO", "EINTR", "short"])
def test_disturbed_runs_end_as_if_undisturbed(campaign, fresh, action):
    points = crash.points_of(fresh.trace, action, 8 if action == "kill" else 5)
    if action == "kill":  # where a name is given or taken
        every = crash.points_of(fresh.trace, action)
        points += [point for point in every if point.call in ("rename", "unlink", "rmdir") and point not in points]
    campaign.try_points(fresh, points, 2)
    assert campaign.wrong == []


def test_kills_while_going_on(campaign, fresh):
    start = campaign.interrupted(fresh)
    assert start.end == fresh.end
    campaign.try_points(start, crash.points_of(start.trace, "kill", 5), 2)
    campaign.try_random(fresh, 6, int(time.time()), 2)
    assert campaign.wrong == [] and campaign.counts["at random times"] >= 6


@pytest.mark.parametrize("name", ["EROFS", "EACCES", "EDQUOT"])
def test_a_disk_that_refuses_from_some_call_on(campaign, fresh, name):
    """The run ends with one sentence that names file and reason; what was saved is there."""
    for at in (2, 20, len(fresh.trace) - 30):
        folder = campaign.folder()
        code, said = campaign.run(folder, AT=at, COUNT=0, DO=getattr(errno, name))
        assert code == 1 and said.count("\n") == 1 and os.strerror(getattr(errno, name)) in said
        assert crash.newest(folder) == crash.newest_before(fresh.trace[: at - 1])
        campaign.check_end(folder, fresh.end)


def test_the_campaign_can_fail(campaign, fresh):
    """A run that forgets what it did, loses a checkpoint or leaves things behind is a difference."""
    folder = campaign.folder()
    assert campaign.run(folder)[0] == 0
    path = max(folder.glob("checkpoint-*"))
    with pytest.raises(crash.Difference, match=r"another end: log\.jsonl"):
        campaign.check_end(folder, fresh.end | {"log.jsonl": b""})
    with pytest.raises(crash.Difference, match="the checkpoint of step 15 is lost, the newest is 12"):
        campaign._go_on(folder, fresh, 15)
    (path / TENSORS).write_bytes(b"")
    with pytest.raises(crash.Difference, match="a checkpoint is damaged: checkpoint-00000012/tensors"):
        crash.newest(folder)
    points = [crash.Point("kill", len(fresh.trace) + 1, "none")]
    noted = len(campaign.wrong)
    campaign.try_points(fresh, points, 1)
    assert campaign.wrong[noted:] == [f"on a new folder, kill at call {points[0].at} (none): ends with 0: "]
    del campaign.wrong[noted:]


def test_the_whole_campaign_takes_any_command(capsys):
    command = ["--command", *crash.STAND_IN, "6"]
    assert crash.main(["--sample", "1", "--kills", "2", "--jobs", "2", *command]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^\d+ kills \(2 at calls, 2 inside writes, \d+ at random times\), faults: 2 ENOSPC, 2 EIO", said)
    assert said.count("\n") == 1 and "; 0 differences, " in said


def test_a_command_that_does_not_train_is_a_difference(tmp_path):
    with pytest.raises(crash.Difference, match="undisturbed, the command ends with 1"):
        crash.Campaign(tmp_path, ["false"]).undisturbed()


def test_the_real_trainer_ends_as_if_undisturbed(tmp_path):
    """Killed at calls, inside writes, at random times and while going on, with other threads in every process."""
    campaign = crash.Campaign(tmp_path, crash.TRAINER)
    fresh = campaign.undisturbed()
    campaign.try_points(fresh, crash.points_of(fresh.trace, "kill", 7), 2)
    campaign.try_points(fresh, crash.points_of(fresh.trace, "torn", 4), 2)
    campaign.try_points(fresh, crash.points_of(fresh.trace, "ENOSPC", 3), 2)
    start = campaign.interrupted(fresh)
    assert start.end == fresh.end
    campaign.try_points(start, crash.points_of(start.trace, "kill", 3), 2)
    campaign.try_random(fresh, 4, int(time.time()), 2)
    assert campaign.wrong == [] and sum(campaign.counts.values()) >= 21
