"""A server between clients and an S3 store that can be made unreachable, slow or too busy."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer

SLOW_SECONDS = 1.0
BUSY = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'
CHUNK = 1 << 16


class Proxy(ThreadingTCPServer):
    """A proxy that forwards connections to a port of the loopback; `with` starts and ends it.

    Attributes:
        mode: `through`; `away`, connections are closed; `slow`, each piece takes a second; `busy`, answers 503.
        touched: the number of connections that met another mode than `through`.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind, self.mode, self.touched = port, "through", 0
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self._open: set[socket.socket] = set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def become(self, mode: str) -> None:
        """Change the mode; cut open connections."""
        self.mode = mode
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def answer(self, client: socket.socket) -> None:
        """Serve one connection."""
        if self.mode != "through":
            self.touched += 1
        if self.mode == "away":
            return
        self._open.add(client)
        try:
            if self.mode == "busy":
                client.recv(CHUNK)
                head = f"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: {len(BUSY)}\r\n"
                client.sendall(f"{head}Connection: close\r\n\r\n".encode() + BUSY)
                return
            with socket.create_connection(("127.0.0.1", self.behind)) as store:
                threading.Thread(target=self._pump, args=(client, store), daemon=True).start()
                self._pump(store, client)
        except OSError:  # one of the sides has cut it
            pass
        finally:
            self._open.discard(client)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(CHUNK):
                if self.mode == "slow":
                    time.sleep(SLOW_SECONDS)
                target.sendall(piece)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def server_close(self) -> None:
        """End the server, and cut open connections."""
        self.shutdown()
        self.become("away")
        super().server_close()


class _Handler(BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Proxy)
        self.server.answer(self.request)
