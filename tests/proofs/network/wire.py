"""A bad wire between the interfaces a0 and b0 of its network namespace: `wire.py DELAY SPREAD LOSS
DOUBLE`, seconds and shares of one. Every frame takes its own time, so they overtake each other.

The kernel's own netem would do this, but many kernels do not have it. Answers each line of its
input with how many frames were lost, doubled and overtaken; ends with its input.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
import select
import socket
import sys
import time

ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_VNET_HDR = 15  # frames come with their offloading state, and so may leave unchecked
VNET_HDR = 10  # bytes of it
FRAME = VNET_HDR + 65536 + 64
IPV4 = b"\x08\x00"


def reader(interface: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    sock.bind((interface, ETH_P_ALL))
    sock.setblocking(False)
    return sock


def main() -> None:
    delay, spread, loss, double = (float(text) for text in sys.argv[1:])
    dice = random.Random(20)
    ends = [reader("a0"), reader("b0")]
    poll = select.poll()
    for watched in (*ends, sys.stdin):
        poll.register(watched, select.POLLIN)
    numbers = itertools.count()
    # when it is due, its number, where it goes, the frame
    queue: list[tuple[float, int, int, bytes]] = []
    last = [-1, -1]
    facts = {"frames": 0, "lost": 0, "doubled": 0, "overtaken": 0}
    print("ready", flush=True)
    while True:
        timeout = max(0.0, queue[0][0] - time.monotonic()) * 1000 if queue else None
        ready = {fd for fd, _ in poll.poll(timeout)}
        if sys.stdin.fileno() in ready:
            if not sys.stdin.readline():
                return
            print(json.dumps(facts), flush=True)
        for side, end in enumerate(ends):
            if end.fileno() not in ready:
                continue
            frame, (_, _, kind, *_) = end.recvfrom(FRAME)
            if kind == socket.PACKET_OUTGOING:  # our own
                continue
            facts["frames"] += 1
            # Only IP: a lost ARP may end in "no route to host", which is another test.
            is_ip = frame[VNET_HDR + 12 : VNET_HDR + 14] == IPV4
            copies = 1
            if is_ip and dice.random() < loss:
                facts["lost"] += 1
                continue
            if is_ip and dice.random() < double:
                facts["doubled"] += 1
                copies = 2
            for _ in range(copies):
                due = time.monotonic() + delay + spread * dice.random()
                heapq.heappush(queue, (due, next(numbers), 1 - side, frame))
        while queue and queue[0][0] <= time.monotonic():
            _, number, side, frame = heapq.heappop(queue)
            facts["overtaken"] += number < last[side]
            last[side] = max(last[side], number)
            try:
                ends[side].send(frame)
            except OSError:  # the interface is down: lost
                facts["lost"] += 1


if __name__ == "__main__":
    main()
