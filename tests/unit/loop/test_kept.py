"""Sockets that outlive a restart."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from sampan.loop.kept import KeptSockets
from sampan.loop.notify import Notifier


def passed_in(*sockets: socket.socket) -> tuple[int, list[int]]:
    """Give sockets consecutive descriptors, as a supervisor does; returns the first."""
    first = 900
    for index, sock in enumerate(sockets):
        os.dup2(sock.fileno(), first + index)
    return first, [first + index for index in range(len(sockets))]


def test_sockets_come_in_under_their_names_and_no_child_inherits_them() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        udp.bind(("127.0.0.1", 0))
        first, numbers = passed_in(udp, tcp)
        environ = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "dns-udp:dns-tcp", "LISTEN_PID": str(os.getpid())}
        kept = KeptSockets(Notifier({}), environ, first)
        assert environ == {}
        (again,) = kept.take("dns-udp")
        with again:
            assert again.getsockname() == udp.getsockname()
            assert not os.get_inheritable(again.fileno())
        assert kept.take("dns-udp") == []
        for left in kept.take("dns-tcp"):
            left.close()
        assert not any(Path(f"/proc/self/fd/{number}").exists() for number in numbers)


def test_what_is_meant_for_another_process_is_left_alone() -> None:
    with socket.socket() as sock:
        first, (number,) = passed_in(sock)
        kept = KeptSockets(Notifier({}), {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "LISTEN_PID": "1"}, first)
        assert kept.take("x") == []
        os.close(number)


def test_a_descriptor_that_is_no_socket_is_passed_over(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as handle:
        os.dup2(handle.fileno(), 900)
    kept = KeptSockets(Notifier({}), {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "x"}, 900)
    assert kept.take("x") == []
    os.close(900)


def test_a_socket_is_handed_to_the_supervisor_with_its_name(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor, socket.socket() as sock:
        supervisor.bind(address)
        kept = KeptSockets(Notifier({"NOTIFY_SOCKET": address}), {})
        kept.keep("dns-tcp", sock)
        message, descriptors, _, _ = socket.recv_fds(supervisor, 1024, 4)
        assert message == b"FDSTORE=1\nFDNAME=dns-tcp\nFDPOLL=0"
        (number,) = descriptors
        assert os.fstat(number) == os.fstat(sock.fileno())
        os.close(number)
        kept.drop("dns-tcp")
        assert supervisor.recv(1024) == b"FDSTOREREMOVE=1\nFDNAME=dns-tcp"
