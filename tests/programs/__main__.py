"""`python -m tests.programs`: draw many programs, ask the oracles, print what is wrong as source, and say how much was left free."""

from __future__ import annotations

import argparse
import time
from random import Random

from tests.programs.generate import generate
from tests.programs.in_onnx import survey_onnx
from tests.programs.opened import played
from tests.programs.survey import Tally, asks, survey


def show(name: str, opened: bool) -> None:
    program = generate(Random(name), opened=opened)
    print(played(program, Random(name)).code if opened else program.source())
    print(asks(name, opened)(program).verdict)


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.programs", description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--open", action="store_true", help="with open sizes, and judged at two of them")
    parser.add_argument("--onnx", action="store_true", help="as ONNX files, run at other values; half of them steered by values")
    parser.add_argument("--program", help="SEED/NUMBER: print this one, and what the oracles say of it")
    options = parser.parse_args()
    if options.program:
        show(options.program, options.open)
        return
    if options.onnx:
        counts = survey_onnx(options.seed, range(options.count), options.open)
        print(", ".join(f"{verdict} {count}" for verdict, count in counts.items()))
        raise SystemExit(bool(counts["wrong"]))
    began, total = time.perf_counter(), Tally()
    for tally in survey(options.count, options.seed, options.jobs, options.open):
        for kind, what, source in tally.faults:
            print(f"\n{kind.upper()} {what}\n{source}", flush=True)
        total.add(tally)
        if total.counts["programs"] % 1000 == 0:
            print(f"{total.counts['programs']} programs, {time.perf_counter() - began:.0f} s", flush=True)
    counts, seconds = total.counts, time.perf_counter() - began
    print(f"\n{counts['programs']} programs of {counts['calls'] / counts['programs']:.1f} calls in {seconds:.0f} s")
    print(
        f"wrong {counts['wrong']}, crashes {counts['crash']}, unstable {counts['unstable']}, decided by rounding {counts['rounding']}"
    )
    if options.open:
        print(f"with sizes that may vary, judged at two of them: {share(counts['two sizes'], counts['programs'])}")
    print(f"free factors {share(counts['free factors'], counts['factors'])} of {counts['factors']}")
    print(f"parameter elements on a free axis {share(counts['free elements'], counts['elements'])}")
    print(f"programs that use each of {len(total.ops)} ops:")
    print(", ".join(f"{name.removeprefix('aten.')} {times}" for name, times in total.ops.most_common()))
    raise SystemExit(bool(counts["wrong"]))


if __name__ == "__main__":
    main()
