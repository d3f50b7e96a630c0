"""/proc readings of real processes."""

import os
import subprocess
import sys

from loadtests.bench import proc


def test_own_process() -> None:
    found = proc.usage(os.getpid())
    assert found is not None
    assert found.parent == os.getppid()
    assert found.rss_bytes > 5_000_000
    assert found.descriptors >= 3


def test_tree_holds_grandchildren_and_their_cpu() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}], stdin=0)"
    burn = "import time\nwhile time.process_time() < .2: pass\nprint('burnt', flush=True)\ninput()"
    command = [sys.executable, "-c", code.format(inner=burn)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"burnt\n"
        assert len(proc.tree(child.pid)) == 2
        assert proc.cpu_seconds(child.pid) >= 0.1
        child.communicate(b"\n")
    assert proc.usage(child.pid) is None
    assert proc.tree(child.pid) == []
