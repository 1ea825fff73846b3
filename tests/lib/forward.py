# SPDX-License-Identifier: Apache-2.0
"""A link with a limited rate or a long delay between two ports of this machine, for kernels without netem."""

import queue
import socket
import threading
import time

PIECE = 4096


class Forwarder:
    """Forwards .port to port .to, both ways: at most bytes_per_s in all, each byte delay_s late."""

    def __init__(self, to, bytes_per_s=0, delay_s=0.0):
        self.to, self.bytes_per_s, self.delay_s = to, bytes_per_s, delay_s
        self.lock, self.free_at = threading.Lock(), 0.0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)
        self.port = self.listener.getsockname()[1]
        self.sockets = [self.listener]
        self.start(self.accept)

    @staticmethod
    def start(target, *args):
        threading.Thread(target=target, args=args, daemon=True).start()

    def accept(self):
        while True:
            try:
                near = self.listener.accept()[0]
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                near.close()
                continue
            self.sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                late = queue.Queue(0 if self.delay_s else 1)
                self.start(self.take, source, late)
                self.start(self.give, sink, late)

    def take(self, source, late):
        while True:
            try:
                data = source.recv(PIECE)
            except OSError:
                data = b""
            if data and self.bytes_per_s:
                with self.lock:
                    self.free_at = max(self.free_at, time.monotonic()) + len(data) / self.bytes_per_s
                    wait = self.free_at - time.monotonic()
                time.sleep(max(0.0, wait))
            late.put((time.monotonic() + self.delay_s, data))
            if not data:
                return

    def give(self, sink, late):
        while True:
            when, data = late.get()
            time.sleep(max(0.0, when - time.monotonic()))
            try:
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)
            except OSError:
                return

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for one in self.sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            one.close()
