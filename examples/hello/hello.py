"""The example's web server: answers every GET with $GREETING and its pod's name. Runs in the image of build.py."""

import os
import signal
import socket
import sys

ANSWER = "{} from pod {} on node {}\n"


def main() -> None:
    """Serve on :8080, one request after another, until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    body = ANSWER.format(os.environ.get("GREETING", "Hello"), os.environ.get("POD_NAME", socket.gethostname()),
                         os.environ.get("NODE_NAME", "?")).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with socket.create_server(("", 8080), reuse_port=False) as server:
        print("listening on :8080", flush=True)
        while True:
            connection, peer = server.accept()
            with connection:
                connection.settimeout(5)
                try:
                    request = connection.recv(65536)
                    connection.sendall(head.encode() + body)
                except OSError as error:
                    print(f"{peer[0]}: {error}", flush=True)
                else:
                    line = request.split(b"\r", 1)[0].decode("latin-1")
                    print(f"{peer[0]} {line}", flush=True)


if __name__ == "__main__":
    main()
