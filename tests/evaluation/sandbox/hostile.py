"""Hostile programs as data: what each tries, and what must be true of its end.

A program that gets what it must not have prints ``ESCAPED``; whatever else it says, that is never
seen. ``ends`` is the status it must have ("" for any), ``shows`` a text that must be seen, ``only``
the mode whose promise it tries (``bubblewrap``, or ``landlock`` for what ``process`` promises where
the kernel has Landlock). ``@PARENT@``, ``@VICTIM@``, ``@PORT@``, ``@NAME@``, ``@FILE@`` and
``@FOLDER@`` stand for things outside: the process above, another process of the user, a listening
port, a listening socket without a file, a file and its folder. Whoever runs this may be root: what
would harm more than the victim, were it not held, asks in a way that does nothing (signal 0).
"""

from typing import NamedTuple

PRELUDE = """
import ctypes, mmap, os, resource, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def tries(*functions):
    for function in functions:
        try: got = function()
        except BaseException as error: print(type(error).__name__, error)
        else: print('ESCAPED', got)
def call(number, *arguments):
    got = libc.syscall(number, *arguments)
    print(f'refused {ctypes.get_errno()}' if got < 0 else f'ESCAPED {got}')
"""


class Program(NamedTuple):
    """One attack; ``code`` runs after ``PRELUDE``."""

    name: str
    code: str
    ends: str = ""
    shows: str = ""
    only: str = ""


def _endless() -> list[Program]:
    programs = {
        "endless loop": "while True: pass",
        "regular expression": "import re; re.match(r'(a+)+$', 'a' * 60 + 'b')",
        "big power": "print(len(str(7 ** 10 ** 8)))",
        "digits of a number": "print(10 ** 30_000_000)",
        "endless repr": "class A:\n def __repr__(self):\n  while True: pass\nA()",
        "output flood": "while True: print('A' * 1000)",
        "byte flood": "while True: sys.stdout.buffer.write(b'A' * 100000)",
        "sleep": "time.sleep(1000)",
        "deadlock": "a = threading.Lock(); a.acquire(); a.acquire()",
        "empty pipe": "a, b = os.pipe(); os.read(a, 1)",
        "full pipe": "a, b = os.pipe()\nwhile True: os.write(b, b'x' * 4096)",
        "a thread that never ends": "t = threading.Thread(target=lambda: [0 for _ in iter(int, 1)])"
        "\nt.start(); t.join()",
        "files made and removed": "n = 0\nwhile True: open(f'f{n % 500}', 'w').close(); n += 1",
        "every signal ignored": "for s in range(1, 65):\n"
        " try: signal.signal(s, signal.SIG_IGN)\n except (OSError, ValueError): pass\n"
        "time.sleep(1000)",
        "every signal blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n"
        "while True: pass",
        "a loop that catches all": "while True:\n try:\n  while True: pass\n"
        " except BaseException: pass",
        "a clock put off": "signal.setitimer(signal.ITIMER_REAL, 0)\nwhile True: pass",
        "endless finalizer": "signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "class D:\n def __del__(self):\n  while True: pass\nd = D(); del d",
        "endless sort": "class K:\n def __lt__(self, o):\n  while True: pass\nsorted([K(), K()])",
        "a read of zeros": "f = open('/dev/zero', 'rb')\nwhile True: f.read(1 << 20)",
        "a switch interval": "sys.setswitchinterval(1e6)\nwhile True: pass",
        "a tracer that loops": "def t(*a):\n while True: pass\nsys.settrace(t)\n(lambda: 0)()",
        "an event loop": "import asyncio\nasync def f():\n while True: await asyncio.sleep(0)\n"
        "asyncio.run(f())",
    }
    return [Program(name, code, ends="timeout") for name, code in programs.items()]


def _broken() -> list[Program]:
    return [
        Program("null pointer", "ctypes.string_at(0)", ends="lost"),
        Program("os._exit", "os._exit(0)", ends="lost"),
        Program("abort", "os.abort()", ends="lost"),
        Program("closed descriptors", "os.closerange(0, 64)", ends="lost"),
        Program("smashed memory", "ctypes.memset(id(None), 255, 64); None()", ends="lost"),
        Program("dropped frame", "del sys.modules['__main__']; sys.modules.clear(); import os"),
        Program(
            "broken builtins",
            "import builtins, json\nbuiltins.print = lambda *a: None\nbuiltins.repr = None\n"
            "json.dumps = None\njson.JSONEncoder.encode = None",
        ),
        Program("broken struct", "struct.pack = None"),
        Program("broken stdout", "sys.stdout = sys.stderr = None; print(1)"),
        Program("broken exit", "os._exit = lambda n: None; os.closerange(3, 64)", ends="lost"),
        Program(
            "C stack overflow",
            "sys.setrecursionlimit(10**8)\nx = []\nfor _ in range(10**6): x = [x]\nrepr(x)",
        ),
        Program("deep recursion", "def f(n): return f(n + 1)\nf(0)", "error", "RecursionError"),
        Program("parser bomb", "compile('(' * 5000 + ')' * 5000, 'x', 'eval')", ends="error"),
        Program("nested source", "exec('a = ' + '-' * 200000 + '1')"),
        Program("deep tree", "import ast; ast.literal_eval('[' * 100000)", ends="error"),
        Program("leave", "sys.exit(0)", "error", "SystemExit"),
        Program("leave at the exit", "import atexit; atexit.register(time.sleep, 100); sys.exit()"),
        Program("ask", "input('? ')", "error", "EOFError"),
        Program("bad syntax", "x ===", "error", "SyntaxError"),
        Program("zero byte", "exec('x = 1\\0')", ends="error"),
        Program(
            "unspeakable error",
            "class E(Exception):\n def __str__(self): raise E()\nraise E()",
            "error",
            "E: <exception str() failed>",
        ),
        Program(
            "an error that is no text",
            "class E(Exception):\n def __str__(self): return 5\nraise E()",
            "error",
        ),
        Program("an error with a loop", "a = ValueError(); a.__context__ = a; raise a", "error"),
        Program(
            "a name that lies",
            "class E(Exception): pass\nE.__name__ = '\\ud800'\nraise E()",
            "error",
        ),
        Program("surrogates", r"print('\ud800\x00\x1b[31m|')", "completed", "?[31m|"),
        Program("million characters", "print('A' * 10**6)", "completed", "<output cut>"),
        Program("long error", "raise ValueError('b' * 10**6)", "error", "<output cut>"),
        Program(
            "pip install",
            "from pip._internal.cli.main import main\nmain(['install', 'longrun-nothing'])",
        ),
    ]


def _lies() -> list[Program]:
    every = "\nfor fd in range({first}, 64):\n try: os.write(fd, {data})\n except OSError: pass"
    reply = "import json\nr = json.dumps({{'token': {token}, 'status': {status}, 'stdout': "
    reply += "'ESCAPED', 'stderr': ''}}).encode()\nf = struct.pack('>I', len(r)) + r"
    forged = reply.format(token="'0'", status="'completed'") + every.format(first=3, data="f")
    known = "t = [v for v in sys._getframe(3).f_locals.get('request', {}).values()][-1:]\n"
    known += reply.format(token="(t or [''])[0]", status="'lost'")
    return [
        Program("garbage frames", every.format(first=0, data="b'\\0\\0\\0\\x10garbage garbage!'")),
        Program(
            "a frame of two gigabytes",
            every.format(first=3, data="struct.pack('>I', 2**31 - 1) + b'x' * 1000"),
        ),
        Program("an empty frame", every.format(first=3, data="bytes(4)")),
        Program(
            "a deep frame", every.format(first=3, data="struct.pack('>I', 9000) + b'[' * 9000")
        ),
        Program("a forged frame", forged),
        Program(
            "a forged frame many times",
            f"for _ in range(50):\n {forged[1:]}" if forged.startswith("\n") else forged,
        ),
        Program("a reply of a status unknown", known + every.format(first=3, data="f")),
        Program(
            "a frame of numbers", every.format(first=3, data="struct.pack('>I', 5) + b'12345'")
        ),
        Program(
            "a frame cut short",
            every.format(first=3, data="struct.pack('>I', 100) + b'{'") + "\nos._exit(0)",
            ends="lost",
        ),
        Program(
            "requests read away",
            "for fd in range(3, 64):\n"
            " try: os.set_blocking(fd, False); os.read(fd, 1 << 16)\n except OSError: pass",
        ),
    ]


def _greedy() -> list[Program]:
    return [
        Program("20 GB at once", "b = bytearray(20 * 10**9)", "error", "MemoryError"),
        Program("8 GB map", "mmap.mmap(-1, 8 << 30)", "error", "Cannot allocate"),
        Program("growing list", "x = [0]\nwhile True: x = x + x", "error", "MemoryError"),
        Program("growing text", "x = 'a'\nwhile True: x += x", "error", "MemoryError"),
        Program(
            "maps that add up",
            "x = []\nwhile True: x.append(mmap.mmap(-1, 1 << 24))",
            "error",
            "Cannot allocate",
        ),
        Program(
            "shared maps",
            "x = []\nwhile True: x.append(mmap.mmap(-1, 1 << 24, "
            "mmap.MAP_SHARED | mmap.MAP_ANONYMOUS))",
            "error",
        ),
        Program("billion laughs", "x = 'lol'\nfor _ in range(40): x = x * 10", "error"),
        Program(
            "unpacking bomb",
            "import zlib\nz = zlib.compress(bytes(10**7))\n"
            "x = [zlib.decompress(z) for _ in range(10**5)]",
            "error",
            "MemoryError",
        ),
        Program(
            "threads",
            "n = 0\ntry:\n while n < 5000:\n"
            "  threading.Thread(target=time.sleep, args=(100,), daemon=True).start(); n += 1\n"
            "except RuntimeError: print('bounded')\nif n >= 1000: print('ESCAPED')",
        ),
        Program(
            "threads with small stacks",
            "threading.stack_size(32768)\nn = 0\ntry:\n"
            " while n < 3000:\n"
            "  threading.Thread(target=time.sleep, args=(100,), daemon=True).start(); n += 1\n"
            "except RuntimeError: print('bounded')\nif n >= 1000: print('ESCAPED')",
            only="namespace",
        ),
        Program(
            "a full file",
            "f = open('big', 'wb')\nwhile True: f.write(bytes(10**6))",
            "error",
            "too large",
        ),
        Program("a file with a hole", "f = open('big', 'wb'); f.truncate(1 << 40)", "error"),
        Program(
            "reserved room",
            "f = open('big', 'wb'); os.posix_fallocate(f.fileno(), 0, 1 << 30)",
            "error",
        ),
        Program(
            "a full disk",
            "for n in range(100):\n"
            " with open(f'f{n}', 'wb') as f: f.write(bytes(15 << 20))\nprint('ESCAPED')",
            "error",
            "No space",
            only="bubblewrap",
        ),
        Program(
            "many files",
            "for n in range(50_000): open(f'f{n}', 'w').close()\nprint('ESCAPED')",
            "error",
            "No space",
            only="bubblewrap",
        ),
        Program(
            "many folders",
            "for n in range(50_000): os.mkdir(f'd{n}')\nprint('ESCAPED')",
            "error",
            "No space",
            only="bubblewrap",
        ),
        Program(
            "many links",
            "for n in range(50_000): os.symlink('x' * 100, f'l{n}')\nprint('ESCAPED')",
            "error",
            "No space",
            only="bubblewrap",
        ),
        Program(
            "many names of one file",
            "open('f', 'w').close()\n"
            "for n in range(50_000): os.link('f', f'n{n}')\nprint('ESCAPED')",
            "error",
            "No space",
            only="bubblewrap",
        ),
        Program(
            "many pipes with names",
            "for n in range(50_000): os.mkfifo(f'p{n}')\nprint('ESCAPED')",
            "error",
            "No space",
            only="bubblewrap",
        ),
        Program("a deep nest", "for n in range(3000): os.mkdir('d' * 200); os.chdir('d' * 200)"),
        Program(
            "a nest that cannot be entered",
            "os.makedirs('a/b/c'); open('a/b/c/f', 'w').close()"
            "\nos.chmod('a/b', 0); os.umask(0o777); os.mkdir('z'); os.mkdir('a/z')",
        ),
        Program(
            "odd names", "for n in range(1, 256):\n if n != 47: open(bytes([n]) * 200, 'w').close()"
        ),
        Program(
            "open files",
            "x = []\nwhile True: x.append(open('/dev/null'))",
            "error",
            "Too many open files",
        ),
        Program("memory without a name", "os.memfd_create('x')", "error", "not permitted"),
        Program(
            "more limits",
            "tries(lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 40,) * 2),"
            " lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 16,) * 2))",
        ),
        Program("more time", "tries(lambda: resource.setrlimit(resource.RLIMIT_CPU, (9**9,) * 2))"),
        Program("a core file", "tries(lambda: resource.setrlimit(resource.RLIMIT_CORE, (9, 9)))"),
    ]


def _processes() -> list[Program]:
    refused = {
        "fork": "os.fork()",
        "fork of the C library": "libc.fork() < 0 and 1 / 0",
        "forkpty": "os.forkpty()",
        "posix_spawn": "os.posix_spawn('/bin/true', ['true'], {})",
        "shell": "__import__('subprocess').run('id', shell=True)",
        "program": "__import__('subprocess').Popen(['/bin/true'])",
        "execv": "os.execv('/bin/true', ['true'])",
        "execv of Python": "os.execv(sys.executable, [sys.executable, '-c', 'print()'])",
        "fexecve": "os.execve(os.open('/bin/true', os.O_RDONLY), ['true'], {})",
        "multiprocessing": "__import__('multiprocessing').get_context('fork').Process().start()",
        "spawned process": "__import__('multiprocessing').get_context('spawn').Process().start()",
        "session": "os.setsid()",
        "process group": "os.setpgid(0, 0)",
    }
    programs = [Program(name, f"tries(lambda: {code})") for name, code in refused.items()]
    for name, flags in {
        "clone": 17,
        "clone like vfork": 0x4111,
        "clone with a user namespace": 0x10000011,
        "clone with a process namespace": 0x20000011,
        "clone beside the parent": 0x8011,
        "clone sharing memory": 0x100 | 17,
    }.items():
        programs.append(Program(name, f"call(56, {flags}, 0, 0, 0, 0)", shows="refused"))
    programs += [
        Program("clone3", "call(435, bytes(88), 88)", shows="refused 38"),
        Program("vfork", "call(58)", shows="refused 1"),
        Program("execveat", "call(322, -100, b'/bin/true', None, None, 0)", shows="refused 1"),
        Program("fork of the other interface", "call(0x40000039)", shows="refused 38"),
        Program(
            "a daemon", "if os.fork() == 0:\n os.setsid()\n os.fork()\n time.sleep(100)", "error"
        ),
        Program(
            "a daemon thread that goes on",
            "threading.Thread(target=lambda: time.sleep(1000), daemon=True).start()",
        ),
        Program(
            "a call of 32 bits",
            "m = mmap.mmap(-1, 4096, prot=7)\n"
            "m.write(b'\\xb8\\x02\\0\\0\\0\\xcd\\x80\\xc3')\n"
            "f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))"
            "\ngot = f()\nif got == 0: time.sleep(1000)\nprint('ESCAPED' if got > 0 else got)",
        ),
    ]
    return programs


def _signals() -> list[Program]:
    targets = {
        "the parent": "@PARENT@",
        "another process": "@VICTIM@",
        "everything": "-1",
        "process 1": "1",
        "the group": "0",
    }
    programs = [
        Program(f"kill {name}", f"tries(lambda: os.kill({target}, 0))", shows="not permitted")
        for name, target in targets.items()
    ]
    victim = "@VICTIM@"
    calls = {
        "tkill": f"call(200, {victim}, 9)",
        "tgkill": f"call(234, {victim}, {victim}, 9)",
        "tgkill of the parent": "call(234, @PARENT@, @PARENT@, 0)",
        "rt_sigqueueinfo": f"call(129, {victim}, 9, struct.pack('iii', 9, 0, -1) + bytes(120))",
        "rt_tgsigqueueinfo": f"call(297, {victim}, {victim}, 9, struct.pack('iii', 9, 0, -1)"
        " + bytes(120))",
        "kill of a group": "tries(lambda: os.killpg(os.getpgid(0), 0))",
        "prctl: outlive the parent": "call(157, 1, 0, 0, 0, 0)",
        "prctl: be looked into": "call(157, 4, 1, 0, 0, 0)",
        "prctl: choose a tracer": "call(157, 0x59616d61, -1, 0, 0, 0)",
        "owner of a file": f"a, b = os.pipe(); call(72, a, 8, {victim})",
        "owner of a file, by another call": "a, b = os.pipe(); call(72, a, 15,"
        f" struct.pack('ii', 1, {victim}))",
        "signal of a file": "a, b = os.pipe(); call(72, a, 10, 9)",
        "owner by ioctl": "a, b = socket.socketpair(); call(16, a.fileno(), 0x8901,"
        f" struct.pack('i', {victim}))",
        "keys typed for a terminal": "call(16, 0, 0x5412, b'x')",
        "prlimit64 of another": f"call(302, {victim}, 7, struct.pack('QQ', 1, 1), None)",
        "prlimit64 of the parent": "call(302, @PARENT@, 7, struct.pack('QQ', 1, 1), None)",
        "priority of another": f"tries(lambda: os.setpriority(os.PRIO_PROCESS, {victim}, 19))",
        "priority of the user": "tries(lambda: os.setpriority(os.PRIO_USER, os.getuid(), 19))",
        "ioprio of another": f"call(251, 1, {victim}, 3 << 13)",
        "affinity of another": f"tries(lambda: os.sched_setaffinity({victim}, [0]))",
        "scheduler of another": f"call(144, {victim}, 5, struct.pack('i', 0))",
        "pages of another": f"call(279, {victim}, 1, struct.pack('Q', 0), None, bytes(4), 2)",
        "advice to another": "call(440, 3, None, 0, 4, 0)",
        "reap another": "call(448, 3, 0)",
    }
    return programs + [
        Program(name, code, shows="not permitted" if "tries" in code else "refused 1")
        for name, code in calls.items()
    ]


def _kernel() -> list[Program]:
    numbers = {
        "ptrace": (101, "16, @VICTIM@, 0, 0"),
        "ptrace of itself": (101, "0, 0, 0, 0"),
        "process_vm_readv": (310, "@VICTIM@, None, 0, None, 0, 0"),
        "process_vm_writev": (311, "@PARENT@, None, 0, None, 0, 0"),
        "pidfd_send_signal": (424, "3, 9, None, 0"),
        "pidfd_getfd": (438, "3, 0, 0"),
        "kcmp": (312, "@VICTIM@, @VICTIM@, 0, 0, 0"),
        "mount": (165, "b'none', b'/tmp', b'tmpfs', 0, None"),
        "umount": (166, "b'/scratch', 2"),
        "mount anew": (165, "b'none', b'/scratch', b'tmpfs', 0x20, b'nr_inodes=0'"),
        "pivot_root": (155, "b'.', b'.'"),
        "chroot": (161, "b'.'"),
        "unshare users": (272, "0x10000000"),
        "unshare network": (272, "0x40000000"),
        "setns": (308, "0, 0"),
        "open_tree": (428, "-100, b'/', 1"),
        "move_mount": (429, "-100, b'/', -100, b'/', 0"),
        "fsopen": (430, "b'tmpfs', 0"),
        "fsconfig": (431, "3, 6, None, None, 0"),
        "mount_setattr": (442, "-100, b'/', 0, bytes(32), 32"),
        "bpf": (321, "0, bytes(72), 72"),
        "perf_event_open": (298, "bytes(112), 0, -1, -1, 0"),
        "userfaultfd": (323, "1"),
        "io_uring": (425, "8, bytes(120)"),
        "add_key": (248, "b'user', b'x', b'x', 1, -3"),
        "keyctl": (250, "0, -3, 0"),
        "init_module": (175, "None, 0, b''"),
        "kexec_load": (246, "0, 0, None, 0"),
        "reboot": (169, "0xfee1dead, 672274793, 7, 0"),
        "swapon": (167, "b'/scratch/x', 0"),
        "acct": (163, "b'/scratch/x'"),
        "syslog": (103, "3, None, 0"),
        "clock_settime": (227, "0, b'\\xff' * 16"),
        "personality": (135, "0x0400000"),
        "fanotify": (300, "0, 0"),
        "open_by_handle_at": (304, "-100, bytes(128), 0"),
        "modify_ldt": (154, "0, None, 0"),
        "iopl": (172, "3"),
        "shared memory that stays": (29, "0x4c52, 4096, 0o1666"),
        "semaphores that stay": (64, "0x4c52, 1, 0o1666"),
        "a queue that stays": (68, "0x4c52, 0o1666"),
        "a queue with a name": (240, "b'longrun', 0o102, 0o666, None"),
    }
    return [
        Program(name, f"call({number}, {arguments})", shows="refused 1")
        for name, (number, arguments) in numbers.items()
    ] + [
        Program(
            "become root", "tries(lambda: os.setuid(0) or os.getuid() or 1 / 0)", only="namespace"
        ),
        Program(
            "capabilities",
            "a = open('/proc/self/status').read()\n"
            "print('held' if 'CapEff:\\t0000000000000000' in a and 'CapPrm:\\t0000000000000000' "
            "in a else 'ESCAPED')",
            shows="held",
        ),
        Program("a call of tomorrow", "call(500, 0)", shows="refused 38"),
    ]


def _network() -> list[Program]:
    tries = {
        "connect": "socket.create_connection(('127.0.0.1', @PORT@), 1)",
        "connect to the world": "socket.create_connection(('192.0.2.1', 80), 1)",
        "connect over IPv6": "socket.create_connection(('::1', @PORT@), 1)",
        "resolve": "socket.getaddrinfo('example.com', 80)",
        "download": "__import__('urllib.request').request.urlopen('http://127.0.0.1:@PORT@')",
        "datagram": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "raw packets": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
        "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "virtual machines": "socket.socket(40, socket.SOCK_STREAM)",
        "crypto sockets": "socket.socket(38, socket.SOCK_SEQPACKET)",
        "socket without a file": "socket.socket(socket.AF_UNIX).connect('\\0@NAME@')",
        "listen": "socket.create_server(('127.0.0.1', 0))",
        "listen without a file": "socket.socket(socket.AF_UNIX).bind('\\0longrun-x')",
        "pair of datagram sockets": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
        "pair made to connect": "socket.socketpair()[0].connect('\\0@NAME@')",
        "pair that sends elsewhere": "socket.socketpair()[0].sendto(b'x', '\\0@NAME@')",
    }
    return [Program(name, f"tries(lambda: {code})") for name, code in tries.items()]


def _files() -> list[Program]:
    shut_in = {
        "passwords": "open('/etc/shadow').read()",
        "users": "open('/etc/passwd').read()",
        "a file outside": "open('@FILE@').read()",
        "home": "os.listdir('/home')",
        "the machine's folders": "[x for x in ('/var', '/home', '/sys') if os.path.exists(x)][0]",
        "programs": "open('/usr/longrun-evil', 'w')",
        "packages": "open(sys.prefix + '/longrun-evil', 'w')",
        "shared memory": "open('/dev/shm/longrun-evil', 'w')",
        "the root": "open('/longrun-evil', 'w')",
        "devices": "os.mkdir('/dev/longrun-evil')",
        "the worker": "open('/worker.py', 'a')",
        "kernel settings": "open('/proc/sys/kernel/core_pattern', 'r+')",
        "sysrq": "open('/proc/sysrq-trigger', 'r+')",
        "a device made": "os.mknod('disk', 0o60660, os.makedev(8, 0))",
        "processes of the machine": "[p for p in os.listdir('/proc') if p.isdigit()][1]",
        "routes": "open('/proc/net/route').readlines()[1]",
        "terminals": "os.openpty()",
    }
    changes = {
        "write a file outside": "open('@FILE@', 'a')",
        "empty a file outside": "os.truncate('@FILE@', 0)",
        "remove a file outside": "os.unlink('@FILE@')",
        "rename a file outside": "os.rename('@FILE@', '@FILE@2')",
        "replace a file outside": "[open('mine', 'w').close(), os.rename('mine', '@FILE@')]",
        "link a file outside": "os.link('@FILE@', 'mine')",
        "make a file outside": "open('@FOLDER@/evil', 'w')",
        "make a folder outside": "os.mkdir('@FOLDER@/evil')",
        "make a link outside": "os.symlink('/', '@FOLDER@/evil')",
        "write through a link": "[os.symlink('@FILE@', 'link'), open('link', 'w')]",
        "climb out": "open('../' * 9 + '@FILE@', 'w')",
        "attributes of a file outside": "os.setxattr('@FILE@', 'user.x', b'y')",
        "memory of the parent": "open('/proc/@PARENT@/mem', 'r+b')",
        "memory of another process": "open('/proc/@VICTIM@/mem', 'r+b')",
        "environment of the parent": "open('/proc/@PARENT@/environ', 'rb').read()",
        "descriptors of the parent": "os.readlink('/proc/@PARENT@/fd/0')",
        "root of the parent": "os.listdir(os.path.join('/proc/@PARENT@', 'root', 'etc'))",
    }
    first = "[open(f'/proc/1/{name}', 'r+b') for name in ('mem', 'maps', 'syscall')]"
    own = {
        "memory of the first process": first,
        "the filter taken back": "1 / libc.prctl(22, 0, 0, 0, 0) and 1 / 0",
        "the parent's secrets": "os.environ['LONGRUN_ATTACK_SECRET']",
        "open files of the parent": "[os.pread(n, 9, 0) for n in range(3, 64) if os.path.exists("
        "f'/proc/self/fd/{n}')][9]",
    }
    return [
        *(Program(n, f"tries(lambda: {code})", only="bubblewrap") for n, code in shut_in.items()),
        *(Program(n, f"tries(lambda: {code})", only="landlock") for n, code in changes.items()),
        *(Program(n, f"tries(lambda: {code})") for n, code in own.items()),
        Program(
            "modes of a file outside",
            "os.chmod('@FILE@', 0o777); os.utime('@FILE@', (0, 0))",
            only="process",
        ),
        Program(
            "the host's name",
            "print('ESCAPED' if socket.gethostname() != 'sandbox' else 1)",
            only="bubblewrap",
        ),
        Program("the first process taken over", TAKE_OVER, only="bubblewrap"),
    ]


TAKE_OVER = """
at = int(open('/proc/1/syscall').read().split()[-1], 16)
memory = os.open('/proc/1/mem', os.O_RDWR)
# prctl(PR_SET_PDEATHSIG, 0), then pause() for ever: it would outlive the sandbox.
code = (b'\\xb8\\x9d\\0\\0\\0\\xbf\\1\\0\\0\\0\\x31\\xf6\\x31\\xd2\\x0f\\x05'
        b'\\xb8\\x22\\0\\0\\0\\x0f\\x05\\xeb\\xf7')
print('ESCAPED', os.pwrite(memory, code, at))
os._exit(0)
"""

PROGRAMS = [
    *_endless(),
    *_broken(),
    *_lies(),
    *_greedy(),
    *_processes(),
    *_signals(),
    *_kernel(),
    *_network(),
    *_files(),
]
