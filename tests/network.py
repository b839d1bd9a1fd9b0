"""What this machine's network lacks, for tests that cannot be made without it."""

import socket

import pytest

GROUP = "239.255.77.1"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def has_broadcast() -> bool:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        try:
            sock.connect(("255.255.255.255", 9))
        except OSError:
            return False
    return True


def has_multicast() -> bool:
    """By the loopback device, which may do without a route."""
    here = socket.inet_aton("127.0.0.1")
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("", 0))
        join = socket.inet_aton(GROUP) + here
        try:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, join)
            sock.sendto(b"x", (GROUP, sock.getsockname()[1]))
        except OSError:
            return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
needs_broadcast = pytest.mark.skipif(
    not has_broadcast(), reason="no route for broadcasts here"
)
needs_multicast = pytest.mark.skipif(
    not has_multicast(), reason="no route for multicast here"
)
