"""A real ipyparallel cluster of this Python: a controller and engines, each in a process of its own."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import ipyparallel

LIMIT = 60  # seconds that anything may take before the test fails

# Each program ends when its standard input does: when the tests are killed, no cluster is left.
ENDS = """import os, runpy, signal, sys, threading
threading.Thread(target=lambda: (os.read(0, 1), os.killpg(0, signal.SIGKILL)), daemon=True).start()
"""
CONTROLLER = ENDS + "runpy.run_module('ipyparallel.controller', run_name='__main__')"
# An engine on a machine that has no echo_kit.
ENGINE = ENDS + "sys.modules['echo_kit'] = None; runpy.run_module('ipyparallel.engine', run_name='__main__')"


class Cluster:
    """`client` is ipyparallel's. All processes write to one pipe: when that ends, all of them have ended."""

    def __init__(self, folder, ip="127.0.0.1"):
        self.client = None
        self._folder, self._processes, self._said, self._lines = folder, [], [], queue.Queue()
        pipe, self._writes = os.pipe()
        self._reader = threading.Thread(target=self._read, args=(pipe,), name="what the cluster says", daemon=True)
        self._reader.start()
        try:
            # An engine is there after a heartbeat or two, every 200 ms, and gone after 100 that are missing.
            options = [f"--IPController.engine_ip={ip}", "--ping=200", "--HeartMonitor.max_heartmonitor_misses=100"]
            self.run([sys.executable, "-c", CONTROLLER, *options], "ipcontroller-engine.json")
            self.client = ipyparallel.Client(connection_info=str(self._file("client")), timeout=LIMIT)
        except BaseException:
            self.stop()
            raise

    def _file(self, whose):
        return self._folder / "profile_default" / "security" / f"ipcontroller-{whose}.json"

    def _read(self, pipe):
        with open(pipe, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                self._said.append(line)
                self._lines.put(line)
        self._lines.put(None)

    def run(self, command, says=""):
        """Run one more program of the cluster, and return it when it has said these words."""
        process = subprocess.Popen(
            command,
            env=os.environ | {"IPYTHONDIR": str(self._folder)},
            cwd=self._folder,
            stdin=subprocess.PIPE,
            stdout=self._writes,
            stderr=self._writes,
            start_new_session=True,
        )
        self._processes.append(process)
        until = time.monotonic() + LIMIT
        while says:
            try:
                line = self._lines.get(timeout=max(0, until - time.monotonic()))
            except queue.Empty:
                line = None
            assert line is not None, f"{command} does not say {says}:\n" + "".join(self._said)
            if says in line:
                break
        return process

    def engine(self, *before):
        """Start one more, as the arguments of the command `before`; `wait` says when it is there."""
        return self.run([*before, sys.executable, "-P", "-c", ENGINE, f"--file={self._file('engine')}"])

    def wait(self, engines):
        """Wait until so many engines are there, and return their numbers, the newest last."""
        try:
            self.client.wait_for_engines(engines, timeout=LIMIT, interactive=False)
        except TimeoutError:
            raise AssertionError(f"there are no {engines} engines:\n" + "".join(self._said)) from None
        return self.client.ids

    def stop(self):
        os.close(self._writes)
        if self.client is not None:
            self.client.close(linger=0)
        for each in reversed(self._processes):
            with suppress(OSError):
                os.killpg(each.pid, signal.SIGKILL)
            each.wait(LIMIT)
            each.stdin.close()
        self._reader.join(LIMIT)
        assert not self._reader.is_alive(), "a process of the cluster is left"
