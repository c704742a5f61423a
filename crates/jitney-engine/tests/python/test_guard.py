"""The guard on its own: whatever it was told of is gone when its standard input ends."""

import os
import secrets
import signal
import subprocess
import sys
import unittest
from pathlib import Path

GUARD = (Path(__file__).resolve().parents[2] / "src/python/guard.py").read_text(encoding="utf-8")
WAIT = [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"]


class Guard(unittest.TestCase):
    def setUp(self):
        self.token = secrets.token_hex(8)
        self.guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", GUARD], stdin=subprocess.PIPE, env={"JITNEY_GUARD": self.token}
        )
        self.addCleanup(self.end, self.guard)

    def end(self, process):
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()

    def start(self, **env):
        process = subprocess.Popen(WAIT, stdout=subprocess.PIPE, env={**os.environ, **env}, start_new_session=True)
        self.addCleanup(self.end, process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    def leave(self, *lines):
        self.guard.communicate("".join(f"{line}\n" for line in lines).encode(), timeout=30)
        self.assertEqual(self.guard.returncode, 0)

    def test_groups_are_killed_at_the_end(self):
        known, gone, other = self.start(), self.start(), self.start()
        self.leave(f"+{known.pid}", f"+{gone.pid}", f"-{gone.pid}")
        self.assertEqual(known.wait(10), -signal.SIGKILL)
        self.assertIsNone(gone.poll())
        self.assertIsNone(other.poll())

    def test_so_is_whoever_left_a_group_with_the_token(self):
        marked, other = self.start(JITNEY_POOL=f"{self.token}.3"), self.start(JITNEY_POOL=f"{self.token}0.3")
        self.leave()
        self.assertEqual(marked.wait(10), -signal.SIGKILL)
        self.assertIsNone(other.poll())

    def test_groups_that_are_gone_are_no_trouble(self):
        gone = self.start()
        gone.kill()
        gone.wait()
        self.leave(f"+{gone.pid}")

    def test_signals_do_not_end_it(self):
        known = self.start()
        assert self.guard.stdin is not None
        self.guard.stdin.write(f"+{known.pid}\n".encode())
        self.guard.stdin.flush()
        # Until it listens, a signal may still end it.
        while not self.ignores(signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            self.assertIsNone(self.guard.poll())
        self.guard.send_signal(signal.SIGINT)
        self.guard.send_signal(signal.SIGTERM)
        self.leave()
        self.assertEqual(known.wait(10), -signal.SIGKILL)

    def ignores(self, *signals):
        status = Path(f"/proc/{self.guard.pid}/status").read_text(encoding="utf-8")
        mask = int(status.partition("SigIgn:\t")[2].split()[0], 16)
        return all(mask >> (number - 1) & 1 for number in signals)


if __name__ == "__main__":
    unittest.main()
