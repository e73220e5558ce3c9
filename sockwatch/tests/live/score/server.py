"""A server that does what it is told, a line each, and answers `ok` or what went wrong: the same words as in server.c."""

import errno
import os
import resource
import socket
import struct
import sys
import threading
import time

kept = []
server = None
taken = threading.Lock()
taken.acquire()


def waits_for_the_cache(seconds):
    taken.acquire(timeout=seconds)


def renders_a_template(seconds):
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        sum(range(1000))


DOES = {"nothing": lambda seconds: None, "block": waits_for_the_cache, "compute": renders_a_template}


def serve(count, what, ms):
    while count != 0:
        DOES[what](int(ms) / 1000)
        server.accept()[0].close()
        count -= 1


def converse(connection, seconds):
    with connection:
        try:
            for line in connection.makefile("rb"):
                if seconds:
                    time.sleep(seconds)
                connection.sendall(line)
        except OSError:
            pass


def listen(address, port, backlog, *share):
    global server
    server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    if share:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind((address, int(port)))
    server.listen(int(backlog))


def defer(seconds):
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, int(seconds))


def descriptors(limit):
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(limit), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def idle():
    """Another thread that has nothing to do with connections."""
    threading.Thread(target=threading.Event().wait, daemon=True).start()


def leave(count):
    """A thread accepts so many, and is gone."""
    thread = threading.Thread(target=serve, args=(int(count), "nothing", 0))
    thread.start()
    thread.join()


def take(count):
    kept.extend(server.accept()[0] for _ in range(int(count)))


def exhaust(failures):
    left = int(failures)
    while left:
        try:
            kept.append(server.accept()[0])
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            left -= 1


def flood():
    for connection in kept:
        connection.setblocking(False)
        try:
            while True:
                connection.send(bytes(1 << 16))
        except BlockingIOError:
            pass


def close():
    while kept:
        kept.pop().close()


def abort():
    for connection in kept:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    close()


def connect(address, port, count, ms, *keep):
    for _ in range(int(count)):
        connection = socket.create_connection((address, int(port)))
        if keep:
            kept.append(connection)
        else:
            connection.close()
        time.sleep(int(ms) / 1000)


def fail(address, port, count):
    for _ in range(int(count)):
        try:
            kept.append(socket.create_connection((address, int(port))))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise


def echo(ms):
    """A thread for each connection, which takes so long for each line."""
    while True:
        connection = server.accept()[0]
        threading.Thread(target=converse, args=(connection, int(ms) / 1000), daemon=True).start()


def forever(what, ms):
    serve(-1, what, ms)


TELLS = {
    "hello": lambda: None,
    "listen": listen,
    "defer": defer,
    "pin": lambda: os.sched_setaffinity(0, {0}),
    "nice": lambda value: os.nice(int(value)),
    "descriptors": descriptors,
    "idle": idle,
    "serve": lambda count, what, ms: serve(int(count), what, ms),
    "leave": leave,
    "take": take,
    "exhaust": exhaust,
    "flood": flood,
    "close": close,
    "abort": abort,
    "connect": connect,
    "fail": fail,
}
NEVER_END = {"echo": echo, "forever": forever}


def main():
    while line := sys.stdin.readline():
        verb, *words = line.split()
        if verb in NEVER_END:
            print("ok", flush=True)
            NEVER_END[verb](*words)
        try:
            TELLS[verb](*words)
            print("ok", flush=True)
        except OSError as error:
            print(error, flush=True)


main()
