"""The training command up to the end of its first step, with the moments at which its stages began.

Started by `benchmarks.startup`, under torchrun or not, with the options of distmnist.train. Rank 0 writes the moments
(seconds of time.monotonic, which processes of one machine share) to the file named in FIRST_STEP as JSON.
"""

import json
import os
import sys
import time
from typing import Any

FILE = "FIRST_STEP"


def main() -> None:
    moments = {"imports": time.monotonic()}
    from distmnist import train
    from distmnist.distributed import world
    from distmnist.runs import job
    from distmnist.training.callbacks import Callback
    from distmnist.training.progress import Progress
    from distmnist.training.requests import Request

    def stamp(owner: Any, name: str, stage: str) -> None:
        original = getattr(owner, name)

        def stamped(*args: Any, **kwargs: Any) -> Any:
            moments.setdefault(stage, time.monotonic())
            return original(*args, **kwargs)

        setattr(owner, name, stamped)

    class FirstStep(Callback):
        def request(self) -> Request:
            moments.setdefault("first step", time.monotonic())
            return Request.NOTHING

        def on_step_end(self, progress: Progress) -> None:
            moments["done"] = time.monotonic()
            if os.environ.get("RANK", "0") == "0":
                with open(os.environ[FILE], "w") as file:
                    json.dump(moments, file)
            os._exit(0)

    stamp(job, "run", "meeting the others")
    stamp(job, "find_dataset", "digits")
    stamp(world.World, "connect", "process group")
    stamp(job, "fit", "building the net")
    sys.exit(train.main(callbacks=[FirstStep()]))


if __name__ == "__main__":
    main()
