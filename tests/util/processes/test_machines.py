"""Two machines: two launchers, each in a network namespace of its own, joined by one cable.

What runs there is a machine to everything but the file system: it has its own loopback, and its
host name leads there, as on Debian.  Only root may make namespaces, and not in every container;
without them these tests are skipped.
"""

import contextlib
import json
import os
import signal
import subprocess
import time

import pytest

from benchmarks.fault_injection import kill_tree
from tests.support.launched import children, end, start, wait_for
from util.errors import ConfigError, ECGError
from util.processes import machines as meeting
from util.processes.stopping import LOST, PREEMPTED
from util.weights import checkpoint

ADDRESSES = ("10.83.7.1", "10.83.7.2")


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def join_by_cable(names):
    """Network namespaces of these names that reach each other at ADDRESSES."""
    for name in names:
        ip("netns", "add", name)
    ip(
        "link",
        "add",
        "cable",
        "netns",
        names[0],
        "type",
        "veth",
        "peer",
        "name",
        "cable",
        "netns",
        names[1],
    )
    for name, address in zip(names, ADDRESSES):
        ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
        for device in ("lo", "cable"):
            ip("-n", name, "link", "set", device, "up")


@pytest.fixture(scope="module")
def machines():
    """Names of two network namespaces."""
    names = [f"ecg{os.getpid()}{letter}" for letter in "ab"]
    try:
        join_by_cable(names)
        yield names
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(
            f"no network namespaces here ({getattr(error, 'stderr', None) or error})".replace(
                "\n", " "
            )
        )
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                subprocess.run(["ip", "netns", "del", name], capture_output=True)


class Cluster:
    """Launchers on two machines that share a file system, or have a folder of results each."""

    def __init__(self, machines, tmp_path, *flags, shared=False):
        self.machines, self.flags = machines, flags
        self.folders = [tmp_path, tmp_path] if shared else [tmp_path / "a", tmp_path / "b"]
        self.launchers = [self.start(0), self.start(1)]

    def start(self, node):
        return start(
            self.folders[node],
            "cpu",
            "--nnodes",
            "2",
            "--node_rank",
            str(node),
            "--master_addr",
            ADDRESSES[0],
            *self.flags,
            namespace=self.machines[node],
        )

    def wait(self, lines):
        """Until process 0 has done so many steps."""
        wait_for(self.folders[0] / "run" / "log_steps.txt", self.launchers[0], lines)

    def end(self, seconds=600):
        """(status, text) of both launchers; fails where one does not end in time."""
        try:
            ended = [end(launcher, seconds) for launcher in self.launchers]
        finally:
            for launcher in self.launchers:
                kill_tree(launcher.pid)
        assert not any("Traceback" in text for _, text in ended), ended
        return ended


def epochs(folder):
    return [
        json.loads(line)["epoch"] for line in (folder / "run" / "log.txt").read_text().splitlines()
    ]


def test_two_machines_are_preempted_together(machines, tmp_path):
    """The defects: gloo bound loopback, so that they never met; --max_restarts took a stop for a
    failure.
    """
    cluster = Cluster(machines, tmp_path, "--max_restarts", "2")
    cluster.wait(3)
    cluster.launchers[1].send_signal(signal.SIGTERM)
    ended = cluster.end()
    assert [status for status, _ in ended] == [PREEMPTED, PREEMPTED], ended
    assert not any("starting again" in text for _, text in ended)
    assert "2 process(es) on cpu" in ended[0][1] and ended[0][1].count("stopped on request") == 1
    assert (
        len(checkpoint.load_training(cluster.folders[0] / "run" / "checkpoint-last.pth")["rng"])
        == 2
    )


@pytest.mark.slow
def test_a_preempted_run_of_two_machines_is_resumed(machines, tmp_path):
    flags = "--resume", "auto", "--set", "train.epochs=6"
    cluster = Cluster(machines, tmp_path, *flags, shared=True)
    cluster.wait(8)
    for launcher in cluster.launchers:
        os.killpg(launcher.pid, signal.SIGUSR1)
    ended = cluster.end()
    assert [status for status, _ in ended] == [PREEMPTED, PREEMPTED], ended
    ended = Cluster(machines, tmp_path, *flags, shared=True).end()
    assert [status for status, _ in ended] == [0, 0] and "resumed from" in ended[0][1], ended
    assert epochs(tmp_path) == list(range(6))


@pytest.mark.slow
@pytest.mark.parametrize("node", [0, 1])
def test_a_stop_before_the_machines_have_met_ends_both(machines, tmp_path, node):
    """Its processes have only begun to import: the other machine's would wait for them for 30
    minutes.
    """
    cluster = Cluster(machines, tmp_path, "--max_restarts", "2")
    deadline = time.monotonic() + 600
    while (
        not all(children(launcher) for launcher in cluster.launchers)
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    cluster.launchers[node].send_signal(signal.SIGTERM)
    ended = cluster.end()
    assert [status for status, _ in ended] == [PREEMPTED, PREEMPTED], ended


@pytest.mark.slow
@pytest.mark.parametrize("node", [0, 1])
def test_a_machine_that_dies_ends_the_other(machines, tmp_path, node):
    cluster = Cluster(machines, tmp_path)
    cluster.wait(3)
    kill_tree(cluster.launchers[node].pid)
    ended = cluster.end()
    status, text = ended[1 - node]
    assert (
        status == LOST
        and text.count("error:") == 1
        and "other processes of the run have ended" in text
    ), ended


@pytest.mark.slow
def test_a_machine_that_dies_and_comes_back_goes_on_with_the_other(machines, tmp_path):
    cluster = Cluster(
        machines, tmp_path, "--max_restarts", "1", "--set", "train.epochs=8", shared=True
    )
    cluster.wait(8)
    kill_tree(cluster.launchers[1].pid)
    cluster.launchers[1].wait()
    cluster.launchers[1] = cluster.start(1)
    ended = cluster.end()
    assert [status for status, _ in ended] == [0, 0], ended
    assert (
        "starting again" in ended[0][1]
        and "resumed from" in ended[0][1]
        and epochs(tmp_path) == list(range(8))
    )


@pytest.mark.slow
def test_a_killed_process_restarts_both_machines_and_a_stop_after_that_ends_both(
    machines, tmp_path
):
    cluster = Cluster(machines, tmp_path, "--max_restarts", "2", shared=True)
    for lines in (6, 14):
        cluster.wait(lines)
        os.kill(children(cluster.launchers[1])[0], signal.SIGKILL)
    cluster.wait(24)
    cluster.launchers[0].send_signal(signal.SIGTERM)
    ended = cluster.end()
    assert [status for status, _ in ended] == [PREEMPTED, PREEMPTED], ended
    assert ended[0][1].count("resumed from") == 2 and all(
        text.count("starting again") == 2 for _, text in ended
    )


@pytest.mark.slow
def test_an_error_on_one_machine_ends_both(machines, tmp_path):
    cluster = Cluster(machines, tmp_path)
    cluster.flags = ("--set", "dataset.store=nowhere")
    kill_tree(cluster.launchers[1].pid)
    cluster.launchers[1] = cluster.start(1)
    ended = cluster.end()
    assert [status for status, _ in ended] == [LOST, 2] and "no store at" in ended[1][1], ended


@pytest.mark.slow
def test_a_stop_reaches_a_machine_whose_cable_is_cut(machines, tmp_path):
    cluster = Cluster(machines, tmp_path)
    cluster.wait(3)
    ip("-n", machines[1], "link", "set", "cable", "down")
    try:
        time.sleep(1)
        for launcher in cluster.launchers:
            launcher.send_signal(signal.SIGTERM)
        ended = cluster.end()
    finally:
        ip("-n", machines[1], "link", "set", "cable", "up")
    assert {status for status, _ in ended} <= {PREEMPTED, LOST}, ended


# ============ which network ============
def test_interface_that_leads_to_machine_0(monkeypatch):
    monkeypatch.setattr(meeting, "_own_address", lambda address: "10.83.7.2")
    monkeypatch.setattr(
        meeting.socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth0"), (3, "eth01")]
    )
    monkeypatch.setattr(
        meeting,
        "_addresses",
        {"lo": ["127.0.0.1"], "eth0": ["10.83.7.2"], "eth01": [], "ib1": ["10.9.9.9"]}.get,
    )
    with monkeypatch.context() as patch:
        patch.delenv("GLOO_SOCKET_IFNAME", raising=False)
        patch.setenv("NCCL_SOCKET_IFNAME", "ib0")
        meeting.choose_interface("node0")
        assert (
            os.environ.pop("GLOO_SOCKET_IFNAME") == "eth0"
            and os.environ["NCCL_SOCKET_IFNAME"] == "ib0"
        )
        patch.setenv("GLOO_SOCKET_IFNAME", "ib1")
        meeting.choose_interface("node0")
        assert os.environ["GLOO_SOCKET_IFNAME"] == "ib1", "the user's choice stays"
        for name in ("lo", "eth01"):
            patch.setenv("GLOO_SOCKET_IFNAME", name)
            with pytest.raises(ConfigError, match=f"GLOO_SOCKET_IFNAME={name} has no address"):
                meeting.choose_interface("node0")


def test_addresses_of_this_machine():
    assert (
        "127.0.0.1" in meeting._addresses("lo") and meeting._own_address("127.0.0.1") == "127.0.0.1"
    )


@pytest.mark.parametrize(
    "address, words",
    [
        ("127.0.1.1", "leads to this machine.s loopback .*hostname -I"),
        ("localhost", "loopback"),
        ("no such machine", "--master_addr no such machine: .*give machine 0's name"),
    ],
)
def test_master_addr_that_no_other_machine_reaches(monkeypatch, address, words):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    with pytest.raises(ConfigError, match=words):
        meeting.choose_interface(address)


def test_machines_that_do_not_come(monkeypatch):
    monkeypatch.setattr(meeting, "WAIT_SECONDS", 0.5)
    with pytest.raises(ECGError, match="machine 1, 2 of 3 did not come within"):
        meeting.Meeting(3, 0, "127.0.0.1", 0).join(last=0)
    with pytest.raises(ECGError, match="machine 0 does not answer at 127.0.0.1, port 9;"):
        meeting.Meeting(2, 1, "127.0.0.1", 9)
