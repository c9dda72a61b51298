"""The machines of one run: how their launchers find each other, start together and end together.

torchrun starts and watches the processes of one machine.  What concerns all machines is
done here: a preempted run ends everywhere and is not started again, and after a failure all
machines begin the same attempt.
"""

import contextlib
import datetime
import fcntl
import ipaddress
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator

from torch.distributed import DistError, TCPStore

from util.errors import ConfigError, ECGError
from util.processes.stopping import LOST

WAIT_SECONDS = 900  # for the other machines: a cluster may start them minutes apart
LEAVE_SECONDS = 10  # that machine 0, which keeps the store, waits for the others to read its end
POLL_SECONDS = 0.5


# ============ network interface ============
def choose_interface(address: str) -> None:
    """Have gloo and NCCL use the network interface that leads to machine 0.

    One that the user has named stays.  Left alone, gloo takes the address that this machine's
    name resolves to.  Debian's /etc/hosts says 127.0.1.1, which no other machine can reach: all
    would wait for each other.

    Raises:
        ConfigError: the address leads nowhere, or where no other machine can reach it.
    """
    here, chosen = _own_address(address), os.environ.get("GLOO_SOCKET_IFNAME")
    alone = ipaddress.ip_address(here).is_loopback  # several launchers on one machine
    if chosen:
        addresses = [each for name in chosen.split(",") for each in _addresses(name)]
        if not alone and all(ipaddress.ip_address(each).is_loopback for each in addresses):
            raise ConfigError(
                f"GLOO_SOCKET_IFNAME={chosen} has no address that another machine can reach; name "
                "an interface of the network, or unset it: the one that leads to machine 0 is taken"
            )
        return
    if alone:
        raise ConfigError(
            f"--master_addr {address} leads to this machine's loopback ({here}), where no other "
            "machine can reach it; give machine 0's address in the network (hostname -I shows "
            "it), or export GLOO_SOCKET_IFNAME=lo to try several launchers on one machine"
        )
    name = next((name for _, name in socket.if_nameindex() if here in _addresses(name)), None)
    if name:
        os.environ["GLOO_SOCKET_IFNAME"] = name
        # "=": this name, not all that begin with it
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")


def _own_address(address: str) -> str:
    """This machine's address on the way to ``address``; nothing is sent."""
    try:
        family, kind, _, _, target = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)
            return probe.getsockname()[0]
    except OSError as error:
        raise ConfigError(
            f"--master_addr {address}: {error.strerror or error}; give machine 0's name or address"
        ) from None


def _addresses(interface: str) -> list[str]:
    """The IPv4 and IPv6 addresses of an interface (Linux)."""
    addresses = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        # SIOCGIFADDR
        answer = fcntl.ioctl(probe, 0x8915, struct.pack("256s", interface.encode()))
        addresses.append(socket.inet_ntoa(answer[20:24]))
    with contextlib.suppress(OSError), open("/proc/net/if_inet6", encoding="ascii") as file:
        addresses += [
            str(ipaddress.ip_address(bytes.fromhex(digits)))
            for digits, *_, name in map(str.split, file)
            if name == interface
        ]
    return addresses


# ============ starting and ending together ============
class Meeting:
    """What the launchers of all machines agree on, in a key-value store of machine 0's launcher.

    Its keys: ``attempt``, the number of the current start of all processes, which every launcher
    may advance once; ``<attempt>/<node>``, that launcher is ready for it; ``ended``, the status
    with which the run is over for good; ``left/<node>``, that launcher has read ``ended`` and
    needs the store no more.

    Args:
        nodes: the number of machines.
        node: the number of this one, from 0.
        address: name or address of machine 0.
        port: of the store there; 0 takes a free one.

    Raises:
        ECGError: the port is taken, or machine 0 does not answer within WAIT_SECONDS.
    """

    def __init__(self, nodes: int, node: int, address: str, port: int):
        self.nodes, self.node = nodes, node
        self._ended: int | None = None
        self._store = self._open(address, port)
        self.port = self._store.port
        self.attempt = self._current()
        if self._store.add(f"launchers/{node}", 1) > 1:
            self.advance()  # an earlier launcher here was killed: the others must restart, too

    def _open(self, address: str, port: int) -> TCPStore:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:  # in short spells, between which a signal is noticed
                # torchrun opens a store at the same port; in this process it gets this one.
                return TCPStore(
                    address,
                    port,
                    is_master=self.node == 0,
                    wait_for_workers=False,
                    multi_tenant=True,
                    timeout=datetime.timedelta(seconds=5),
                )
            except DistError as error:
                if self.node == 0:
                    reason = str(error).splitlines()[0]
                    raise ECGError(
                        f"port {port} of this machine cannot be used ({reason}); choose another "
                        "--master_port, the same on all machines"
                    ) from None
                if time.monotonic() > deadline:
                    raise ECGError(
                        f"machine 0 does not answer at {address}, port {port}; is its launcher "
                        "running, with --node_rank 0 and the same --master_port?"
                    ) from None

    def _current(self) -> int:
        return int(self._store.compare_set("attempt", "", "0"))

    def advance(self) -> None:
        """Make the next attempt the current one, unless another launcher has done so."""
        self._store.compare_set("attempt", str(self.attempt), str(self.attempt + 1))
        self.attempt = self._current()

    def ended(self, seconds: float = 0) -> int | None:
        """Return the status of a run that is over, None if it is not so within ``seconds``."""
        deadline = time.monotonic() + seconds
        try:
            while self._ended is None and not self._store.check(["ended"]):
                if time.monotonic() >= deadline:
                    return None
                time.sleep(POLL_SECONDS)
            if self._ended is None:
                self._ended = int(self._store.get("ended"))
                self._store.set(f"left/{self.node}", "")
        except DistError:
            self._ended = self._ended or LOST  # machine 0 has gone
        return self._ended

    def join(self, last: int) -> bool:
        """Wait until the launchers of all machines are ready for the same attempt.

        Returns:
            False if the run is over, or has had its ``last`` attempt.

        Raises:
            ECGError: a machine is not ready within WAIT_SECONDS.
        """
        remind, deadline = time.monotonic() + 20, time.monotonic() + WAIT_SECONDS
        while self.ended() is None:
            self.attempt = self._current()
            if self.attempt > last:
                return False
            self._store.set(f"{self.attempt}/{self.node}", "")
            missing = ", ".join(
                str(node)
                for node in range(self.nodes)
                if not self._store.check([f"{self.attempt}/{node}"])
            )
            if not missing:
                return True
            if time.monotonic() > deadline:
                raise ECGError(
                    f"machine {missing} of {self.nodes} did not come within {WAIT_SECONDS} s; "
                    "start the same command there, with its own --node_rank"
                )
            if time.monotonic() > remind:
                print(
                    f"waiting for machine {missing} of {self.nodes} (numbered from 0) ...",
                    file=sys.stderr,
                )
                remind = deadline
            time.sleep(POLL_SECONDS)
        return False

    @contextlib.contextmanager
    def watch(self) -> Iterator[threading.Event]:
        """Watch the other launchers while the processes of this attempt run.

        Yields:
            an event, set when they have ended the run or begun another attempt, or cannot be
            asked any more.
        """
        over, called = threading.Event(), threading.Event()

        def look() -> None:
            while not over.wait(2 * POLL_SECONDS):
                with contextlib.suppress(DistError):
                    if self.ended() is None and self._current() == self.attempt:
                        continue
                called.set()
                return

        if self.nodes > 1:
            threading.Thread(target=look, daemon=True).start()
        try:
            yield called
        finally:
            over.set()

    def leave(self, status: int) -> None:
        """Tell the others that the run is over; machine 0 stays for a moment until they know."""
        if self.nodes == 1 or status == LOST:
            return  # then the others have nothing to learn here

        def farewell() -> None:
            with contextlib.suppress(DistError):
                if status:
                    self._store.compare_set("ended", "", str(status))
                self._store.set(f"left/{self.node}", "")
                everyone = [f"left/{node}" for node in range(self.nodes)]
                while self.node == 0 and not self._store.check(everyone):
                    time.sleep(POLL_SECONDS)

        thread = threading.Thread(target=farewell, daemon=True)  # machine 0 may be out of reach
        thread.start()
        thread.join(LEAVE_SECONDS)
