"""Run every hostile program in one mode as the user that runs this, and say which escaped.

    python attack.py bubblewrap

Prints one JSON object: ``held``, ``failed`` (names, with why), ``skipped`` (names), or ``cannot``
with why nothing could be run. The machine is watched from outside: after the sandbox was closed no
process and no scratch file is left, the victim lives, nobody connected, the file is as it was.
``command_as`` makes a command that runs this as an ordinary user, from root.
"""

import ctypes
import json
import os
import platform
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from hostile import PRELUDE, PROGRAMS

from longrun.config.evaluation import SandboxSettings
from longrun.errors import ResourceError
from longrun.evaluation.sandbox.sandbox import Sandbox

LIMIT, PATIENT, SLACK = 1.0, 30.0, 20.0
"""Seconds of a program that must be interrupted, of all others, and that a busy machine may add."""
MEMORY_BYTES = 400 << 20
ORDINARY_USER = 61_234


def main():
    mode = sys.argv[1]
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # orphans become ours, so that none is overlooked
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LONGRUN_ATTACK_SECRET"] = "hidden"
        tempfile.tempdir = folder
        try:
            print(json.dumps(attack(mode, Path(folder))))
        except ResourceError as error:
            print(json.dumps({"cannot": str(error)}))


def attack(mode, folder):
    outside = folder / "outside"
    outside.mkdir()
    (outside / "file").write_text("as it was")
    (outside / "file").chmod(0o640)
    victim = subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL)
    try:
        outcome = watch(mode, outside, victim)
        outcome["failed"] |= look_around(folder, outside, victim)
    finally:
        victim.kill()
        victim.wait()
    return outcome


def watch(mode, outside, victim):
    with socket.create_server(("127.0.0.1", 0)) as port, socket.socket(socket.AF_UNIX) as named:
        named.bind(f"\0longrun-{os.getpid()}")
        named.listen()
        places = {
            "@PARENT@": str(os.getpid()),
            "@VICTIM@": str(victim.pid),
            "@PORT@": str(port.getsockname()[1]),
            "@NAME@": f"longrun-{os.getpid()}",
            "@FILE@": str(outside / "file"),
            "@FOLDER@": str(outside),
        }
        outcome = run_all(mode, places, victim.pid)
        for listener in (port, named):
            listener.settimeout(0)
            try:
                listener.accept()
                outcome["failed"]["(network)"] = "somebody connected"
            except BlockingIOError:
                pass
    return outcome


def run_all(mode, places, victim):
    outcome = {"held": [], "failed": {}, "skipped": []}
    sandboxes = {
        limit: Sandbox(
            SandboxSettings(isolation=mode, timeout_seconds=limit, memory_bytes=MEMORY_BYTES)
        )
        for limit in (LIMIT, PATIENT)
    }
    outcome["failed"] |= check_every_process(sandboxes[PATIENT], victim)

    def one(program):
        if not promised(program, mode):
            return program, None
        limit = LIMIT if program.ends == "timeout" else PATIENT
        return program, attempt(sandboxes[limit], program, places)

    with ThreadPoolExecutor(8) as threads:  # a process of a sandbox ends with its thread
        for program, why in threads.map(one, PROGRAMS):
            if why is None:
                outcome["skipped"].append(program.name)
            elif why:
                outcome["failed"][program.name] = why
            else:
                outcome["held"].append(program.name)
        for sandbox in sandboxes.values():
            sandbox.close()
    return outcome


def promised(program, mode):
    if "call(" in program.code and platform.machine() != "x86_64":
        return False  # the numbers are those of x86-64
    return {
        "": True,
        "bubblewrap": mode == "bubblewrap",
        "process": mode == "process",
        "landlock": mode == "bubblewrap" or has_landlock(),
        "namespace": mode == "bubblewrap" or os.geteuid() != 0,
    }[program.only]


def has_landlock():
    return ctypes.CDLL(None).syscall(444, None, 0, 1) > 0


def attempt(sandbox, program, places):
    """Return why the program did not hold, "" if it did."""
    code = program.code
    for place, value in places.items():
        code = code.replace(place, value)
    session = sandbox.open_session()
    try:
        session.run(PRELUDE)
        began = time.monotonic()
        execution = session.run(code)
        took = time.monotonic() - began
        after = session.run("6 * 7")
    finally:
        session.close()
    if "ESCAPED" in execution.text:
        return f"escaped: {execution.text[-200:]}"
    if took > sandbox.settings.timeout_seconds + SLACK:
        return f"took {took:.0f} s"
    if after.text not in ("42\n",) and after.status not in ("lost", "timeout"):
        return f"the next block said {after.text[-200:]}"
    if program.ends and execution.status != program.ends:
        return f"ended as {execution.status}, not {program.ends}: {execution.text[-200:]}"
    if program.shows not in execution.text and execution.status != "lost":
        return f"did not show {program.shows!r}: {execution.text[-200:]}"
    return ""


def check_every_process(sandbox, victim):
    """Look from outside: what runs inside is filtered, without privileges, and alone."""
    session = sandbox.open_session()
    session.run("1")
    time.sleep(1)  # those that are kept warm become Python meanwhile
    failed, inside = {}, 0
    for pid in descendants(os.getpid()) - {victim}:
        status = Path(f"/proc/{pid}/status").read_text()
        told = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        if told["Name"] == "bwrap" and len(told["NSpid"].split()) == 1:
            continue  # the one outside, which waits for the one inside
        inside += 1
        if (told["Seccomp"], told["NoNewPrivs"], int(told["CapPrm"], 16)) != ("2", "1", 0):
            failed[f"(process {told['Name']})"] = "without the filter, or with privileges"
    session.close()
    if not inside:
        failed["(processes)"] = "none was found"
    return failed


def look_around(folder, outside, victim):
    """Say what is left after everything was closed."""
    failed = {}
    left = descendants(os.getpid()) - {victim.pid}
    if left:
        names = [Path(f"/proc/{pid}/stat").read_text()[:60] for pid in left]
        failed["(processes)"] = f"{len(left)} are left: {names[:5]}"
    if victim.poll() is not None:
        failed["(victim)"] = "was ended"
    elif os.getpriority(os.PRIO_PROCESS, victim.pid) != os.getpriority(os.PRIO_PROCESS, 0):
        failed["(victim)"] = "was slowed down"
    scratch = [path.name for path in folder.iterdir() if path != outside]
    if scratch:
        failed["(scratch)"] = f"{scratch[:3]} are left"
    file = outside / "file"
    names = [path.name for path in outside.iterdir()]
    if names != ["file"] or file.read_text() != "as it was":
        failed["(file)"] = f"was changed: {names}"
    elif stat.S_IMODE(file.stat().st_mode) != 0o640 or file.stat().st_mtime == 0:
        failed["(file)"] = "has another mode or time"
    return failed


def descendants(pid):
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {pid}
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    return found - {pid}


def command_as(uid, *arguments):
    """Return the command that runs this program as ``uid``, from root.

    What lies below folders that are closed to others, as ``/root``, is shown to it at its place.
    """
    words = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", sys.executable, "-B"]
    if shutil.which("bwrap") is None:
        return [*words, __file__, *arguments]
    needed = [Path(sys.executable).resolve().parents[1], Path(sys.base_prefix), Path(sys.prefix)]
    needed += [Path(__file__).parents[3], *(Path(path) for path in sys.path if Path(path).is_dir())]
    closed, shown = {}, []
    for path in dict.fromkeys(needed):
        above = [*reversed(path.parents), path]
        first = next((i for i, one in enumerate(above) if not one.stat().st_mode & 0o001), None)
        if first is None or any(str(done) in shown for done in above):
            continue
        closed[above[first]] = None
        for folder in above[first + 1 : -1]:
            shown += ["--perms", "0755", "--dir", str(folder)]
        shown += ["--ro-bind", str(path), str(path)]
    opened = [word for path in closed for word in ("--perms", "0755", "--tmpfs", str(path))]
    return ["bwrap", "--dev-bind", "/", "/", *opened, *shown, *words, __file__, *arguments]


def run_as(uid, mode):
    """Return the outcome of ``mode`` as user ``uid``, from root or as that user itself."""
    command = [sys.executable, __file__, mode]
    if uid != os.geteuid():
        if os.geteuid() != 0:
            return {"cannot": f"only root can become user {uid}"}
        command = command_as(uid, mode)
    home = {**os.environ, "HOME": "/tmp", "TMPDIR": "/tmp"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=280, env=home, cwd="/"
    )
    if done.returncode:
        return {"cannot": f"user {uid} cannot run it: {done.stderr.strip()[-300:]}"}
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
