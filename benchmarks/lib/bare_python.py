"""The bare limit in Python: as `bare.c`, told by the same lines. `python -m benchmarks.lib.bare_python HEX`."""

import resource
import socket
import sys

ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def accept(listener: socket.socket) -> socket.socket:
    """One client, its handshake answered."""
    client, _ = listener.accept()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = b""
    while b"\r\n\r\n" not in head:
        head += client.recv(4096)
    client.sendall(ANSWER)
    return client


def open_listener() -> socket.socket:
    """On a free port, which is announced; and the limit of open files is raised."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print("listening", listener.getsockname()[1], flush=True)
    return listener


def send(clients: list[socket.socket], frame: bytes, messages: int, together: int) -> None:
    """What is measured."""
    while messages:
        data = frame * min(messages, together)
        size = len(data)
        for client in clients:
            if client.send(data) != size:
                raise SystemExit("a blocking socket took less than all")
        messages -= min(messages, together)


def main() -> None:
    listener, frame = open_listener(), bytes.fromhex(sys.argv[1])
    clients: list[socket.socket] = []
    for line in sys.stdin:
        match line.split():
            case ["accept", count]:
                clients += [accept(listener) for _ in range(int(count))]
                print("accepted", flush=True)
            case ["send", messages, together]:
                send(clients, frame, int(messages), int(together))
                print("sent", flush=True)
            case ["close"]:
                for client in clients:
                    client.close()
                clients.clear()
                print("closed", flush=True)


if __name__ == "__main__":
    main()
