"""Programs of these tests, each a process of its own, and how far they are."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]

LONG = int(os.environ.get("REGROUP_FAULTS", "0"))
"""How long the long form is to be; 0 is the short one."""

_MARK = "... "


def run(module, *arguments, tell=lambda line: None, **environment):
    """Run a program of this folder to its end; `tell` gets its lines of `progress` as they come."""
    command = [sys.executable, "-m", f"tests.faults.{module}", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **environment}
    lines, streams = [], {"stdout": subprocess.PIPE, "text": True}
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=errors, **streams) as process:
            try:
                for line in process.stdout:
                    if line.startswith(_MARK):
                        tell(line.removeprefix(_MARK).rstrip())
                    else:
                        lines.append(line)
                process.wait()
            finally:
                process.kill()
        errors.seek(0)
        return subprocess.CompletedProcess(command, process.returncode, "".join(lines), errors.read())


def progress(what, done, of, since=None):
    """Say, twenty times in all, how much of a long program is done; `since` is how much was said before."""
    if 20 * done // of > 20 * (done - 1 if since is None else since) // of:
        print(f"{_MARK}{what}: {done} of {of}", flush=True)
