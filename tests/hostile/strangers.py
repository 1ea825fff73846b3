# SPDX-License-Identifier: Apache-2.0
"""A crowd that calls a receiver all the time: silent, slow, half through the handshake, wrong."""

import os
import socket
import threading

import wire


class Crowd:
    """Threads that call until close(); .calls counts connections."""

    def __init__(self, port):
        self.port, self.calls, self.over, self.sockets = port, 0, threading.Event(), []
        for call in (self.silent, self.silent, self.silent, self.dripping, self.half, self.welcomed, self.wrong, self.data):
            threading.Thread(target=self.repeat, args=(call,), daemon=True).start()

    def repeat(self, call):
        while not self.over.wait(0.05):
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as sock:
                    self.calls += 1
                    call(sock)
            except (wire.Closed, OSError):
                pass

    def silent(self, sock):
        """Waits until it is turned away."""
        sock.recv(1)

    def dripping(self, sock):
        for byte in wire.link_hello():
            sock.send(bytes((byte,)))
            if self.over.wait(0.3):
                return

    def half(self, sock):
        sock.sendall(wire.link_hello()[:16])

    def welcomed(self, sock):
        """A control connection without data connections."""
        sock.sendall(wire.link_hello())
        wire.Reader(sock).exactly(24)
        self.over.wait(0.5)

    def wrong(self, sock):
        sock.sendall(os.urandom(64))
        sock.recv(1)

    def data(self, sock):
        """A data connection of no session."""
        sock.sendall(wire.link_hello(kind=2, nonce=os.urandom(16)))
        sock.recv(1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over.set()
