"""Ten thousand damaged or odd files, archives and documents: `make test-faults`.

Each goes to `prepare`, `separate`, `evaluate`, `info`, `compare` or the reader of records.  Three outcomes are allowed: it works,
all of it; it works and says what is wrong; or it fails in one sentence that names the file.  No traceback, no hang, no silent
loss, nothing written outside the output folder, inputs unchanged.

    python tests/faults --cases 10000 --seconds 1200
    python tests/faults --seeds 4711          # one case again, with its traceback
"""

import argparse
import json
import os
import queue
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

HANGS_AFTER_S = 120
"""Processor time of a case.  It takes a second or two; the first one in a process imports TensorFlow and compiles."""

_SLEEPS_AFTER_S = 1800
"""Time after which a case that uses no processor time counts as one that hangs: long, for machines that do other work."""

_MEMORY_BYTES = 12 << 30


def work(root: Path, number: int) -> None:
    """Run the cases whose seeds come in on standard input; print one JSON line at the end of each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What is printed by libraries does not mix with the answers.
    from cases import Good, run_case

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    for line in sys.stdin:
        seed = int(line)
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + HANGS_AFTER_S, resource.RLIM_INFINITY))
        answer: dict[str, Any] = {"seed": seed}
        try:
            answer["done"] = run_case(Good(root), root / f"case-{number}", seed)
        except Exception:
            answer["fault"] = traceback.format_exc()
        print(json.dumps(answer), file=answers, flush=True)


class Worker:
    """A process that runs cases; one that dies or hangs is a fault of its case."""

    def __init__(self, root: Path, number: int) -> None:
        words = [sys.executable, __file__, "--worker", str(root), str(number)]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def run(self, seed: int) -> dict[str, Any]:
        """The outcome of a case."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{seed}\n")
            self.process.stdin.flush()
            line = self._lines.get(timeout=_SLEEPS_AFTER_S)
        except queue.Empty:
            self.process.kill()
            return {"seed": seed, "fault": f"no end within {_SLEEPS_AFTER_S} s", "dead": True}
        except BrokenPipeError:
            line = ""
        if not line:
            status = self.process.wait()
            reason = signal.Signals(-status).name if status < 0 else f"status {status}"
            return {"seed": seed, "fault": f"the process died: {reason}", "dead": True}
        return json.loads(line)


def run_all(root: Path, seeds: list[int], seconds: float, num_workers: int) -> tuple[Counter[str], dict[int, str]]:
    """Run cases until the time is over: their number by kind, and the faults by seed."""
    end, kinds, faults = time.monotonic() + seconds, Counter[str](), dict[int, str]()
    remaining = iter(seeds)
    lock = threading.Lock()

    def serve(number: int) -> None:
        worker = Worker(root, number)
        while time.monotonic() < end:
            with lock:
                seed = next(remaining, None)
            if seed is None:
                break
            answer = worker.run(seed)
            with lock:
                if "fault" in answer:
                    faults[seed] = answer["fault"]
                    print(f"seed {seed}: {answer['fault'].strip().splitlines()[-1][:300]}", flush=True)
                kinds[answer.get("done", "fault").partition(":")[0]] += 1
                if sum(kinds.values()) % 500 == 0:
                    print(f"{sum(kinds.values())} cases, {len(faults)} faults", flush=True)
            if answer.get("dead"):
                worker = Worker(root, number)
        worker.process.kill()

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(num_workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return kinds, faults


def main() -> int:
    """Make the good files, run the cases, and print the seeds that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="number of cases")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first case; the others follow it")
    parser.add_argument("--seeds", type=int, nargs="*", help="run these alone, in this process")
    parser.add_argument("--seconds", type=float, default=1800.0, help="time after which no further case begins")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(Path(options.worker[0]), int(options.worker[1]))
        return 0
    with tempfile.TemporaryDirectory(prefix="jaxpu-faults-") as folder:
        from cases import Good, contents, make_good, run_case

        root = Path(folder)
        make_good(root)
        before = contents(root)
        if options.seeds:
            for seed in options.seeds:
                print(f"seed {seed}: {run_case(Good(root), root / 'case', seed)}")
            return 0
        seeds = list(range(options.first_seed, options.first_seed + options.cases))
        kinds, faults = run_all(root, seeds, options.seconds, options.workers)
        unchanged = {name: value for name, value in contents(root).items() if not name.startswith("case-")} == before
    print(f"{sum(kinds.values())} of {len(seeds)} cases, seeds from {seeds[0]}: {dict(kinds.most_common())}")
    print(f"{len(faults)} faults; shared inputs {'unchanged' if unchanged else 'CHANGED'}")
    for seed, fault in sorted(faults.items()):
        print(f"\nseed {seed}\n{fault}")
    return 1 if faults or not unchanged else 0


if __name__ == "__main__":
    sys.exit(main())
