"""What a process holds, as the system counts it."""


def status_bytes(process, key):
    """`VmRSS` (now) or `VmHWM` (the most there ever was)."""
    with open(f"/proc/{process.child.pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(f"{key}:"))
