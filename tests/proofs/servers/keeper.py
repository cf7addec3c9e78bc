"""Runs a program for as long as somebody holds the other end of its own standard input: however
the tests end, killed included, the program ends with them."""

import os
import subprocess
import sys
import threading


def main() -> None:
    program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=end_with_input, args=(program,), daemon=True).start()
    status = program.wait()
    os._exit(status if status >= 0 else 128 - status)


def end_with_input(program: subprocess.Popen[bytes]) -> None:
    while os.read(0, 4096):
        pass
    program.terminate()
    try:
        program.wait(10)
    except subprocess.TimeoutExpired:
        program.kill()


if __name__ == "__main__":
    main()
