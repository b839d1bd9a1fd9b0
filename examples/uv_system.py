"""What libuv knows of this machine and this process.

    python examples/uv_system.py
"""

from uvtulip import uv
from uvtulip.uv import util

MIB = 1 << 20


def main() -> None:
    system = util.uname()
    print(f"{util.gethostname()}: {system.sysname} {system.release}, {system.machine}")
    print(f"libuv {uv.LIBUV_VERSION}, up for {util.uptime():.0f} s")
    cpus = util.cpu_info()
    print(f"{len(cpus)} CPUs, {util.available_parallelism()} for us: {cpus[0].model}")
    print("load {:.2f} {:.2f} {:.2f}".format(*util.loadavg()))
    free, total = util.get_free_memory(), util.get_total_memory()
    print(f"memory: {free // MIB} of {total // MIB} MiB free")
    for interface in util.interface_addresses():
        kind = "internal" if interface.is_internal else interface.mac
        print(f"{interface.name}: {interface.address} ({kind})")
    used = util.getrusage()
    rss = util.resident_set_memory() // MIB
    cpu = used.ru_utime + used.ru_stime
    print(f"process {util.getpid()} in {util.cwd()}: {rss} MiB, {cpu:.2f} s of CPU")
    print(f"a key: {util.random(16).hex()}")


if __name__ == "__main__":
    main()
