"""The progress bar where it is drawn: in a log, on a terminal, in a notebook."""

import contextlib
import os
import pty
import subprocess
import sys
import termios
import textwrap

PROGRAM = """
    import sys, time
    from data_pipeline import progress

    progress.SECONDS_BETWEEN_LINES = 0.5
    with progress.progress_bar(100_000, "count", "step") as bar:
        begun = time.perf_counter()
        for _ in range(100_000):
            bar.update()
            while time.perf_counter() - begun < bar.n * 1.2e-5:
                pass
        bar.set_postfix(loss=1.0)
"""


def test_a_log_gets_a_line_now_and_then() -> None:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(PROGRAM)], capture_output=True, text=True, check=True)
    assert not done.stdout
    assert "\r" not in done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("count:   0%")
    assert "100000/100000" in lines[-1]
    assert "loss=1" in lines[-1]
    # The first, one each half second, the postfix, and the last.
    assert 4 <= len(lines) <= 12


def test_a_terminal_gets_a_bar() -> None:
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(PROGRAM)], stderr=follower)
    os.close(follower)
    drawn = b""
    with contextlib.suppress(OSError):  # What reading gives when the process has ended.
        while True:
            drawn += os.read(leader, 4096)
    os.close(leader)
    assert process.wait(timeout=60) == 0
    assert drawn.count(b"\rcount: ") > 5
    assert b"100000/100000" in drawn


def test_nothing_is_drawn_unless_wanted() -> None:
    program = "from data_pipeline.progress import progress_bar\nwith progress_bar(3, 'count', show=False) as bar: bar.update()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not done.stdout + done.stderr
