"""Which learning rate is best for the random twin: `python -m graphclone.demo.grid text`; `graphclone.demo.task` says what it found."""

from __future__ import annotations

import argparse

from graphclone import sources
from graphclone.demo.race import race
from graphclone.demo.ready import one_thread
from graphclone.demo.task import TASKS, task_named

RATES = (1e-3, 1.4e-3, 2e-3, 2.8e-3, 4e-3, 8e-3, 1.6e-2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=tuple(TASKS))
    parser.add_argument("--lr", type=float, nargs="+", default=RATES, help="peak learning rates")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, help="the task's own by default")
    options = parser.parse_args()
    it = task_named(options.task)
    data, parent, steps = it.data(it.held_out), sources.load(str(it.parent)), options.steps or it.steps
    for lr in options.lr:
        for seed in options.seeds:
            twin = sources.destination(parent, it.child, seed=seed)
            with one_thread():
                curve = race({"twin": twin}, data.train(seed), data.held_out, lr=lr, steps=steps, every=steps)["twin"]
            end = curve.scores[-1]
            print(f"lr {lr:g}, seed {seed}, {steps} steps: {end.loss:.4f} {it.loss}, {end.right:.2%} of {it.right}", flush=True)


if __name__ == "__main__":
    main()
