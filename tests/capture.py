"""`Capture`: what tcpdump saw of one TCP port on the loopback interface, a witness that knows nothing of our log."""

import os
import queue
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import pytest

from .programs import LIMIT

SNAPLEN = 4096  # bytes that are kept of a packet: small, because the kernel's buffer has a fixed number of places
BUFFER = 16384  # KiB: 4,000 such places, for a tcpdump that does not get a processor for a while
FLAGS = "FSRPA"
TCP, UDP = 6, 17


def not_here(why):
    """Skip the test; in CI, where everything that can be installed has to be there, fail."""
    if os.environ.get("CI"):
        pytest.fail(f"{why} (with CI set, this is no reason to skip)")
    pytest.skip(why)


@dataclass(frozen=True, slots=True)
class Packet:
    """One TCP segment. `flags` are the letters of `FLAGS` that are set: "S", "SA", "A", "PA", "FA", "R", …"""

    time: float  # seconds since the epoch; the kernel's stamp, in nanoseconds until it became a float
    source: int
    destination: int
    flags: str
    seq: int  # absolute, as ack
    ack: int
    length: int  # of the payload
    payload: bytes


class Capture:
    """`with Capture(port) as capture: …`; afterwards `capture.packets` are those from and to `port`, as they came.

    A datagram of ours that tcpdump has to see, at both ends, proves that it captured from the beginning to the end:
    the kernel shows every packet to tcpdump first, and only then to TCP. So whatever one of our sockets had noticed
    before the last datagram was sent stands in the capture before that datagram.
    """

    def __init__(self, port):
        self.packets = []
        self._port = port
        self._said = queue.Queue()  # lines of tcpdump's standard error; None: it has ended
        self._marks = queue.Queue()  # our own datagrams, as tcpdump saw them; None: it has ended

    def epoch(self, log_time):
        """A time of our logs (`time.perf_counter`) as seconds since the epoch."""
        return log_time + self._offset / 1e9

    def __enter__(self):
        if sys.platform != "linux":
            not_here("packets are captured on Linux only")
        if shutil.which("tcpdump") is None:
            not_here("there is no tcpdump (Debian: apt-get install tcpdump)")
        self._marker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._marker.bind(("127.0.0.1", 0))
        marks = self._marker.getsockname()[1]
        options = ["-n", "-U", "--immediate-mode", "--time-stamp-precision=nano", "-s", str(SNAPLEN), "-B", str(BUFFER)]
        which = f"tcp port {self._port} or udp port {marks}"
        self._process = subprocess.Popen(
            ["tcpdump", "-i", "lo", *options, "-w", "-", which],  # to a pipe: it may not be root when it opens a file
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._threads = [threading.Thread(target=each) for each in (self._read_packets, self._read_words)]
        for thread in self._threads:
            thread.start()
        try:
            self._wait_until_it_listens()
            self._mark(b"begin")
            self._offset = _offset()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self._end()
        finally:
            self._clean_up()

    def _wait_until_it_listens(self):
        said = []
        while not any("listening on lo" in line for line in said):
            line = self._said.get(timeout=LIMIT)
            if line is None:
                pytest.skip(f"tcpdump may not capture here: {' '.join(said)}")  # nothing that could be installed
            said.append(line.strip())

    def _mark(self, name):
        self._marker.sendto(name, self._marker.getsockname())
        seen = self._marks.get(timeout=LIMIT)
        assert seen == name, f"tcpdump saw {seen} where {name} was to come"

    def _end(self):
        self._mark(b"end")
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(LIMIT)
        for thread in self._threads:
            thread.join(LIMIT)
        said = "".join(iter(self._said.get_nowait, None))
        assert code == 0, said
        assert "\n0 packets dropped by kernel" in said, said
        assert f"{len(self.packets) + 2} packets captured\n" in said, f"{len(self.packets)} packets read: {said}"
        moved = abs(_offset() - self._offset)
        assert moved < 1000, f"the system's clock was set meanwhile, by {moved} ns: no time can be compared"

    def _clean_up(self):
        self._process.kill()
        self._process.wait(LIMIT)
        for thread in self._threads:
            thread.join(LIMIT)
        self._process.stdout.close()
        self._process.stderr.close()
        self._marker.close()

    def _read_words(self):
        for line in self._process.stderr:
            self._said.put(line.decode(errors="replace"))
        self._said.put(None)

    def _read_packets(self):
        """A pcap file: a header of 24 bytes; for each packet 16 bytes about it, and then the packet."""
        try:
            pipe = self._process.stdout
            pipe.read(24)
            while about := pipe.read(16):
                seconds, nanoseconds, kept, _ = struct.unpack("=IIII", about)
                self._take(seconds + nanoseconds / 1e9, pipe.read(kept))
        finally:
            self._marks.put(None)

    def _take(self, when, frame):
        internet = frame[14:]  # after the Ethernet header
        inner = internet[4 * (internet[0] & 15) :]
        (total,) = struct.unpack_from("!H", internet, 2)
        size = total - (len(internet) - len(inner))  # as sent, also where less was kept
        if internet[9] == UDP:
            self._marks.put(inner[8:size])
            return
        assert internet[9] == TCP
        source, destination, seq, ack, header, flags = struct.unpack_from("!HHIIBB", inner)
        header = 4 * (header >> 4)
        names = "".join(name for bit, name in zip((1, 2, 4, 8, 16), FLAGS, strict=True) if flags & bit)
        packet = Packet(when, source, destination, names, seq, ack, size - header, inner[header:size])
        self.packets.append(packet)


def _offset():
    """What to add to `time.perf_counter_ns` for the time since the epoch: from the quickest of many looks at both."""
    looks = []
    for _ in range(200):
        before, epoch, after = time.perf_counter_ns(), time.time_ns(), time.perf_counter_ns()
        looks.append((after - before, epoch - (before + after) // 2))
    return min(looks)[1]
